"""Borders and sizes of images: padding, resampling, channels into pixels.

`pad` takes any tensor, in PyTorch's spelling with the last dimension first; the others take (N, C, H, W).
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from minicnn.functions.arguments import check_tensors, fail, integers, one_of
from minicnn.functions.moving import Pad
from minicnn.tensor import Tensor

__all__ = ["interpolate", "pad", "pixel_shuffle", "pixel_unshuffle"]


def pad(input: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    """Elements added around dimensions: pad = (left, right, top, bottom, ...), the last dimension first.

    mode: 'constant' (filled with `value`, 0 by default; negative counts cut off), 'reflect' (mirrored without
    the edge), 'replicate' (the edge repeated) or 'circular'. Raises ValueError for counts that do not fit.
    """
    one_of("pad", "mode", mode, ("constant", "reflect", "replicate", "circular"))
    try:
        counts = tuple(operator.index(count) for count in pad)
    except TypeError:
        raise fail("pad", f"expected pad to be a sequence of integers, got {pad!r}") from None
    if len(counts) % 2 or len(counts) > 2 * input.ndim:
        raise fail("pad", f"expected two counts for each of up to {input.ndim} dimensions, got {counts}")
    given = tuple(zip(counts[::2], counts[1::2], strict=True))[::-1]
    widths = ((0, 0),) * (input.ndim - len(given)) + given
    for size, (before, after) in zip(input.shape, widths, strict=True):
        if before == after == 0:
            continue
        if mode == "constant":
            if size + before + after < 0 or min(before, after) < -size:
                raise fail("pad", f"{(before, after)} cuts off more than there is in shape {input.shape}")
            continue
        limit = {"reflect": size - 1, "circular": size, "replicate": math.inf if size else 0}[mode]
        if min(before, after) < 0 or max(before, after) > limit:
            raise fail(
                "pad",
                f"expected counts from 0 to {limit} in mode {mode!r} for size {size}, got {(before, after)}",
            )
    if mode != "constant" and value:
        raise fail("pad", f"value is for mode 'constant', got mode {mode!r}")
    return Pad.apply(input, pad=widths, mode=mode, value=0.0 if value is None else value)


def interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """Images (N, C, H, W) resampled to `size`, or to floor(scale_factor times theirs); (N, C, L) likewise.

    mode: 'nearest', 'linear' for (N, C, L), 'bilinear' for images. align_corners (linear modes): whether
    corner pixels keep their places, instead of corners of pixels. Raises ValueError for what does not fit.
    """
    op = "interpolate"
    check_tensors(op, input=input)
    if input.ndim not in (3, 4) or 0 in input.shape[2:]:
        raise fail(op, f"expected input (N, C, L) or (N, C, H, W) with pixels in it, got shape {input.shape}")
    dims = input.ndim - 2
    one_of(op, "mode", mode, ("nearest", "linear" if dims == 1 else "bilinear"))
    if align_corners is not None and mode == "nearest":
        raise fail(op, "align_corners is for the linear modes; leave it out with mode='nearest'")
    if (size is None) == (scale_factor is None):
        raise fail(op, "expected size or scale_factor, one of them")
    scales: tuple[float, ...]
    if size is not None:
        sizes = integers(op, "size", size, dims, 1)
        scales = tuple(n / out for n, out in zip(input.shape[2:], sizes, strict=True))
    else:
        factors = tuple(scale_factor) if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * dims
        if len(factors) != dims or not all(factor > 0 for factor in factors):
            raise fail(op, f"expected scale_factor above 0, or {dims} of them, got {scale_factor!r}")
        sizes = tuple(math.floor(n * factor) for n, factor in zip(input.shape[2:], factors, strict=True))
        if min(sizes) < 1:
            raise fail(op, f"scale_factor {scale_factor} leaves nothing of shape {input.shape}")
        scales = tuple(1 / factor for factor in factors)
    result = input
    for axis, (out, scale) in enumerate(zip(sizes, scales, strict=True), start=2):
        n = input.shape[axis]
        if mode == "nearest":
            index = [min(math.floor(i * scale), n - 1) for i in range(out)]
            result = result[(slice(None),) * axis + (np.array(index),)]
        else:
            weights = np.array(_linear_weights(n, out, scale, bool(align_corners)), input.dtype)
            moved = Tensor(weights).to(device=input.device)
            result = result @ moved.T if axis == input.ndim - 1 else moved @ result
    return result


def _linear_weights(n: int, out: int, scale: float, align_corners: bool) -> list[list[float]]:
    """(out, n): each output as the weighted mean of the two inputs around it."""
    rows = []
    for i in range(out):
        if align_corners:
            position = i * (n - 1) / (out - 1) if out > 1 else 0.0
        else:
            position = max((i + 0.5) * scale - 0.5, 0.0)
        left = min(int(position), n - 1)
        right = min(left + 1, n - 1)
        row = [0.0] * n
        row[left] += 1 - (position - left)
        row[right] += position - left
        rows.append(row)
    return rows


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(..., C r r, H, W) -> (..., C, H r, W r): channels become blocks of r x r pixels (Shi et al. 2016)."""
    op = "pixel_shuffle"
    (r,) = integers(op, "upscale_factor", upscale_factor, 1, 1)
    if input.ndim < 3 or input.shape[-3] % (r * r):
        raise fail(op, f"expected input (..., C*{r * r}, H, W), got shape {input.shape}")
    *batch, channels, h, w = input.shape
    lead = len(batch)
    blocks = input.reshape(*batch, channels // (r * r), r, r, h, w)
    order = (*range(lead), lead, lead + 3, lead + 1, lead + 4, lead + 2)
    return blocks.permute(*order).reshape(*batch, channels // (r * r), h * r, w * r)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(..., C, H r, W r) -> (..., C r r, H, W), the reverse of `pixel_shuffle`."""
    op = "pixel_unshuffle"
    (r,) = integers(op, "downscale_factor", downscale_factor, 1, 1)
    if input.ndim < 3 or input.shape[-2] % r or input.shape[-1] % r:
        raise fail(op, f"expected input (..., C, H*{r}, W*{r}), got shape {input.shape}")
    *batch, channels, h, w = input.shape
    lead = len(batch)
    blocks = input.reshape(*batch, channels, h // r, r, w // r, r)
    order = (*range(lead), lead, lead + 2, lead + 4, lead + 1, lead + 3)
    return blocks.permute(*order).reshape(*batch, channels * r * r, h // r, w // r)
