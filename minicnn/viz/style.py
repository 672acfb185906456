"""How every picture of the project looks: colours, type, and the sheet that it is drawn on. Needs matplotlib.

Figures are made without pyplot, so that no window opens and no global state is touched. The colours are told
apart by every kind of eye (Okabe and Ito 2008); lines differ in their marks, too.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

BLUE, VERMILION, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7"
INK, GREY, PALE = "#222222", "#777777", "#D9D9D9"
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, GREY)
MARKERS = "osD^vP*X<>"
STYLE: Any = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.edgecolor": "white",
    "legend.framealpha": 0.85,
}


def _matplotlib() -> tuple[Any, Any]:
    """The class of our figures, and matplotlib's rc_context."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "plots need matplotlib, which is not installed; fix: pip install 'minicnn[plot]'"
        ) from None
    return _picture(Figure), matplotlib.rc_context


@functools.cache
def _picture(base: Any) -> Any:
    """A subclass of matplotlib's Figure that a notebook shows by itself."""

    class Picture(base):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=80, facecolor="white", bbox_inches="tight")
            return buffer.getvalue()

    return Picture


@contextlib.contextmanager
def sheet(
    figure: Any = None, width: float = 9, height: float = 3, settings: Mapping[str, Any] | None = None
) -> Iterator[Any]:
    """A new figure of this size in inches to draw on, or `figure` itself (one, or part of one), in our style.

    settings: further ones of matplotlib, in force within the block, as the style is. Raises ImportError
    that names the extra to install if matplotlib is missing.
    """
    figure_class, context = _matplotlib()
    with context(STYLE | dict(settings or {})):
        yield figure_class(figsize=(width, height), layout="constrained") if figure is None else figure


def grid(figure: Any, count: int, columns: int) -> list[Any]:
    """Axes for `count` pictures, row by row; the places that are left over are blank."""
    columns = min(columns, count)
    axes = figure.subplots(-(-count // columns), columns, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.set_axis_off()
    return list(axes[:count])


def readable_logarithm(axis: Any) -> None:
    """Ticks of a logarithmic axis as plain numbers, where powers of ten would be too few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    if high < 300 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_formatter(NullFormatter())


def name_points(axes: Any, points: Mapping[str, tuple[float, float]], *, size: float = 9) -> None:
    """Names beside points (x, y), each where it covers no other name and no point, as far as there is room.

    To be called when scales and limits are final. Sizes are estimated, for nothing has been drawn yet.
    """
    box = axes.figure.bbox
    inside = 0.85 * 72 * np.array([box.width, box.height]) / axes.figure.dpi  # of the axes, in points
    to_axes = axes.transScale + axes.transLimits
    centres = {name: inside * to_axes.transform(point) for name, point in points.items()}
    covered = [(x - 4, y - 4, x + 4, y + 4) for x, y in centres.values()]
    covered.append((-1e4, -1e4, 0, 1e4))  # the axis and its numbers
    for name, (x, y) in sorted(centres.items(), key=lambda named: -named[1][1]):
        width = 0.55 * size * len(name)
        tried: list[Any] = []
        for up in (4, -size - 3, size + 6, -2 * size - 5):
            for right in (6, -6):
                left, low = x + right - (width if right < 0 else 0), y + up
                new = (left, low, left + width, low + size)
                tried.append((sum(_overlap(new, old) for old in covered), len(tried), right, up, new))
        _, _, right, up, new = min(tried)
        covered.append(new)
        axes.annotate(
            name, points[name], xytext=(right, up), textcoords="offset points", fontsize=size,
            ha="left" if right > 0 else "right",
        )  # fmt: skip


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def bare(axes: Any) -> None:
    """Axes without ticks and frame, for images."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def numbers(values: Any) -> np.ndarray:
    """A NumPy array of a Tensor (which may require a gradient), an array or a list."""
    return np.asarray(values.detach() if hasattr(values, "detach") else values)
