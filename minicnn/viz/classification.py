"""What a classifier learnt: its curves over a training, whom it mixes up, and where it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minicnn.nn import Module
from minicnn.tensor import Tensor, tensor
from minicnn.viz import style
from minicnn.viz.network import eval_mode


def curves(
    lines: Mapping[str, Any],
    *,
    xlabel: str = "epoch",
    ylabel: str = "loss",
    title: str = "",
    logarithmic: bool = False,
    legend_beside: bool = False,
    figure: Any = None,
) -> Any:
    """Lines by name. A line is its values, one for each epoch from 1, or a pair (x, y). Returns a Figure.

    legend_beside: the names stand to the right of the lines, where many or long ones would hide some.
    """
    with style.sheet(figure, 9 if legend_beside else 7, 3.2) as figure:
        axes = figure.subplots()
        counted = not any(isinstance(line, tuple) for line in lines.values())
        axes.xaxis.get_major_locator().set_params(integer=counted)
        for i, (name, line) in enumerate(lines.items()):
            pair = isinstance(line, tuple)
            x, y = line if pair else (range(1, len(line) + 1), line)
            few = len(y) <= 40
            axes.plot(
                x,
                y,
                color=style.COLOURS[i % len(style.COLOURS)],
                marker=style.MARKERS[i % len(style.MARKERS)] if few else None,
                markersize=4.5,
                linewidth=1.6,
                label=name,
            )
        if logarithmic:
            axes.set_yscale("log")
            style.readable_logarithm(axes.yaxis)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.set_title(title)
        axes.grid(axis="y", color=style.PALE, linewidth=0.8)
        axes.set_axisbelow(True)
        if len(lines) > 1:
            axes.legend(**({"loc": "center left", "bbox_to_anchor": (1, 0.5)} if legend_beside else {}))
    return figure


def images(
    pictures: Any, titles: Sequence[str] | None = None, *, columns: int = 10, figure: Any = None
) -> Any:
    """Images (N, C, H, W) or (N, H, W) side by side, in grey or in colour, with titles. Returns a Figure."""
    pictures = style.numbers(pictures)
    if pictures.ndim == 4:
        pictures = pictures[:, 0] if pictures.shape[1] == 1 else np.moveaxis(pictures, 1, -1)
    columns = max(1, min(columns, len(pictures)))
    rows, side = -(-len(pictures) // columns), min(9 / columns, 1.8)  # a few pictures are not blown up
    with style.sheet(figure, side * columns, (side + (0.25 if titles else 0.05)) * rows + 0.1) as figure:
        for i, axes in enumerate(style.grid(figure, len(pictures), columns)):
            axes.imshow(pictures[i], cmap="gray")
            style.bare(axes)
            if titles:
                axes.set_title(titles[i], fontsize=8, fontweight="normal", loc="center", pad=3)
    return figure


def confusion(counts: Any, class_names: Sequence[str], *, figure: Any = None) -> Any:
    """The confusion matrix: rows are true classes, columns what was predicted, counts in the cells.

    counts: (classes, classes), as `Evaluation.confusion`. Returns a Figure.
    """
    counts, classes = style.numbers(counts), len(class_names)
    if counts.shape != (classes, classes):
        raise ValueError(
            f"confusion: expected counts ({classes}, {classes}), as there are {classes} class names, "
            f"got shape {counts.shape}"
        )
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with style.sheet(figure, 7, 5) as figure:
        axes = figure.subplots()
        # The square root lifts a few per cent out of white, where a linear scale would leave them.
        axes.imshow(np.sqrt(counts / totals), cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if counts[row, column] > 0.4 * totals[row, 0] else style.INK
            weight = "bold" if row == column else "normal"
            axes.text(
                column, row, f"{counts[row, column]}", ha="center", va="center", color=color, weight=weight
            )
        ticks = range(len(class_names))
        axes.set_xticks(ticks, class_names, rotation=40, ha="right", rotation_mode="anchor")
        right = np.diagonal(counts) / totals[:, 0]
        axes.set_yticks(
            ticks, [f"{name}  {share:.1%}" for name, share in zip(class_names, right, strict=True)]
        )
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true class, and how much of it is recognised")
    return figure


def saliency_maps(model: Module, images: Any, classes: Any) -> np.ndarray:
    """How much each pixel moves the score of a class: |d score / d pixel|, the largest over channels.

    images: (N, C, H, W). classes: (N,). Returns (N, H, W). In eval mode; no gradient of a parameter changes
    (Simonyan, Vedaldi and Zisserman 2014).
    """
    pixels = tensor(style.numbers(images), requires_grad=True)
    chosen = [int(number) for number in style.numbers(classes)]
    trainable = [p for p in model.parameters() if p.requires_grad]
    try:
        for p in trainable:
            p.requires_grad_(False)
        with eval_mode(model):
            scores: Tensor = model(pixels)
            scores[list(range(len(chosen))), chosen].sum().backward()
    finally:
        for p in trainable:
            p.requires_grad_(True)
    return np.abs(style.numbers(pixels.grad)).max(axis=1)


def saliency(
    model: Module, images: Any, classes: Any, titles: Sequence[str] | None = None, *, figure: Any = None
) -> Any:
    """Images and below each the pixels that move its class's score (`saliency_maps`). Returns a Figure."""
    maps = saliency_maps(model, images, classes)
    pictures = style.numbers(images)
    with style.sheet(figure, 9, 2 * 9 / len(maps) + 0.5) as figure:
        axes = figure.subplots(2, len(maps), squeeze=False)
        for i, (upper, lower) in enumerate(axes.T):
            picture = pictures[i]
            upper.imshow(picture[0] if len(picture) == 1 else np.moveaxis(picture, 0, -1), cmap="gray")
            lower.imshow(maps[i], cmap="inferno")
            if titles:
                upper.set_title(titles[i], fontsize=8, fontweight="normal", loc="center")
            for place in (upper, lower):
                style.bare(place)
    return figure
