"""Elementwise arithmetic in plain NumPy.

Operands are arrays or Python numbers; shapes broadcast and types promote by NumPy's rules (NEP 50: a Python
number takes the array's type). Results are arrays, 0-d ones included. Activations have their own file.
"""

from __future__ import annotations

import numpy as np

_ieee = np.errstate(all="ignore")  # infinities and NaN are answers; NumPy would warn of them


@_ieee
def add(a, b):
    """a + b."""
    return np.asarray(np.add(a, b))


@_ieee
def sub(a, b):
    """a - b."""
    return np.asarray(np.subtract(a, b))


@_ieee
def mul(a, b):
    """a * b."""
    return np.asarray(np.multiply(a, b))


@_ieee
def div(a, b):
    """a / b; whole numbers give float64, as NumPy has it."""
    return np.asarray(np.true_divide(a, b))


@_ieee
def pow(a, b):
    """a to the power b."""
    return np.asarray(np.power(a, b))


def maximum(a, b):
    """The larger of both; NaN wins."""
    return np.asarray(np.maximum(a, b))


def minimum(a, b):
    """The smaller of both; NaN wins."""
    return np.asarray(np.minimum(a, b))


@_ieee
def floor_divide(a, b):
    """a / b, rounded down."""
    return np.asarray(np.floor_divide(a, b))


@_ieee
def remainder(a, b):
    """a - b floor(a / b): has the sign of b."""
    return np.asarray(np.remainder(a, b))


def atan2(a, b):
    """The angle of the point (b, a), in (-pi, pi]."""
    return np.asarray(np.arctan2(a, b))


def neg(x):
    """-x."""
    return np.asarray(np.negative(x))


@_ieee
def exp(x):
    """e to the power x."""
    return np.asarray(np.exp(x))


@_ieee
def expm1(x):
    """exp(x) - 1, exact near zero."""
    return np.asarray(np.expm1(x))


@_ieee
def log(x):
    """Natural logarithm; -inf at 0, NaN below."""
    return np.asarray(np.log(x))


@_ieee
def log1p(x):
    """log(1 + x), exact near zero."""
    return np.asarray(np.log1p(x))


@_ieee
def log2(x):
    """Logarithm to the base 2."""
    return np.asarray(np.log2(x))


@_ieee
def sqrt(x):
    """Square root; NaN below 0."""
    return np.asarray(np.sqrt(x))


def rsqrt(x):
    """1 / sqrt(x)."""
    return reciprocal(sqrt(x))


@_ieee
def sin(x):
    """Sine."""
    return np.asarray(np.sin(x))


@_ieee
def cos(x):
    """Cosine."""
    return np.asarray(np.cos(x))


@_ieee
def tan(x):
    """Tangent."""
    return np.asarray(np.tan(x))


def abs(x):
    """Absolute value."""
    return np.asarray(np.absolute(x))


def sign(x):
    """-1, 0 or 1; NaN stays NaN."""
    return np.asarray(np.sign(x))


@_ieee
def square(x):
    """x * x."""
    return np.asarray(np.multiply(x, x))


def reciprocal(x):
    """1 / x; infinite at 0."""
    return div(1, x)


def floor(x):
    """Rounded down."""
    return np.asarray(np.floor(x))


def ceil(x):
    """Rounded up."""
    return np.asarray(np.ceil(x))


def round(x):
    """To the nearest whole number, halves to the even one."""
    return np.asarray(np.rint(x))


def trunc(x):
    """Rounded towards zero."""
    return np.asarray(np.trunc(x))


def erf(x):
    """The error function."""
    from scipy import special  # scipy is slow to import, and few need this one

    return np.asarray(special.erf(x))


def clamp(x, min, max):
    """Limited to [min, max]; None means no limit. Where the limits cross, `max` wins."""
    if min is not None:
        x = np.maximum(x, min)
    if max is not None:
        x = np.minimum(x, max)
    return np.array(x)


def eq(a, b):
    """a == b."""
    return np.asarray(np.equal(a, b))


def ne(a, b):
    """a != b."""
    return np.asarray(np.not_equal(a, b))


def lt(a, b):
    """a < b."""
    return np.asarray(np.less(a, b))


def le(a, b):
    """a <= b."""
    return np.asarray(np.less_equal(a, b))


def gt(a, b):
    """a > b."""
    return np.asarray(np.greater(a, b))


def ge(a, b):
    """a >= b."""
    return np.asarray(np.greater_equal(a, b))


def logical_and(a, b):
    """True where both are not zero."""
    return np.asarray(np.logical_and(a, b))


def logical_or(a, b):
    """True where one is not zero."""
    return np.asarray(np.logical_or(a, b))


def logical_not(x):
    """True where x is zero."""
    return np.asarray(np.logical_not(x))


def isnan(x):
    """True where x is NaN."""
    return np.asarray(np.isnan(x))


def isinf(x):
    """True where x is infinite."""
    return np.asarray(np.isinf(x))


def isfinite(x):
    """True where x is neither NaN nor infinite."""
    return np.asarray(np.isfinite(x))


def all_finite(x):
    """Whether x holds neither NaN nor infinity, as a Python bool."""
    return bool(np.isfinite(x).all())


def where(condition, a, b):
    """a where `condition` is true, b elsewhere."""
    return np.asarray(np.where(condition, a, b))


@_ieee
def cast(x, dtype):
    """x as `dtype`, a copy that keeps the memory order; fractions are cut off."""
    return x.astype(dtype)
