"""Comparisons and logic: their results are boolean and have no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.promotion import is_operand, operand, promote
from minicnn.tensor import Tensor, as_tensor, tensor_method

__all__ = [
    "allclose",
    "eq",
    "equal",
    "ge",
    "gt",
    "isclose",
    "isfinite",
    "isinf",
    "isnan",
    "le",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "lt",
    "ne",
]


class Eq(Function):
    """a == b."""

    def forward(self, a: Any, b: Any) -> Any:
        return kernels.of(a, b).eq(a, b)


class Ne(Function):
    """a != b."""

    def forward(self, a: Any, b: Any) -> Any:
        return kernels.of(a, b).ne(a, b)


class Lt(Function):
    """a < b."""

    def forward(self, a: Any, b: Any) -> Any:
        return kernels.of(a, b).lt(a, b)


class Le(Function):
    """a <= b."""

    def forward(self, a: Any, b: Any) -> Any:
        return kernels.of(a, b).le(a, b)


class Gt(Function):
    """a > b."""

    def forward(self, a: Any, b: Any) -> Any:
        return kernels.of(a, b).gt(a, b)


class Ge(Function):
    """a >= b."""

    def forward(self, a: Any, b: Any) -> Any:
        return kernels.of(a, b).ge(a, b)


class LogicalAnd(Function):
    """True where both are not zero."""

    def forward(self, a: Any, b: Any) -> Any:
        return kernels.of(a, b).logical_and(a, b)


class LogicalOr(Function):
    """True where one is not zero."""

    def forward(self, a: Any, b: Any) -> Any:
        return kernels.of(a, b).logical_or(a, b)


class LogicalNot(Function):
    """True where x is zero."""

    def forward(self, x: Any) -> Any:
        return kernels.of(x).logical_not(x)


class IsNan(Function):
    """True where x is NaN."""

    def forward(self, x: Any) -> Any:
        return kernels.of(x).isnan(x)


class IsInf(Function):
    """True where x is infinite."""

    def forward(self, x: Any) -> Any:
        return kernels.of(x).isinf(x)


class IsFinite(Function):
    """True where x is neither NaN nor infinite."""

    def forward(self, x: Any) -> Any:
        return kernels.of(x).isfinite(x)


def _operator(*names: str) -> Callable[[Callable], Callable]:
    """Attach under operator names; other types than numbers and tensors are left to Python (`x == None`)."""

    def attach(function: Callable) -> Callable:
        def operator(self: Tensor, other: Any) -> Any:
            return function(self, other) if is_operand(other) else NotImplemented

        operator.__doc__ = function.__doc__
        tensor_method(*names)(operator)
        return function

    return attach


@_operator("__eq__")
@tensor_method()
def eq(input: Any, other: Any) -> Tensor:
    """input == other, element by element."""
    return Eq.apply(*promote(input, other, "eq"))


@_operator("__ne__")
@tensor_method()
def ne(input: Any, other: Any) -> Tensor:
    """input != other, element by element."""
    return Ne.apply(*promote(input, other, "ne"))


@_operator("__lt__")
@tensor_method()
def lt(input: Any, other: Any) -> Tensor:
    """input < other, element by element."""
    return Lt.apply(*promote(input, other, "lt"))


@_operator("__le__")
@tensor_method()
def le(input: Any, other: Any) -> Tensor:
    """input <= other, element by element."""
    return Le.apply(*promote(input, other, "le"))


@_operator("__gt__")
@tensor_method()
def gt(input: Any, other: Any) -> Tensor:
    """input > other, element by element."""
    return Gt.apply(*promote(input, other, "gt"))


@_operator("__ge__")
@tensor_method()
def ge(input: Any, other: Any) -> Tensor:
    """input >= other, element by element."""
    return Ge.apply(*promote(input, other, "ge"))


@tensor_method()
def logical_and(input: Any, other: Any) -> Tensor:
    """True where both are not zero."""
    return LogicalAnd.apply(*promote(input, other, "logical_and"))


@tensor_method()
def logical_or(input: Any, other: Any) -> Tensor:
    """True where at least one is not zero."""
    return LogicalOr.apply(*promote(input, other, "logical_or"))


@tensor_method()
def logical_xor(input: Any, other: Any) -> Tensor:
    """True where exactly one is not zero."""
    return ne(logical_not(input), logical_not(other))


@tensor_method()
def logical_not(input: Any) -> Tensor:
    """True where `input` is zero."""
    return LogicalNot.apply(operand(input, "logical_not"))


def _boolean(sign: str, *operands: Any) -> None:
    for x in operands:
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        if kind not in ("bool", bool):
            raise TypeError(
                f"{sign}: expected boolean tensors, got {kind}; compare first, as in (x > 0) {sign} mask"
            )


@tensor_method("__and__", "__rand__")
def _and(self: Tensor, other: Any) -> Tensor:
    """Both masks."""
    _boolean("&", self, other)
    return logical_and(self, other)


@tensor_method("__or__", "__ror__")
def _or(self: Tensor, other: Any) -> Tensor:
    """Either mask."""
    _boolean("|", self, other)
    return logical_or(self, other)


@tensor_method("__xor__", "__rxor__")
def _xor(self: Tensor, other: Any) -> Tensor:
    """One mask, not both."""
    _boolean("^", self, other)
    return ne(self, other)


@tensor_method("__invert__")
def _invert(self: Tensor) -> Tensor:
    """The opposite mask."""
    _boolean("~", self)
    return logical_not(self)


@tensor_method()
def isnan(input: Tensor) -> Tensor:
    """True where `input` is NaN."""
    return IsNan.apply(input)


@tensor_method()
def isinf(input: Tensor) -> Tensor:
    """True where `input` is infinite."""
    return IsInf.apply(input)


@tensor_method()
def isfinite(input: Tensor) -> Tensor:
    """True where `input` is neither NaN nor infinite."""
    return IsFinite.apply(input)


@tensor_method()
def isclose(
    input: Tensor, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """True where |input - other| <= atol + rtol |other|, or both are equal; NaN equals NaN if `equal_nan`."""
    other = as_tensor(operand(other, "isclose"))
    close = eq(input, other)
    gap = (input - other).abs()
    close = close | ((gap <= other.abs() * rtol + atol) & gap.isfinite())
    return close | (isnan(input) & isnan(other)) if equal_nan else close


@tensor_method()
def allclose(
    input: Tensor, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    """Whether `isclose` holds everywhere, as a Python bool."""
    return bool(isclose(input, other, rtol, atol, equal_nan).all().item())


@tensor_method()
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether both have the same shape and the same elements, as a Python bool."""
    return input.shape == other.shape and bool(eq(input, other).all().item())
