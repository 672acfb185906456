"""Signs and ternary values on the tape, and the layers that count bits where both factors are such.

Formulas and layouts are in `minicnn_kernels.reference.binary`. The transforms that use the first half are in
`minicnn.compress.binary`; the second half has no gradients: it is what deployment puts in the place of a
quantized layer (`minicnn.deploy.candidates`), with the same bits.
"""

from __future__ import annotations

from typing import Any

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.arguments import check_tensors, fail
from minicnn.tensor import Tensor

__all__ = ["binarize", "ternarize"]


class Binarize(Function):
    """scale * sign(x); the gradient passes straight through where |x| <= limit (None: everywhere)."""

    def forward(self, x: Any, scale: Any, *, axis: int | None, limit: float | None) -> Any:
        self.x, self.limit = None if limit is None else x, limit
        return kernels.of(x).binarize_forward(x, scale, axis)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        if self.x is not None:
            grad = kernels.of(grad).binarize_backward(grad, self.x, self.limit)
        return grad, None


class ObservedBinarize(Binarize):
    """Binarize after the scale was set, in place, to the mean of |x|."""

    changes = (1,)

    def forward(self, x: Any, scale: Any, *, axis: int | None, limit: float | None) -> Any:
        k = kernels.of(x)
        k.copy_into(scale, k.mean_magnitude(x, axis))
        return super().forward(x, scale, axis=axis, limit=limit)


class Ternarize(Function):
    """scale * sign(x) where |x| > threshold, else 0; the gradient passes straight through everywhere."""

    def forward(self, x: Any, threshold: Any, scale: Any, *, axis: int | None) -> Any:
        return kernels.of(x).ternarize_forward(x, threshold, scale, axis)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return grad, None, None


class ObservedTernarize(Ternarize):
    """Ternarize after threshold and scale were set, in place, to those that fit x (Li et al. 2016)."""

    changes = (1, 2)

    def forward(  # type: ignore[override]
        self, x: Any, threshold: Any, scale: Any, *, axis: int | None, factor: float
    ) -> Any:
        k = kernels.of(x)
        for present, new in zip((threshold, scale), k.ternary_scale(x, factor, axis), strict=True):
            k.copy_into(present, new)
        return super().forward(x, threshold, scale, axis=axis)


class BinaryLinear(Function):
    """A dense layer on signs, its weights in panels of bits; see `binary_linear_forward` of the kernels."""

    def forward(self, x: Any, weight_bits: Any, start: Any, factor: Any) -> Any:
        return kernels.of(x).binary_linear_forward(x, weight_bits, start, factor)


class TernaryLinear(Function):
    """The same with ternary weights."""

    def forward(self, x: Any, weight_bits: Any, start: Any, factor: Any) -> Any:
        return kernels.of(x).ternary_linear_forward(x, weight_bits, start, factor)


class BinaryConv2d(Function):
    """A convolution of signs, its weights in panels of bits; see `binary_conv2d_forward` of the kernels."""

    def forward(
        self,
        x: Any,
        weight_bits: Any,
        start: Any,
        factor: Any,
        *,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
    ) -> Any:
        window = kernel_size, stride, padding, dilation
        return kernels.of(x).binary_conv2d_forward(x, weight_bits, start, factor, *window)


class TernaryConv2d(Function):
    """The same with ternary weights."""

    def forward(
        self,
        x: Any,
        weight_bits: Any,
        start: Any,
        factor: Any,
        *,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
    ) -> Any:
        window = kernel_size, stride, padding, dilation
        return kernels.of(x).ternary_conv2d_forward(x, weight_bits, start, factor, *window)


def binarize(
    input: Tensor, scale: Tensor, axis: int | None = None, *, limit: float | None = 1.0, observe: bool = False
) -> Tensor:
    """scale where input >= 0, else -scale. scale: 0-d, or (C,) along `axis`.

    limit: the gradient passes where |input| is at most this, as through a hard tanh (Courbariaux et al. 2016,
    eq. 4); None: everywhere. observe: scale first becomes the mean of |input| (Rastegari et al. 2016, eq. 6).
    """
    check_tensors("binarize", input=input, scale=scale)
    _check_scale("binarize", input, scale, axis)
    op = ObservedBinarize if observe else Binarize
    return op.apply(input, scale, axis=axis, limit=limit)


def ternarize(
    input: Tensor,
    threshold: Tensor,
    scale: Tensor,
    axis: int | None = None,
    *,
    factor: float = 0.7,
    observe: bool = False,
) -> Tensor:
    """scale where input > threshold, -scale where it is below -threshold, else 0; gradient straight through.

    threshold, scale: 0-d, or (C,) along `axis`. observe: first threshold becomes `factor` times the mean of
    |input|, and scale the mean of what is above it (Li et al. 2016, eq. 6 and 7).
    """
    check_tensors("ternarize", input=input, threshold=threshold, scale=scale)
    for tensor in (threshold, scale):
        _check_scale("ternarize", input, tensor, axis)
    if observe:
        return ObservedTernarize.apply(input, threshold, scale, axis=axis, factor=factor)
    return Ternarize.apply(input, threshold, scale, axis=axis)


def _check_scale(function: str, input: Tensor, scale: Tensor, axis: int | None) -> None:
    shape = () if axis is None else (input.shape[axis],)
    if scale.shape != shape:
        raise fail(
            function,
            f"expected a scale of shape {shape} for axis={axis} of input {input.shape}, got {scale.shape}",
        )
