"""How many windows fit: the one size law of convolution and pooling, shared by every back end.

All arguments but ceil_mode are pairs (h, w). Callers check them; nothing here looks at arrays.
"""

from __future__ import annotations

Pair = tuple[int, int]


def conv_output_size(size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """(H', W') for size (H, W): H' = (H + 2 ph - dh (kh - 1) - 1) // sh + 1. Not positive if nothing fits."""
    return pool_output_size(size, kernel_size, stride, padding, dilation, False)


def pool_output_size(
    size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool
) -> Pair:
    """`conv_output_size`, and in ceil mode one more window if it starts before the right padding."""
    out_h, out_w = (
        _windows(*dimension, ceil_mode)
        for dimension in zip(size, kernel_size, stride, padding, dilation, strict=True)
    )
    return out_h, out_w


def _windows(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    steps = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return steps // stride + 1
    count = -(-steps // stride) + 1
    starts_outside = (count - 1) * stride >= size + padding  # beyond the image and its left padding
    return count - 1 if starts_outside else count
