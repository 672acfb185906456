"""What compression does: weights, lattices, what layers bear, and which results are not beaten.

Colours are those of the reports: after is blue, before vermilion, what is beaten grey.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minicnn.nn import Module
from minicnn.viz import style


def weight_histograms(model: Module, *, bins: int = 61, columns: int = 4, figure: Any = None) -> Any:
    """The weights of each layer as it uses them: all of them in grey, those that are not zero in blue.

    Only tensors of two dimensions and more, so no biases. The counts' axis is cut where the nonzero ones end,
    for a pruned layer's zeros would leave nothing else to see. Returns a Figure.
    """
    weights = {
        f"{name}.weight".lstrip("."): style.numbers(module.weight)
        for name, module in model.named_modules()
        if getattr(module, "weight", None) is not None and module.weight.ndim > 1
    }
    if not weights:
        raise ValueError(f"weight_histograms: {type(model).__name__} has no weights of two dimensions")
    rows = -(-len(weights) // columns)
    with style.sheet(figure, 9, 2.1 * rows + 0.3) as figure:
        grid = style.grid(figure, len(weights), columns)
        for axes, (name, values) in zip(grid, weights.items(), strict=True):
            limit = float(np.abs(values).max()) or 1.0
            edges = np.linspace(-limit, limit, bins + 1)
            everything, _ = np.histogram(values, edges)
            nonzero, _ = np.histogram(values[values != 0], edges)
            axes.stairs(everything, edges, color=style.GREY, fill=True, alpha=0.35, label="all")
            axes.stairs(nonzero, edges, color=style.BLUE, linewidth=1.5, label="not zero")
            axes.set_ylim(0, 1.5 * max(nonzero.max(), 1))  # room for the legend
            axes.set_title(f"{name}\n{(values == 0).mean():.0%} zeros", fontsize=8.5)
            axes.set_yticks([])
            axes.tick_params(labelsize=8)
        grid[0].legend(fontsize=8, loc="upper left")
        figure.supxlabel("weight", fontsize=9)
        figure.supylabel("how many", fontsize=9)
    return figure


def quantization_grid(
    values: Any, scale: float, *, low: int, high: int, zero_point: int = 0, bins: int = 80, figure: Any = None
) -> Any:
    """The lattice scale (q - zero_point), q in low ... high, beside the values that are rounded to it.

    Left: the histogram of `values` over the lattice's points. Right: what each value becomes, and the error.
    Returns a Figure.
    """
    if not scale > 0 or low >= high:
        raise ValueError(
            f"quantization_grid: expected scale > 0 and low < high, got {scale}, {low} and {high}"
        )
    values = style.numbers(values).ravel()
    points = scale * (np.arange(low, high + 1) - zero_point)
    x = np.linspace(min(values.min(), points[0]), max(values.max(), points[-1]), 1001)
    rounded = scale * (np.clip(np.rint(x / scale) + zero_point, low, high) - zero_point)
    with style.sheet(figure, 9, 3.1) as figure:
        left, right = figure.subplots(1, 2)
        counts, edges = np.histogram(values, bins)
        left.stairs(counts, edges, fill=True, color=style.BLUE, alpha=0.5, label="values")
        left.vlines(
            points,
            0,
            counts.max(),
            color=style.VERMILION,
            linewidth=0.7,
            label=f"{len(points)} lattice points",
        )
        left.set_xlabel("value")
        left.set_ylabel("count")
        left.set_title("values and the lattice")
        left.legend(fontsize=8)
        right.plot(x, x, color=style.PALE, linewidth=1.5, label="the value itself")
        right.plot(x, rounded, color=style.BLUE, label="on the lattice")
        right.plot(x, rounded - x, color=style.VERMILION, linewidth=1, label="error")
        right.set_xlabel("value")
        right.set_title("rounded and saturated")
        right.legend(fontsize=8)
    return figure


def sensitivity(found: Any, *, figure: Any = None) -> Any:
    """Accuracy against the rate of pruning, a line for each layer. found: `compress.Sensitivity`.

    Returns a Figure.
    """
    with style.sheet(figure, 8, 4) as figure:
        axes = figure.subplots()
        axes.axhline(
            100 * found.baseline, color=style.GREY, linewidth=1, linestyle=":", label="nothing pruned"
        )
        for i, name in enumerate(dict.fromkeys(row.layer for row in found.rows)):
            rows = [row for row in found.rows if row.layer == name]
            axes.plot(
                [row.rate for row in rows],
                [100 * row.value for row in rows],
                color=style.COLOURS[i % len(style.COLOURS)],
                marker=style.MARKERS[i % len(style.MARKERS)],
                markersize=5,
                label=name,
            )
        axes.set_xlabel("share pruned, one layer at a time")
        axes.set_ylabel("accuracy, %")
        axes.legend(fontsize=9)
    return figure


def pareto(
    results: Mapping[str, Mapping[str, Any]], x: str = "bytes", *, label: str = "", figure: Any = None
) -> Any:
    """Accuracy against `x` (logarithmic); a line joins the results that no other beats in both.

    results: numbers by name, each with 'accuracy' (0 to 1) and `x`, of which less is better. label: of its
    axis. Returns a Figure.
    """
    front = unbeaten(results, x)
    with style.sheet(figure, 8, 4) as figure:
        axes = figure.subplots()
        axes.plot(
            [results[name][x] for name in front],
            [100 * results[name]["accuracy"] for name in front],
            color=style.BLUE,
            drawstyle="steps-post",
            linewidth=1,
            alpha=0.6,
        )
        for name, numbers in results.items():
            place = (numbers[x], 100 * numbers["accuracy"])
            axes.plot(*place, "o", color=style.BLUE if name in front else style.GREY, markersize=6)
        axes.set_xscale("log")
        axes.set_xlabel(label or x.replace("_", " "))
        axes.set_ylabel("accuracy, %")
        axes.margins(x=0.15, y=0.1)
        style.readable_logarithm(axes.xaxis)
        style.name_points(
            axes, {name: (numbers[x], 100 * numbers["accuracy"]) for name, numbers in results.items()}
        )
    return figure


def unbeaten(results: Mapping[str, Mapping[str, Any]], x: str) -> list[str]:
    """Names of the results than which no other is as good in accuracy and `x` and better in one; x rising."""
    front: list[str] = []
    for name in sorted(results, key=lambda name: (results[name][x], -results[name]["accuracy"])):
        own, last = results[name], results[front[-1]] if front else None
        better = last is None or own["accuracy"] > last["accuracy"]
        if better or (own["accuracy"], own[x]) == (last["accuracy"], last[x]):  # type: ignore[index]
            front.append(name)
    return front
