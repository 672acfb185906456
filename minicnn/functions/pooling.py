"""Max, average and adaptive pooling in one and two dimensions.

There is one pooling of each kind, of images; sequences are images of height 1. Formulas are in
`minicnn_kernels.reference.pooling`.
"""

from __future__ import annotations

from typing import Any

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.arguments import check_tensors, fail, integers
from minicnn.functions.quantization import Lattices, QuantizedAvgPool2d
from minicnn.tensor import Tensor
from minicnn_kernels.windows import pool_output_size

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "max_pool1d",
    "max_pool2d",
    "quantized_avg_pool",
]


class MaxPool2d(Function):
    """x (N, C, H, W) -> (N, C, H', W'), with return_indices also where in H W the maxima are."""

    def forward(
        self,
        x: Any,
        *,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        ceil_mode: bool,
        return_indices: bool,
    ) -> Any:
        k = kernels.of(x)
        self.x_shape, self.window = x.shape, (kernel_size, stride, padding, dilation)
        y, self.argmax = k.max_pool2d_forward(x, *self.window, ceil_mode)
        if not return_indices:
            return y
        return y, k.max_pool2d_indices(self.argmax, self.x_shape, *self.window)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).max_pool2d_backward(grad, self.argmax, self.x_shape, *self.window),)


class AvgPool2d(Function):
    """x (N, C, H, W) -> (N, C, H', W'). Options are pairs."""

    def forward(
        self,
        x: Any,
        *,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        ceil_mode: bool,
        count_include_pad: bool,
        divisor_override: int | None,
    ) -> Any:
        self.x_shape = x.shape
        self.options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
        return kernels.of(x).avg_pool2d_forward(x, *self.options)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).avg_pool2d_backward(grad, self.x_shape, *self.options),)


class AdaptiveAvgPool2d(Function):
    """x (N, C, H, W) -> (N, C, *output_size)."""

    def forward(self, x: Any, *, output_size: Any) -> Any:
        self.x_shape = x.shape
        return kernels.of(x).adaptive_avg_pool2d_forward(x, output_size)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).adaptive_avg_pool2d_backward(grad, self.x_shape),)


class AdaptiveMaxPool2d(Function):
    """x (N, C, H, W) -> (N, C, *output_size), and where in H W the maxima are."""

    def forward(self, x: Any, *, output_size: Any) -> Any:
        self.x_shape = x.shape
        y, self.indices = kernels.of(x).adaptive_max_pool2d_forward(x, output_size)
        return y, self.indices

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).adaptive_max_pool2d_backward(grad, self.indices, self.x_shape),)


def max_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of each window: (N, C, L) or (C, L) -> (..., L'). Arguments as for `max_pool2d`."""
    return _max_pool(
        "max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


def max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of each window: (N, C, H, W) or (C, H, W) -> (N, C, H', W') or (C, H', W').

    H' = (H + 2 padding - dilation (kh - 1) - 1) // stride + 1, in ceil_mode rounded up (but no window starts
    beyond the image). stride defaults to kernel_size. Padding never wins. return_indices: give also where the
    maxima are, int64, flat in H W. Raises ValueError for shapes and sizes that do not fit.
    """
    return _max_pool(
        "max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices
    )


def avg_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window: (N, C, L) or (C, L) -> (..., L'). Arguments as for `avg_pool2d`."""
    return _avg_pool("avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window: (N, C, H, W) or (C, H, W) -> (N, C, H', W') or (C, H', W').

    H' and ceil_mode as for `max_pool2d`. count_include_pad: padded zeros count as pixels. divisor_override:
    divide sums by this number instead. Raises ValueError for shapes and sizes that do not fit.
    """
    return _avg_pool(
        "avg_pool2d", 2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """The means of output_size windows that cover the sequence: (N, C, L) or (C, L)."""
    images, size, batched = _adaptive("adaptive_avg_pool1d", 1, input, output_size)
    return _from_images(AdaptiveAvgPool2d.apply(images, output_size=size), 1, batched)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """The means of windows that cover the image: (N, C, H, W) or (C, H, W) -> (..., *output_size).

    output_size: an int or a pair; None in it keeps that size. Window i begins at floor(i H / H') and ends
    before ceil((i + 1) H / H').
    """
    images, size, batched = _adaptive("adaptive_avg_pool2d", 2, input, output_size)
    return _from_images(AdaptiveAvgPool2d.apply(images, output_size=size), 2, batched)


def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The maxima of output_size windows that cover the sequence; with return_indices also where they are."""
    images, size, batched = _adaptive("adaptive_max_pool1d", 1, input, output_size)
    y, indices = AdaptiveMaxPool2d.apply(images, output_size=size)
    y = _from_images(y, 1, batched)
    return (y, _from_images(indices, 1, batched)) if return_indices else y


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """The maxima of the windows of `adaptive_avg_pool2d`; with return_indices also where, flat in H W."""
    images, size, batched = _adaptive("adaptive_max_pool2d", 2, input, output_size)
    y, indices = AdaptiveMaxPool2d.apply(images, output_size=size)
    y = _from_images(y, 2, batched)
    return (y, _from_images(indices, 2, batched)) if return_indices else y


def _max_pool(
    op: str,
    dims: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    images, batched = _as_images(op, dims, input)
    window = _window(op, dims, images, kernel_size, stride, padding, dilation, ceil_mode)
    result = MaxPool2d.apply(images, **window, ceil_mode=ceil_mode, return_indices=return_indices)
    if return_indices:
        return tuple(_from_images(part, dims, batched) for part in result)
    return _from_images(result, dims, batched)


def _avg_pool(
    op: str,
    dims: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    images, batched = _as_images(op, dims, input)
    window = _window(op, dims, images, kernel_size, stride, padding, 1, ceil_mode)
    del window["dilation"]
    if divisor_override is not None and not divisor_override:
        raise fail(op, "expected divisor_override other than 0")
    result = AvgPool2d.apply(
        images,
        **window,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )
    return _from_images(result, dims, batched)


def quantized_avg_pool(
    input: Tensor, lattices: Lattices, kernel_size: Any, stride: Any, padding: Any, divisor: int
) -> Tensor:
    """avg_pool1d or 2d (by the number of sizes) of values on `lattices`, in exact integers; zeros count."""
    dims = len(kernel_size)
    op = f"avg_pool{dims}d"
    images, batched = _as_images(op, dims, input)
    window = _window(op, dims, images, kernel_size, stride, padding, 1, False)
    del window["dilation"]
    scales = lattices.x_scale, lattices.y_scale, lattices.y_zero_point
    result = QuantizedAvgPool2d.apply(images, *scales, **lattices.bounds, **window, divisor=divisor)
    return _from_images(result, dims, batched)


def _adaptive(op: str, dims: int, input: Tensor, output_size: Any) -> tuple[Tensor, tuple[int, ...], bool]:
    images, batched = _as_images(op, dims, input)
    entries = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * dims
    if len(entries) == dims:  # else `integers` tells
        entries = tuple(
            n if entry is None else entry for n, entry in zip(images.shape[-dims:], entries, strict=True)
        )
    size = integers(op, "output_size", entries, dims, 1)
    return images, (1,) * (2 - dims) + size, batched


def _as_images(op: str, dims: int, input: Tensor) -> tuple[Tensor, bool]:
    """Input as (N, C, H, W), and whether it came with N. Raises ValueError for other dimensions."""
    check_tensors(op, input=input)
    if input.ndim not in (dims + 1, dims + 2) or 0 in input.shape[-dims:]:
        layout = "C, L" if dims == 1 else "C, H, W"
        raise fail(
            op, f"expected input (N, {layout}) or ({layout}) with pixels in it, got shape {input.shape}"
        )
    batched = input.ndim == dims + 2
    images = input if batched else input.unsqueeze(0)
    return (images.unsqueeze(2) if dims == 1 else images), batched


def _from_images(result: Tensor, dims: int, batched: bool) -> Tensor:
    if dims == 1:
        result = result.squeeze(2)
    return result if batched else result.squeeze(0)


def _window(
    op: str,
    dims: int,
    images: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
) -> dict[str, tuple[int, ...]]:
    """The window's options as pairs, checked against the images."""
    kernel_size = integers(op, "kernel_size", kernel_size, dims, 1)
    stride = kernel_size if stride is None else integers(op, "stride", stride, dims, 1)
    padding = integers(op, "padding", padding, dims, 0)
    dilation = integers(op, "dilation", dilation, dims, 1)
    span = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel_size, strict=True))
    if any(2 * p > n for p, n in zip(padding, span, strict=True)):
        raise fail(
            op,
            f"expected padding of at most half the kernel, got {padding} for a kernel of size {span}; "
            f"use pad() for more",
        )
    size = images.shape[-dims:]
    if min(pool_output_size(size, kernel_size, stride, padding, dilation, ceil_mode)) < 1:
        padded = tuple(n + 2 * p for n, p in zip(size, padding, strict=True))
        raise fail(
            op,
            f"kernel of size {span} is larger than the padded input {padded}; "
            f"use a smaller kernel, or pool less before it",
        )
    if dims == 1:
        kernel_size, stride, dilation = ((1, *option) for option in (kernel_size, stride, dilation))
        padding = (0, *padding)
    return {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
