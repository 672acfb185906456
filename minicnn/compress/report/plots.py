"""The plots of a report as SVG that can stand in an HTML page. Needs matplotlib.

How they look is said in `minicnn.viz.style`. Before is vermilion, after blue.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minicnn.compress.report.tables import points
from minicnn.viz import pareto, style

BEFORE, AFTER = style.VERMILION, style.BLUE
_COLUMNS = 4  # of histograms


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
    # The salt is the title, so that no two plots of a page have ids in common.
    settings = {"svg.hashsalt": title, "svg.fonttype": "none", "font.size": 10}
    with style.sheet(width=size[0], height=size[1], settings=settings) as figure:
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(
        r'\sxmlns(:\w+)?="[^"]*"', "", text
    )  # HTML knows SVG without being told where it is defined


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
    pareto(points(report), label="computed bytes", figure=figure)
