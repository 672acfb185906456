"""Masks, fake quantization and layers whose sums are exact integers: what compression adds to the tape.

Formulas, and the arithmetic that all back ends share, are in `minicnn_kernels.reference.quantization`. The
modules that use these are transforms: `minicnn.nn.transform` and `minicnn.compress`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.arguments import check_tensors, fail
from minicnn.tensor import Tensor

__all__ = ["apply_mask", "fake_quantize", "quantized_linear", "round_ste", "scale_gradient"]


class Lattices(NamedTuple):
    """On what a quantized layer computes: scales of input, weight and result, and the result's range.

    x_scale 0-d, w_scale 0-d or (O,), None for a layer without weights; y_scale and y_zero_point 0-d, or None:
    no requantized result.
    """

    x_scale: Tensor
    w_scale: Tensor | None
    y_scale: Tensor | None
    y_zero_point: Tensor | None
    quant_min: int
    quant_max: int

    @property
    def bounds(self) -> dict[str, int]:
        """Options of the Functions."""
        return {"qmin": self.quant_min, "qmax": self.quant_max}


class ApplyMask(Function):
    """x where keep holds, 0 elsewhere. hard: what is masked gets no gradient; else all of it does."""

    def forward(self, x: Any, keep: Any, *, hard: bool) -> Any:
        self.keep = keep if hard else None
        return kernels.of(x).apply_mask(x, keep)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return grad if self.keep is None else kernels.of(grad).apply_mask(grad, self.keep), None


class FakeQuantize(Function):
    """x on the lattice of scale and zero_point; gradient by x straight through, by the scale as in LSQ."""

    def forward(self, x: Any, scale: Any, zero_point: Any, *, qmin: int, qmax: int, axis: int | None) -> Any:
        self.x, self.scale, self.zero_point, self.options = x, scale, zero_point, (qmin, qmax, axis)
        return kernels.of(x).fake_quantize_forward(x, scale, zero_point, *self.options)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k, needs = kernels.of(grad), self.needs_input_grad
        arguments = (grad, self.x, self.scale, self.zero_point, *self.options)
        return (
            k.fake_quantize_backward(*arguments) if needs[0] else None,
            k.fake_quantize_backward_scale(*arguments) if needs[1] else None,
            None,
        )


class ObservedFakeQuantize(FakeQuantize):
    """FakeQuantize after the range and the lattice have moved, in place, towards those of this x.

    low and high, shaped like scale, move by the share `momentum` (Jacob et al. 2018, section 3.1).
    """

    changes = (1, 2, 3, 4)

    def forward(  # type: ignore[override]
        self,
        x: Any,
        scale: Any,
        zero_point: Any,
        low: Any,
        high: Any,
        *,
        qmin: int,
        qmax: int,
        axis: int | None,
        momentum: float,
        symmetric: bool,
        power_of_two: bool,
    ) -> Any:
        k = kernels.of(x)
        k.move_range(low, high, *k.value_range(x, axis), momentum)
        lattice = k.choose_scale(low, high, qmin, qmax, symmetric, power_of_two)
        for present, new in zip((scale, zero_point), lattice, strict=True):
            k.copy_into(present, new)
        # Backward of this batch needs the lattice of this batch, whatever later ones do to the buffers.
        return super().forward(x, *lattice, qmin=qmin, qmax=qmax, axis=axis)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (*super().backward(grad), None, None)


class QuantizedConv2d(Function):
    """Convolution of a lattice with a lattice in exact integers, requantized if y_scale is given.

    The gradients are those of a convolution, straight through where the result did not saturate.
    """

    def forward(
        self,
        x: Any,
        weight: Any,
        bias: Any,
        x_scale: Any,
        w_scale: Any,
        y_scale: Any,
        y_zero_point: Any,
        *,
        qmin: int,
        qmax: int,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
    ) -> Any:
        self.x, self.weight, self.options = x, weight, (stride, padding, dilation, groups)
        k = kernels.of(x)
        y = k.quantized_conv2d_forward(
            x, weight, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax, *self.options
        )
        self.inside = _inside(y, y_scale, y_zero_point, qmin, qmax) if any(self.needs_input_grad) else None
        return y

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k, needs = kernels.of(grad), self.needs_input_grad
        if self.inside is not None:
            grad = k.apply_mask(grad, self.inside)
        return (
            k.conv2d_backward_input(grad, self.weight, self.x.shape, *self.options) if needs[0] else None,
            k.conv2d_backward_weight(grad, self.x, self.weight.shape, *self.options) if needs[1] else None,
            k.conv2d_backward_bias(grad) if needs[2] else None,
            *(None,) * 4,
        )


class QuantizedLinear(Function):
    """A dense layer in exact integers; see `QuantizedConv2d`."""

    def forward(
        self,
        x: Any,
        weight: Any,
        bias: Any,
        x_scale: Any,
        w_scale: Any,
        y_scale: Any,
        y_zero_point: Any,
        *,
        qmin: int,
        qmax: int,
    ) -> Any:
        self.x, self.weight = x, weight
        k = kernels.of(x)
        y = k.quantized_linear_forward(x, weight, bias, x_scale, w_scale, y_scale, y_zero_point, qmin, qmax)
        self.inside = _inside(y, y_scale, y_zero_point, qmin, qmax) if any(self.needs_input_grad) else None
        return y

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k, needs = kernels.of(grad), self.needs_input_grad
        if self.inside is not None:
            grad = k.apply_mask(grad, self.inside)
        return (
            k.linear_backward_input(grad, self.weight) if needs[0] else None,
            k.linear_backward_weight(grad, self.x) if needs[1] else None,
            k.linear_backward_bias(grad) if needs[2] else None,
            *(None,) * 4,
        )


class QuantizedAvgPool2d(Function):
    """Average pooling in exact integers, padded zeros included; see `QuantizedConv2d`."""

    def forward(
        self,
        x: Any,
        x_scale: Any,
        y_scale: Any,
        y_zero_point: Any,
        *,
        qmin: int,
        qmax: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        divisor: int,
    ) -> Any:
        self.x_shape, window = x.shape, (kernel_size, stride, padding)
        self.options = (*window, False, True, divisor)
        k = kernels.of(x)
        y = k.quantized_avg_pool2d_forward(x, x_scale, y_scale, y_zero_point, qmin, qmax, *window, divisor)
        self.inside = _inside(y, y_scale, y_zero_point, qmin, qmax) if any(self.needs_input_grad) else None
        return y

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        if self.inside is not None:
            grad = k.apply_mask(grad, self.inside)
        return k.avg_pool2d_backward(grad, self.x_shape, *self.options), None, None, None


def _inside(y: Any, scale: Any, zero_point: Any, qmin: int, qmax: int) -> Any:
    """Where a requantized y is not at the end of its range; None if it was not requantized."""
    if scale is None:
        return None
    k = kernels.of(y)
    zero = k.cast(zero_point, y.dtype)
    low, high = (k.mul(k.sub(k.full((), bound, y.dtype), zero), scale) for bound in (qmin, qmax))
    return k.logical_and(k.gt(y, low), k.lt(y, high))


class ScaleGradient(Function):
    """The same memory; the gradient is multiplied by `factor`."""

    is_view = True

    def forward(self, x: Any, *, factor: float) -> Any:
        self.factor = factor
        return x

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).mul(grad, self.factor),)


class RoundSTE(Function):
    """rint(x), halves to even; the gradient passes straight through."""

    def forward(self, x: Any) -> Any:
        return kernels.of(x).round(x)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (grad,)


def apply_mask(input: Tensor, keep: Tensor, *, hard: bool = True) -> Tensor:
    """`input` where `keep` (bool, its shape) holds, 0 elsewhere. hard: no gradient for what is masked.

    hard=False passes the whole gradient, so that what is masked can grow back (Guo et al. 2016, eq. 3).
    """
    check_tensors("apply_mask", input=input)
    if keep.shape != input.shape or keep.dtype.kind != "b":
        raise fail(
            "apply_mask", f"expected a bool mask of shape {input.shape}, got {keep.dtype} {keep.shape}"
        )
    return ApplyMask.apply(input, keep, hard=hard)


def fake_quantize(
    input: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int, axis: int | None = None
) -> Tensor:
    """(clamp(rint(input / scale) + zero_point, quant_min, quant_max) - zero_point) * scale.

    scale: float, positive, 0-d or (C,) along `axis`; zero_point: int32 of that shape. Gradient by input:
    straight through in the range, 0 outside; by scale: LSQ's (Esser et al. 2020, eq. 3).
    """
    check_tensors("fake_quantize", input=input, scale=scale)
    shape = () if axis is None else (input.shape[axis],)
    if scale.shape != shape or zero_point.shape != shape:
        raise fail(
            "fake_quantize",
            f"expected scale and zero_point of shape {shape} for axis={axis} of input {input.shape}, "
            f"got {scale.shape} and {zero_point.shape}",
        )
    if not quant_min <= 0 <= quant_max or quant_min == quant_max:
        raise fail("fake_quantize", f"expected quant_min <= 0 <= quant_max, got {quant_min} and {quant_max}")
    return FakeQuantize.apply(input, scale, zero_point, qmin=quant_min, qmax=quant_max, axis=axis)


def quantized_linear(input: Tensor, weight: Tensor, bias: Tensor | None, lattices: Lattices) -> Tensor:
    """linear(input, weight, bias) for values on `lattices`, in exact integers. input (..., in)."""
    check_tensors("quantized_linear", input=input, weight=weight, bias=bias)
    if input.ndim < 1 or input.shape[-1] != weight.shape[1]:
        raise fail("quantized_linear", f"expected input (..., {weight.shape[1]}), got shape {input.shape}")
    return QuantizedLinear.apply(input, weight, bias, *lattices[:4], **lattices.bounds)


def scale_gradient(input: Tensor, factor: float) -> Tensor:
    """`input` itself, whose gradient is multiplied by `factor`."""
    return ScaleGradient.apply(input, factor=factor)


def round_ste(input: Tensor) -> Tensor:
    """input rounded half to even, with the gradient of the identity (Bengio et al. 2013)."""
    return RoundSTE.apply(input)
