"""Arithmetic of two operands: operators, powers, larger and smaller, limits, choices.

Operands broadcast as in NumPy and promote as `promotion.py` says; `_share` undoes the broadcasting in their
gradients. Functions of one operand are in `elementwise.py`, comparisons in `comparison.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.comparison import gt, lt
from minicnn.functions.elementwise import square, trunc
from minicnn.functions.promotion import floating, is_operand, operand, promote
from minicnn.tensor import Tensor, tensor_method

__all__ = [
    "add",
    "atan2",
    "clamp",
    "clip",
    "div",
    "divide",
    "floor_divide",
    "masked_fill",
    "maximum",
    "minimum",
    "mul",
    "multiply",
    "pow",
    "remainder",
    "sub",
    "subtract",
    "where",
]


def _shape(x: Any) -> tuple[int, ...]:
    return getattr(x, "shape", ())


def _share(grad: Any, shape: tuple[int, ...]) -> Any:
    """The part of `grad` that belongs to an operand of `shape`, which may have been broadcast."""
    return kernels.of(grad).sum_to(grad, shape)


def _operator(*names: str, swapped: bool = False) -> Callable[[Callable], Callable]:
    """Attach a binary function under operator names, which answer NotImplemented to foreign types."""

    def attach(function: Callable) -> Callable:
        def operator(self: Tensor, other: Any) -> Any:
            if not is_operand(other):
                return NotImplemented
            return function(other, self) if swapped else function(self, other)

        operator.__doc__ = function.__doc__
        tensor_method(*names)(operator)
        return function

    return attach


class Add(Function):
    """a + b."""

    def forward(self, a: Any, b: Any) -> Any:
        self.shapes = _shape(a), _shape(b)
        return kernels.of(a, b).add(a, b)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        wanted_a, wanted_b = self.needs_input_grad
        return (
            _share(grad, self.shapes[0]) if wanted_a else None,
            _share(grad, self.shapes[1]) if wanted_b else None,
        )


class Sub(Function):
    """a - b."""

    def forward(self, a: Any, b: Any) -> Any:
        self.shapes = _shape(a), _shape(b)
        return kernels.of(a, b).sub(a, b)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        wanted_a, wanted_b = self.needs_input_grad
        return (
            _share(grad, self.shapes[0]) if wanted_a else None,
            kernels.of(grad).neg(_share(grad, self.shapes[1])) if wanted_b else None,
        )


class Mul(Function):
    """a b."""

    def forward(self, a: Any, b: Any) -> Any:
        wanted_a, wanted_b = self.needs_input_grad
        self.shapes = _shape(a), _shape(b)
        self.a, self.b = a if wanted_b else None, b if wanted_a else None
        return kernels.of(a, b).mul(a, b)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        wanted_a, wanted_b = self.needs_input_grad
        k = kernels.of(grad)
        return (
            _share(k.mul(grad, self.b), self.shapes[0]) if wanted_a else None,
            _share(k.mul(grad, self.a), self.shapes[1]) if wanted_b else None,
        )


class Div(Function):
    """a / b."""

    def forward(self, a: Any, b: Any) -> Any:
        self.shapes = _shape(a), _shape(b)
        self.b = b
        result = kernels.of(a, b).div(a, b)
        self.result = result if self.needs_input_grad[1] else None
        return result

    def backward(self, grad: Any) -> tuple[Any, ...]:
        wanted_a, wanted_b = self.needs_input_grad
        k = kernels.of(grad)
        share = k.div(grad, self.b)
        return (
            _share(share, self.shapes[0]) if wanted_a else None,
            _share(k.neg(k.mul(share, self.result)), self.shapes[1]) if wanted_b else None,
        )


class Pow(Function):
    """a to the power b. As in PyTorch, 0 ** 0 has gradient 0 in both."""

    def forward(self, a: Any, b: Any) -> Any:
        k = kernels.of(a, b)
        self.a = k.full((), a, b.dtype) if isinstance(a, (int, float)) else a
        self.b = b
        self.result = k.pow(a, b)
        return self.result

    def backward(self, grad: Any) -> tuple[Any, ...]:
        wanted_a, wanted_b = self.needs_input_grad
        a, b = self.a, self.b
        k = kernels.of(grad)
        grad_a = grad_b = None
        if wanted_a and isinstance(b, (int, float)):
            grad_a = k.mul(grad, k.mul(k.pow(a, b - 1), b) if b else 0)
        elif wanted_a:
            slope = k.mul(b, k.pow(a, k.sub(b, 1)))
            grad_a = _share(k.mul(grad, k.where(k.eq(b, 0), 0.0, slope)), self.a.shape)
        if wanted_b:
            slope = k.mul(self.result, k.log(a))
            nothing = k.logical_and(k.eq(a, 0), k.ge(b, 0))  # 0 times minus infinity
            grad_b = _share(k.mul(grad, k.where(nothing, 0.0, slope)), self.b.shape)
        return grad_a, grad_b


class Maximum(Function):
    """The larger of both. At a tie each gets half of the gradient."""

    def forward(self, a: Any, b: Any) -> Any:
        self.a, self.b = a, b
        return kernels.of(a, b).maximum(a, b)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        return _chosen(self, grad, k.lt(self.a, self.b), k.gt(self.a, self.b))


class Minimum(Function):
    """The smaller of both. At a tie each gets half of the gradient."""

    def forward(self, a: Any, b: Any) -> Any:
        self.a, self.b = a, b
        return kernels.of(a, b).minimum(a, b)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        return _chosen(self, grad, k.gt(self.a, self.b), k.lt(self.a, self.b))


def _chosen(node: Maximum | Minimum, grad: Any, a_lost: Any, b_lost: Any) -> tuple[Any, ...]:
    wanted_a, wanted_b = node.needs_input_grad
    k = kernels.of(grad)
    grad = k.where(k.eq(node.a, node.b), k.mul(grad, 0.5), grad)
    return (
        _share(k.where(a_lost, 0.0, grad), _shape(node.a)) if wanted_a else None,
        _share(k.where(b_lost, 0.0, grad), _shape(node.b)) if wanted_b else None,
    )


class Atan2(Function):
    """The angle of the point (b, a)."""

    def forward(self, a: Any, b: Any) -> Any:
        self.a, self.b = a, b
        return kernels.of(a, b).atan2(a, b)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        wanted_a, wanted_b = self.needs_input_grad
        a, b = self.a, self.b
        k = kernels.of(grad)
        share = k.div(grad, k.add(k.square(a), k.square(b)))
        return (
            _share(k.mul(share, b), a.shape) if wanted_a else None,
            _share(k.neg(k.mul(share, a)), b.shape) if wanted_b else None,
        )


class FloorDivide(Function):
    """a / b rounded down: flat almost everywhere, so the gradient is 0."""

    def forward(self, a: Any, b: Any) -> Any:
        return kernels.of(a, b).floor_divide(a, b)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return None, None


class Remainder(Function):
    """a - b floor(a / b)."""

    def forward(self, a: Any, b: Any) -> Any:
        self.a, self.b = a, b
        return kernels.of(a, b).remainder(a, b)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        wanted_a, wanted_b = self.needs_input_grad
        k = kernels.of(grad)
        grad_b = None
        if wanted_b:
            grad_b = _share(k.neg(k.mul(grad, k.floor_divide(self.a, self.b))), self.b.shape)
        return _share(grad, self.a.shape) if wanted_a else None, grad_b


class Where(Function):
    """a where the condition is true, b elsewhere."""

    def forward(self, condition: Any, a: Any, b: Any) -> Any:
        self.condition = condition
        self.shapes = _shape(a), _shape(b)
        return kernels.of(a, b).where(condition, a, b)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        _, wanted_a, wanted_b = self.needs_input_grad
        k = kernels.of(grad)
        return (
            None,
            _share(k.where(self.condition, grad, 0.0), self.shapes[0]) if wanted_a else None,
            _share(k.where(self.condition, 0.0, grad), self.shapes[1]) if wanted_b else None,
        )


@_operator("__add__")
@_operator("__radd__", swapped=True)
@tensor_method()
def add(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """input + alpha * other."""
    return Add.apply(*promote(input, other if alpha == 1 else mul(other, alpha), "add"))


@_operator("__sub__")
@_operator("__rsub__", swapped=True)
@tensor_method("sub", "subtract")
def sub(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """input - alpha * other."""
    return Sub.apply(*promote(input, other if alpha == 1 else mul(other, alpha), "sub"))


@_operator("__mul__", "__rmul__")
@tensor_method("mul", "multiply")
def mul(input: Any, other: Any) -> Tensor:
    """input * other."""
    return Mul.apply(*promote(input, other, "mul"))


@_operator("__truediv__")
@_operator("__rtruediv__", swapped=True)
@tensor_method("div", "divide")
def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """input / other, whole numbers as float32.

    rounding_mode: None, "trunc" (towards zero) or "floor"; with these whole numbers stay whole.
    Raises ValueError for another mode.
    """
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode not in (None, "trunc"):
        raise ValueError(f"div: expected rounding_mode None, 'trunc' or 'floor', got {rounding_mode!r}")
    a, b = promote(input, other, "div")
    whole = a if isinstance(a, Tensor) else b
    if whole.dtype.kind != "f":
        a, b = (floating(x, "div") if isinstance(x, Tensor) else x for x in (a, b))
    quotient = Div.apply(a, b)
    return quotient if rounding_mode is None else trunc(quotient).to(whole.dtype)


@_operator("__floordiv__")
@_operator("__rfloordiv__", swapped=True)
@tensor_method()
def floor_divide(input: Any, other: Any) -> Tensor:
    """input / other, rounded down."""
    return FloorDivide.apply(*promote(input, other, "floor_divide"))


@_operator("__mod__")
@_operator("__rmod__", swapped=True)
@tensor_method()
def remainder(input: Any, other: Any) -> Tensor:
    """input - other * floor(input / other): has the sign of `other`."""
    return Remainder.apply(*promote(input, other, "remainder"))


@_operator("__pow__")
@_operator("__rpow__", swapped=True)
@tensor_method()
def pow(input: Any, exponent: Any) -> Tensor:
    """input to the power `exponent`."""
    if isinstance(input, Tensor) and isinstance(exponent, (int, float)) and exponent == 2:
        return square(promote(input, exponent, "pow")[0])
    return Pow.apply(*promote(input, exponent, "pow"))


@tensor_method()
def maximum(input: Any, other: Any) -> Tensor:
    """The larger of both, element by element; NaN wins."""
    return Maximum.apply(*promote(input, other, "maximum"))


@tensor_method()
def minimum(input: Any, other: Any) -> Tensor:
    """The smaller of both, element by element; NaN wins."""
    return Minimum.apply(*promote(input, other, "minimum"))


@tensor_method("atan2", "arctan2")
def atan2(input: Any, other: Any) -> Tensor:
    """The angle of the point (other, input), in (-pi, pi]."""
    a, b = promote(floating(input, "atan2"), other, "atan2")
    return Atan2.apply(a, b)


def where(condition: Any, input: Any, other: Any) -> Tensor:
    """`input` where `condition` is true, `other` elsewhere; all three broadcast."""
    condition = operand(condition, "where")
    if not isinstance(condition, Tensor) or condition.dtype.kind != "b":
        raise TypeError(f"where: expected a boolean tensor as condition, got {_kind(condition)}")
    return Where.apply(condition, *promote(input, other, "where"))


@tensor_method("where")
def _where(self: Tensor, condition: Any, other: Any) -> Tensor:
    """`self` where `condition` is true, `other` elsewhere."""
    return where(condition, self, other)


@tensor_method()
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`input` with `value` where `mask` is true; the type stays that of `input`."""
    if isinstance(value, Tensor):
        value = value.to(input.dtype)
    return where(mask, value, input)


def _kind(x: Any) -> str:
    return f"{x.dtype}" if isinstance(x, Tensor) else type(x).__name__


# -- limits ---------------------------------------------------------------------------------------


class Clamp(Function):
    """Limited to [min, max]; on the limits the gradient still passes."""

    def forward(self, x: Any, *, min: float | None, max: float | None) -> Any:
        self.x, self.limits = x, (min, max)
        return kernels.of(x).clamp(x, min, max)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        low, high = self.limits
        k = kernels.of(grad)
        if low is not None:
            grad = k.where(k.ge(self.x, low), grad, 0.0)
        if high is not None:
            grad = k.where(k.le(self.x, high), grad, 0.0)
        return (grad,)


@tensor_method("clamp", "clip")
def clamp(input: Any, min: Any = None, max: Any = None) -> Tensor:
    """`input` limited to [min, max], each a number, a tensor or None; where they cross, `max` wins.

    Raises ValueError if both are None.
    """
    if min is None and max is None:
        raise ValueError("clamp: expected min, max or both, got neither")
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        if min is not None:
            input = where(lt(input, min), min, input)
        if max is not None:
            input = where(gt(input, max), max, input)
        return input
    input = operand(input, "clamp")
    whole = all(isinstance(limit, int) or limit is None for limit in (min, max))
    return Clamp.apply(input if whole else floating(input, "clamp"), min=min, max=max)


clip, divide, multiply, subtract = clamp, div, mul, sub
