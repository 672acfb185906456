"""im2col as a picture: how a convolution becomes one matrix product."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn.nn.functional import unfold
from minicnn.tensor import as_tensor
from minicnn.viz import style


def im2col(
    image: Any,
    kernel_size: int = 3,
    *,
    stride: int = 1,
    padding: int = 0,
    window: int = 0,
    figure: Any = None,
) -> Any:
    """An image with one window marked, and beside it the matrix whose rows are the windows.

    image: (H, W), one channel. window: number of the marked window, row by row. Values are written into the
    cells of images up to 8 pixels a side. Returns a Figure.
    """
    image = style.numbers(image).astype(np.float32)
    if image.ndim != 2:
        raise ValueError(f"im2col: expected one channel (H, W), got shape {image.shape}")
    matrix = unfold(as_tensor(image[None]), kernel_size, padding=padding, stride=stride).numpy().T
    padded = np.pad(image, padding)
    across = (padded.shape[1] - kernel_size) // stride + 1
    if not 0 <= window < len(matrix):
        raise ValueError(f"im2col: expected a window in 0 ... {len(matrix) - 1}, got {window}")
    top, left = window // across * stride, window % across * stride
    written = max(padded.shape) <= 8
    with style.sheet(figure, 9, 4.2) as figure:
        left_axes, right_axes = figure.subplots(1, 2, width_ratios=[1, 1.5])
        for axes, values in ((left_axes, padded), (right_axes, matrix)):
            axes.imshow(
                values,
                cmap="Blues",
                vmin=padded.min(),
                vmax=1.6 * padded.max(),
                aspect="equal" if written or axes is left_axes else "auto",
            )
            style.bare(axes)
            if written:
                for (row, column), value in np.ndenumerate(values):
                    axes.text(column, row, f"{value:g}", ha="center", va="center", fontsize=8)
        _frame(left_axes, left, top, kernel_size, kernel_size)
        _frame(right_axes, 0, window, matrix.shape[1], 1)
        pixels = f"{image.shape[0]} x {image.shape[1]}" + (f", padding {padding}" if padding else "")
        left_axes.set_title(f"image {pixels}")
        right_axes.set_title(f"im2col: {matrix.shape[0]} windows x {matrix.shape[1]} pixels")
        right_axes.set_ylabel("one row for each window")
        right_axes.set_xlabel("one column for each tap of the kernel")
    return figure


def _frame(axes: Any, left: float, top: float, width: float, height: float) -> None:
    from matplotlib.patches import Rectangle

    corner = (left - 0.5, top - 0.5)
    axes.add_patch(
        Rectangle(corner, width, height, fill=False, edgecolor=style.VERMILION, linewidth=2.5, clip_on=False)
    )
