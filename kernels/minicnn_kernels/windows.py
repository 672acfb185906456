"""How many windows fit: the one size law of convolution and pooling, shared by every back end.

All arguments but ceil_mode have one entry per spatial dimension. Callers check them; no arrays here.
"""

from __future__ import annotations

from collections.abc import Sequence

Sizes = Sequence[int]


def conv_output_size(
    size: Sizes, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> tuple[int, ...]:
    """H' = (H + 2 padding - dilation (kernel - 1) - 1) // stride + 1; not positive if no window fits."""
    return pool_output_size(size, kernel_size, stride, padding, dilation, False)


def pool_output_size(
    size: Sizes, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, ceil_mode: bool
) -> tuple[int, ...]:
    """`conv_output_size`, and in ceil mode one more window if it starts before the right padding."""
    dimensions = zip(size, kernel_size, stride, padding, dilation, strict=True)
    return tuple(_windows(*dimension, ceil_mode) for dimension in dimensions)


def _windows(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    steps = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return steps // stride + 1
    count = -(-steps // stride) + 1
    starts_outside = (count - 1) * stride >= size + padding  # beyond the image and its left padding
    return count - 1 if starts_outside else count
