"""The picture of a training: learning curves, confusion matrix, and the worst mistakes. Needs matplotlib.

How it looks, and the confusion matrix, are those of `minicnn.viz`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from minicnn.training.metrics import Evaluation, History
from minicnn.viz import confusion, style

_ROWS, _COLUMNS = 4, 5  # of the worst mistakes


def worst_mistakes(probabilities: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of up to `count` images classified wrong, the surest mistake first.

    probabilities: (N, C). labels: (N,) true classes.
    """
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    certainty = probabilities[wrong, predicted[wrong]]
    return wrong[np.argsort(-certainty, kind="stable")[:count]]


def save_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    history: History,
    evaluation: Evaluation,
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    watched: str = "validation",
) -> None:
    """Write the picture as PNG (or what the path's ending says).

    evaluation: with a confusion matrix. images: (N, C, H, W) in [0, 1] or uint8, as a person should see
    them. labels: (N,). probabilities: (N, classes). watched: what the history's validation columns are of.
    Raises ImportError that names the extra to install if matplotlib is missing.
    """
    with style.sheet(width=13, height=11.2) as figure:
        figure.get_layout_engine().set(h_pad=0.08, w_pad=0.08, hspace=0.03)
        figure.suptitle(title, fontsize=14, fontweight="bold")
        upper, lower = figure.subfigures(2, 1, height_ratios=[1, 2])
        loss, accuracy = upper.subplots(1, 2)
        _curves(loss, history, "loss", "Loss", watched)
        _curves(accuracy, history, "accuracy", "Accuracy, %", watched, scale=100)
        left, right = lower.subfigures(1, 2, width_ratios=[1.04, 1])
        _confusion(left, evaluation, class_names)
        _mistakes(right, images, labels, probabilities, class_names)
        figure.savefig(path, dpi=120, facecolor="white")


def _curves(axes: Any, history: History, column: str, title: str, watched: str, scale: float = 1) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = history["epoch"]
    lines = [(column, "training", style.BLUE, "o"), (f"validation_{column}", watched, style.VERMILION, "s")]
    lines = [line for line in lines if line[0] in history]
    lines.sort(key=lambda line: -history[line[0]][-1])
    for (name, label, color, marker), side in zip(lines, ("bottom", "top"), strict=False):
        values = scale * np.array(history[name])
        axes.plot(epochs, values, color=color, marker=marker, markersize=5, linewidth=1.8, label=label)
        axes.annotate(  # the upper line's number above its end, the lower one's below: they cannot collide
            f"{values[-1]:.{1 if scale > 1 else 3}f}",
            (epochs[-1], values[-1]),
            xytext=(7, 1 if side == "bottom" else -1),
            textcoords="offset points",
            va=side,
            color=color,
            fontweight="bold",
        )
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.set_xlim(epochs[0] - 0.3, epochs[-1] + 0.06 * len(epochs) + 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color=style.PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(loc="best")


def _confusion(figure: Any, evaluation: Evaluation, class_names: Sequence[str]) -> None:
    confusion(evaluation.counts, class_names, figure=figure)
    title = f"{evaluation.accuracy:.2%} of {evaluation.images:,} test images are recognised"
    figure.suptitle(title, fontsize=11, weight="bold")


def _mistakes(
    figure: Any,
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
) -> None:
    figure.suptitle(
        "The worst mistakes: true class, and what the model was sure of", fontsize=11, weight="bold"
    )
    chosen = worst_mistakes(probabilities, labels, _ROWS * _COLUMNS)
    grid = figure.subplots(_ROWS, _COLUMNS)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, index in zip(grid.flat, chosen, strict=False):
        image = np.moveaxis(images[index], 0, -1)
        axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray")
        predicted = probabilities[index].argmax()
        axes.set_title(class_names[labels[index]], fontsize=9, color=style.BLUE, loc="center", pad=3)
        axes.text(
            0.5,
            -0.05,
            f"{class_names[predicted]}\n{probabilities[index, predicted]:.1%}",
            transform=axes.transAxes,
            ha="center",
            va="top",
            color=style.VERMILION,
            fontsize=9,
        )
