"""Functions of one operand, element by element: roots, exponentials, angles, rounding.

Whole numbers become float32 where the result has fractions. Two operands meet in `arithmetic.py`,
comparisons are in `comparison.py`, activations in `activation.py`.
"""

from __future__ import annotations

import math
from typing import Any

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.promotion import floating, operand
from minicnn.tensor import Tensor, tensor_method

__all__ = [
    "abs",
    "absolute",
    "ceil",
    "cos",
    "erf",
    "exp",
    "expm1",
    "floor",
    "log",
    "log1p",
    "log2",
    "neg",
    "negative",
    "reciprocal",
    "round",
    "rsqrt",
    "sign",
    "sin",
    "sqrt",
    "square",
    "tan",
    "trunc",
]


class Neg(Function):
    """-x."""

    def forward(self, x: Any) -> Any:
        return kernels.of(x).neg(x)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).neg(grad),)


class Exp(Function):
    """e to the power x."""

    def forward(self, x: Any) -> Any:
        self.result = kernels.of(x).exp(x)
        return self.result

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).mul(grad, self.result),)


class Expm1(Function):
    """exp(x) - 1."""

    def forward(self, x: Any) -> Any:
        self.result = kernels.of(x).expm1(x)
        return self.result

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        return (k.mul(grad, k.add(self.result, 1)),)


class Log(Function):
    """Natural logarithm."""

    def forward(self, x: Any) -> Any:
        self.x = x
        return kernels.of(x).log(x)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).div(grad, self.x),)


class Log1p(Function):
    """log(1 + x)."""

    def forward(self, x: Any) -> Any:
        self.x = x
        return kernels.of(x).log1p(x)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        return (k.div(grad, k.add(self.x, 1)),)


class Log2(Function):
    """Logarithm to the base 2."""

    def forward(self, x: Any) -> Any:
        self.x = x
        return kernels.of(x).log2(x)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        return (k.div(grad, k.mul(self.x, math.log(2))),)


class Sqrt(Function):
    """Square root; the gradient at 0 is infinite."""

    def forward(self, x: Any) -> Any:
        self.result = kernels.of(x).sqrt(x)
        return self.result

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        return (k.div(grad, k.mul(self.result, 2)),)


class Rsqrt(Function):
    """1 / sqrt(x)."""

    def forward(self, x: Any) -> Any:
        self.result = kernels.of(x).rsqrt(x)
        return self.result

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        return (k.mul(k.mul(grad, -0.5), k.mul(self.result, k.square(self.result))),)


class Reciprocal(Function):
    """1 / x."""

    def forward(self, x: Any) -> Any:
        self.result = kernels.of(x).reciprocal(x)
        return self.result

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        return (k.neg(k.mul(grad, k.square(self.result))),)


class Square(Function):
    """x x."""

    def forward(self, x: Any) -> Any:
        self.x = x
        return kernels.of(x).square(x)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        return (k.mul(grad, k.mul(self.x, 2)),)


class Sin(Function):
    """Sine."""

    def forward(self, x: Any) -> Any:
        self.x = x
        return kernels.of(x).sin(x)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        return (k.mul(grad, k.cos(self.x)),)


class Cos(Function):
    """Cosine."""

    def forward(self, x: Any) -> Any:
        self.x = x
        return kernels.of(x).cos(x)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        return (k.neg(k.mul(grad, k.sin(self.x))),)


class Tan(Function):
    """Tangent."""

    def forward(self, x: Any) -> Any:
        self.result = kernels.of(x).tan(x)
        return self.result

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        return (k.mul(grad, k.add(k.square(self.result), 1)),)


class Erf(Function):
    """The error function."""

    def forward(self, x: Any) -> Any:
        self.x = x
        return kernels.of(x).erf(x)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        bell = k.exp(k.neg(k.square(self.x)))
        return (k.mul(grad, k.mul(bell, 2 / math.sqrt(math.pi))),)


class Abs(Function):
    """Absolute value; the gradient at 0 is 0."""

    def forward(self, x: Any) -> Any:
        self.x = x
        return kernels.of(x).abs(x)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        return (k.mul(grad, k.sign(self.x)),)


class _Flat(Function):
    """A step function: its gradient is 0 wherever it has one."""

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).full(grad.shape, 0, grad.dtype),)


class Sign(_Flat):
    """-1, 0 or 1."""

    def forward(self, x: Any) -> Any:
        return kernels.of(x).sign(x)


class Floor(_Flat):
    """Rounded down."""

    def forward(self, x: Any) -> Any:
        return kernels.of(x).floor(x)


class Ceil(_Flat):
    """Rounded up."""

    def forward(self, x: Any) -> Any:
        return kernels.of(x).ceil(x)


class Round(_Flat):
    """To the nearest whole number, halves to the even one."""

    def forward(self, x: Any) -> Any:
        return kernels.of(x).round(x)


class Trunc(_Flat):
    """Rounded towards zero."""

    def forward(self, x: Any) -> Any:
        return kernels.of(x).trunc(x)


@tensor_method("__neg__", "neg", "negative")
def neg(input: Any) -> Tensor:
    """-input."""
    return Neg.apply(operand(input, "neg"))


@tensor_method("__abs__", "abs", "absolute")
def abs(input: Any) -> Tensor:
    """Absolute value."""
    return Abs.apply(operand(input, "abs"))


@tensor_method()
def sign(input: Any) -> Tensor:
    """-1, 0 or 1; NaN stays NaN."""
    return Sign.apply(operand(input, "sign"))


@tensor_method()
def square(input: Any) -> Tensor:
    """input * input."""
    return Square.apply(operand(input, "square"))


@tensor_method()
def exp(input: Any) -> Tensor:
    """e to the power input."""
    return Exp.apply(floating(input, "exp"))


@tensor_method()
def expm1(input: Any) -> Tensor:
    """exp(input) - 1, exact near zero."""
    return Expm1.apply(floating(input, "expm1"))


@tensor_method()
def log(input: Any) -> Tensor:
    """Natural logarithm; minus infinity at 0, NaN below."""
    return Log.apply(floating(input, "log"))


@tensor_method()
def log1p(input: Any) -> Tensor:
    """log(1 + input), exact near zero."""
    return Log1p.apply(floating(input, "log1p"))


@tensor_method()
def log2(input: Any) -> Tensor:
    """Logarithm to the base 2."""
    return Log2.apply(floating(input, "log2"))


@tensor_method()
def sqrt(input: Any) -> Tensor:
    """Square root; NaN below 0. Its gradient at 0 is infinite."""
    return Sqrt.apply(floating(input, "sqrt"))


@tensor_method()
def rsqrt(input: Any) -> Tensor:
    """1 / sqrt(input)."""
    return Rsqrt.apply(floating(input, "rsqrt"))


@tensor_method()
def reciprocal(input: Any) -> Tensor:
    """1 / input."""
    return Reciprocal.apply(floating(input, "reciprocal"))


@tensor_method()
def sin(input: Any) -> Tensor:
    """Sine."""
    return Sin.apply(floating(input, "sin"))


@tensor_method()
def cos(input: Any) -> Tensor:
    """Cosine."""
    return Cos.apply(floating(input, "cos"))


@tensor_method()
def tan(input: Any) -> Tensor:
    """Tangent."""
    return Tan.apply(floating(input, "tan"))


@tensor_method()
def erf(input: Any) -> Tensor:
    """The error function."""
    return Erf.apply(floating(input, "erf"))


@tensor_method()
def floor(input: Any) -> Tensor:
    """Rounded down."""
    return Floor.apply(operand(input, "floor"))


@tensor_method()
def ceil(input: Any) -> Tensor:
    """Rounded up."""
    return Ceil.apply(operand(input, "ceil"))


@tensor_method()
def trunc(input: Any) -> Tensor:
    """Rounded towards zero."""
    return Trunc.apply(operand(input, "trunc"))


@tensor_method()
def round(input: Any, *, decimals: int = 0) -> Tensor:
    """Rounded to `decimals` digits after the point, halves to the even one."""
    input = operand(input, "round")
    if decimals == 0:
        return Round.apply(input)
    return Round.apply(input * 10**decimals) / 10**decimals


absolute, negative = abs, neg
