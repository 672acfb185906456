"""The plots of a report as SVG that can stand in an HTML page. Needs matplotlib.

Made without pyplot, as in `minicnn.training.pictures`. Before is vermilion, after blue (Okabe and Ito 2008).
"""

from __future__ import annotations

import functools
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.compress.report.choose import pareto
from minicnn.compress.report.tables import points
from minicnn.compress.sensitivity import Sensitivity

BEFORE, AFTER, OTHERS, _INK = "#D55E00", "#0072B2", "#777777", "#222222"
_COLUMNS = 4  # of histograms
STYLE: Any = {
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


def svg_plots(report: dict[str, Any]) -> dict[str, str]:
    """SVG by title. Raises ImportError that names the extra to install if matplotlib is missing."""
    layers = [layer for layer in report["after"]["layers"] if layer["histogram"]]
    plots: dict[str, tuple[Callable[..., None], tuple[float, float]]] = {
        "Bytes by layer": (_bytes, (9, 3.2)),
        "Weights, zeros left out": (_histograms, (9, 2.2 * -(-len(layers) // _COLUMNS))),
    }
    if "per_class" in report["after"]:
        plots["Accuracy by class"] = (_classes, (9, 3.2))
    if len(points(report)) > 1:
        plots["Accuracy against size"] = (_pareto, (9, 4))
    return {
        title: as_svg(functools.partial(draw, report=report), size, title)
        for title, (draw, size) in plots.items()
    }


def as_svg(draw: Callable[[Any], None], size: tuple[float, float], title: str) -> str:
    """What draw(figure) draws, as SVG without anything from outside. size: inches. Raises ImportError."""
    figure_class, context = matplotlib_figure()
    with context(STYLE | {"svg.hashsalt": title}):  # so that no two plots of a page have ids in common
        figure = figure_class(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(
        r'\sxmlns(:\w+)?="[^"]*"', "", text
    )  # HTML knows SVG without being told where it is defined


def matplotlib_figure() -> tuple[Any, Any]:
    """Matplotlib's Figure and rc_context, or ImportError that names the extra."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "plots need matplotlib, which is not installed; fix: pip install 'minicnn[plot]'"
        ) from None
    return Figure, matplotlib.rc_context


def bars(
    figure: Any,
    names: Sequence[str],
    before: Sequence[float],
    after: Sequence[float],
    labels: tuple[str, str] = ("before", "after"),
) -> Any:
    """Two bars for each name. Gives the axes."""
    axes, places = figure.subplots(), np.arange(len(names))
    axes.bar(places - 0.2, before, 0.38, color=BEFORE, label=labels[0])
    axes.bar(places + 0.2, after, 0.38, color=AFTER, label=labels[1])
    axes.set_xticks(places, names, rotation=30, ha="right")
    axes.legend()
    return axes


def _bytes(figure: Any, report: dict[str, Any]) -> None:
    after = {layer["name"]: layer["bytes"] for layer in report["after"]["layers"]}
    before = {layer["name"]: layer["bytes"] for layer in report["before"]["layers"]}
    axes = bars(figure, list(after), [before.get(name, 0) for name in after], list(after.values()))
    axes.set_yscale("log")
    axes.set_ylabel("computed bytes")


def _classes(figure: Any, report: dict[str, Any]) -> None:
    after, before = report["after"]["per_class"], report["before"]["per_class"]
    old, new = ([100 * (numbers[name] or 0) for name in after] for numbers in (before, after))
    axes = bars(figure, list(after), old, new)
    axes.set_ylim(max(0, min(*old, *new) - 10), 100)
    axes.set_ylabel("accuracy, %")


def _histograms(figure: Any, report: dict[str, Any]) -> None:
    layers = [layer for layer in report["after"]["layers"] if layer["histogram"]]
    before = {layer["name"]: layer["histogram"] for layer in report["before"]["layers"]}
    columns = min(len(layers), _COLUMNS)
    grid = figure.subplots(-(-len(layers) // columns), columns, squeeze=False)
    for axes in grid.flat[len(layers) :]:
        axes.set_axis_off()
    for axes, layer in zip(grid.flat, layers, strict=False):
        if before.get(layer["name"]):
            axes.stairs(*_steps(before[layer["name"]]), color=BEFORE, fill=True, alpha=0.4)
        axes.stairs(*_steps(layer["histogram"]), color=AFTER)
        axes.set_title(layer["name"], fontsize=10, loc="left")
        axes.set_yticks([])
        axes.tick_params(labelsize=8)


def _steps(histogram: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Counts and edges; without the bin of zero, which would hide all others of a pruned layer."""
    counts = np.array(histogram["counts"])
    counts[len(counts) // 2] = 0
    return counts, np.linspace(histogram["low"], histogram["high"], len(counts) + 1)


def _pareto(figure: Any, report: dict[str, Any]) -> None:
    plot_pareto(figure, points(report), label="computed bytes")


def plot_pareto(
    figure: Any, results: Mapping[str, Mapping[str, Any]], x: str = "bytes", label: str = ""
) -> None:
    """Accuracy against `x` (logarithmic), called `label`; a line joins the results that no other beats."""
    axes = figure.subplots()
    front = sorted(pareto(results, ("accuracy", x)), key=lambda name: results[name][x])
    axes.plot(
        [results[name][x] for name in front],
        [100 * results[name]["accuracy"] for name in front],
        color=AFTER,
        drawstyle="steps-post",
        linewidth=1,
        alpha=0.6,
    )
    for name, numbers in results.items():
        color = AFTER if name in front else OTHERS
        axes.plot(numbers[x], 100 * numbers["accuracy"], "o", color=color, markersize=6)
        axes.annotate(
            name,
            (numbers[x], 100 * numbers["accuracy"]),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=9,
        )
    axes.set_xscale("log")
    axes.set_xlabel(label or x)
    axes.set_ylabel("accuracy, %")
    axes.margins(x=0.15, y=0.1)


def save_sensitivity(path: Path, found: Sensitivity) -> None:
    """Accuracy against the rate, a line for each layer, as a picture. Raises ImportError as `svg_plots`."""
    figure_class, context = matplotlib_figure()
    with context(STYLE):
        figure = figure_class(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        axes.axhline(100 * found.baseline, color=OTHERS, linewidth=1, linestyle=":", label="nothing pruned")
        names = list(dict.fromkeys(row.layer for row in found.rows))
        for name, marker in zip(names, itertools.cycle("osD^vP*X<>")):  # told apart without colours, too
            rows = [row for row in found.rows if row.layer == name]
            values = [100 * row.value for row in rows]
            axes.plot([row.rate for row in rows], values, marker=marker, markersize=5, label=name)
        axes.set_xlabel("share pruned, one layer at a time")
        axes.set_ylabel("accuracy, %")
        axes.legend(fontsize=9)
        figure.savefig(path, dpi=120, facecolor="white")
