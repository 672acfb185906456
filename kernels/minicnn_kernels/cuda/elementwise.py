"""Elementwise arithmetic: a table of formulas, from which `maps.py` makes the kernels.

Each line names the reference's function, NumPy's ufunc that knows the types, and the formula of one element.
Formulas are written for float32 and serve whole numbers where they can. Every number in them is a float32: a
Python float would make float64 arithmetic, of which a GPU does little.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn_kernels.cuda import driver
from minicnn_kernels.cuda.driver import fmod, rint
from minicnn_kernels.cuda.maps import elementwise, with_numbers
from minicnn_kernels.cuda.reduction import all as all_true
from minicnn_kernels.cuda.storage import cast, to_host
from minicnn_kernels.reference import elementwise as reference

__all__ = [
    "abs", "add", "all_finite", "atan2", "cast", "ceil", "clamp", "cos", "div", "eq", "erf", "exp",
    "expm1", "floor", "floor_divide", "ge", "gt", "isfinite", "isinf", "isnan", "le", "log", "log1p",
    "log2", "logical_and", "logical_not", "logical_or", "lt", "maximum", "minimum", "mul", "ne", "neg",
    "pow", "reciprocal", "remainder", "round", "rsqrt", "sign", "sin", "sqrt", "square", "sub", "tan",
    "trunc", "where",
]  # fmt: skip

_ZERO, _ONE, _INFINITY = np.float32(0), np.float32(1), np.float32(np.inf)


def _maximum(a, b):
    return a if a > b or a != a else b


def _minimum(a, b):
    return a if a < b or a != a else b


def _sign(x):
    return _ONE if x > _ZERO else (-_ONE if x < _ZERO else x)


def _remainder(a, b):
    rest = fmod(a, b)
    return rest + b if rest != _ZERO and (rest < _ZERO) != (b < _ZERO) else rest


def _floor_divide(a, b):
    """As NumPy has it: the quotient of what the remainder leaves, so that both always fit together."""
    if b == _ZERO:
        return a / b
    rest = fmod(a, b)
    quotient = rint((a - rest) / b)
    return quotient - _ONE if rest != _ZERO and (rest < _ZERO) != (b < _ZERO) else quotient


def _limited(x, low, high):
    x = low if x < low else x
    return high if x > high else x


def _types_of_where(condition, a, b):
    """What both choices have in common; a number adapts to an array."""
    common = np.result_type(*(x(0) if isinstance(x, type) else x for x in (a, b)))
    return np.dtype(bool), common, common, common


def _own_type(x):
    return x, x


# fmt: off
add = elementwise(reference.add, np.add, lambda a, b: a + b)
sub = elementwise(reference.sub, np.subtract, lambda a, b: a - b)
mul = elementwise(reference.mul, np.multiply, lambda a, b: a * b)
div = elementwise(reference.div, np.true_divide, lambda a, b: a / b)
pow = elementwise(reference.pow, np.power, lambda a, b: a**b)
maximum = elementwise(reference.maximum, np.maximum, _maximum)
minimum = elementwise(reference.minimum, np.minimum, _minimum)
atan2 = elementwise(reference.atan2, np.arctan2, lambda a, b: driver.atan2(a, b))

eq = elementwise(reference.eq, np.equal, lambda a, b: a == b)
ne = elementwise(reference.ne, np.not_equal, lambda a, b: a != b)
lt = elementwise(reference.lt, np.less, lambda a, b: a < b)
le = elementwise(reference.le, np.less_equal, lambda a, b: a <= b)
gt = elementwise(reference.gt, np.greater, lambda a, b: a > b)
ge = elementwise(reference.ge, np.greater_equal, lambda a, b: a >= b)
logical_and = elementwise(reference.logical_and, np.logical_and, lambda a, b: a != _ZERO and b != _ZERO)
logical_or = elementwise(reference.logical_or, np.logical_or, lambda a, b: a != _ZERO or b != _ZERO)
logical_not = elementwise(reference.logical_not, np.logical_not, lambda x: x == _ZERO)
isnan = elementwise(reference.isnan, np.isnan, lambda x: x != x)
isinf = elementwise(reference.isinf, np.isinf, lambda x: x == _INFINITY or x == -_INFINITY)
isfinite = elementwise(reference.isfinite, np.isfinite, lambda x: -_INFINITY < x < _INFINITY)

neg = elementwise(reference.neg, np.negative, lambda x: -x)
abs = elementwise(reference.abs, np.absolute, lambda x: x if x > _ZERO else _ZERO - x)
sign = elementwise(reference.sign, np.sign, _sign)
square = elementwise(reference.square, np.square, lambda x: x * x)
reciprocal = elementwise(reference.reciprocal, np.sqrt, lambda x: _ONE / x)
rsqrt = elementwise(reference.rsqrt, np.sqrt, lambda x: _ONE / driver.sqrt(x))
sqrt = elementwise(reference.sqrt, np.sqrt, lambda x: driver.sqrt(x))
exp = elementwise(reference.exp, np.exp, lambda x: driver.exp(x))
expm1 = elementwise(reference.expm1, np.expm1, lambda x: driver.expm1(x))
log = elementwise(reference.log, np.log, lambda x: driver.log(x))
log1p = elementwise(reference.log1p, np.log1p, lambda x: driver.log1p(x))
log2 = elementwise(reference.log2, np.log2, lambda x: driver.log2(x))
sin = elementwise(reference.sin, np.sin, lambda x: driver.sin(x))
cos = elementwise(reference.cos, np.cos, lambda x: driver.cos(x))
tan = elementwise(reference.tan, np.tan, lambda x: driver.tan(x))
erf = elementwise(reference.erf, _own_type, lambda x: driver.erf(x))
floor = elementwise(reference.floor, np.floor, lambda x: driver.floor(x))
ceil = elementwise(reference.ceil, np.ceil, lambda x: driver.ceil(x))
round = elementwise(reference.round, np.rint, lambda x: rint(x))
trunc = elementwise(reference.trunc, np.trunc, lambda x: driver.trunc(x))
where = elementwise(reference.where, _types_of_where, lambda condition, a, b: a if condition else b)

_float_floor_divide = elementwise(reference.floor_divide, np.floor_divide, _floor_divide)
_float_remainder = elementwise(reference.remainder, np.remainder, _remainder)
_whole_floor_divide = elementwise(reference.floor_divide, np.floor_divide, lambda a, b: a // b)
_whole_remainder = elementwise(reference.remainder, np.remainder, lambda a, b: a % b)
_clamp = with_numbers(reference.clamp, _limited)
# fmt: on


def floor_divide(a: Any, b: Any) -> Any:
    """a / b, rounded down."""
    return (_float_floor_divide if _has_fractions(a, b) else _whole_floor_divide)(a, b)


def remainder(a: Any, b: Any) -> Any:
    """a - b floor(a / b): has the sign of b."""
    return (_float_remainder if _has_fractions(a, b) else _whole_remainder)(a, b)


def clamp(x: Any, min: Any, max: Any) -> Any:
    """Limited to [min, max]; None means no limit. Where the limits cross, `max` wins."""
    if x.dtype == np.float32:
        return _clamp(x, -np.inf if min is None else min, np.inf if max is None else max)
    if min is not None:
        x = maximum(x, min)
    return cast(x, x.dtype) if max is None else minimum(x, max)


def all_finite(x: Any) -> bool:
    """Whether x holds neither NaN nor infinity, as a Python bool: waits for the device."""
    return bool(to_host(all_true(isfinite(x), None, False)))


def _has_fractions(a: Any, b: Any) -> bool:
    return any(isinstance(x, float) or getattr(x, "dtype", None) == np.float32 for x in (a, b))
