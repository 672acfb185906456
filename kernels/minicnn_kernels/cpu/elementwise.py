"""Arithmetic on large float32 arrays of one shape in parallel; the rest is NumPy with memory from the pool.

NumPy's loops for exp, log, comparisons and broadcasting are vectorised; what they lack is reuse of
memory (a fresh large array costs a page fault every 4 KiB) and the second core, which pays where
arithmetic is as cheap as memory. Small arrays and other types are the reference's.
"""

from __future__ import annotations

import functools

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.compiler import REDUCTION, kernel
from minicnn_kernels.cpu.layout import CHUNK, elementwise, flat
from minicnn_kernels.reference import elementwise as reference

__all__ = [
    "abs", "add", "all_finite", "cast", "ceil", "clamp", "cos", "div", "exp", "expm1", "floor", "log",
    "log1p", "log2", "maximum", "minimum", "mul", "neg", "pow", "reciprocal", "round", "sign", "sin", "sqrt",
    "square", "sub", "tan", "trunc",
]  # fmt: skip

_ADD, _SUB, _MUL, _DIV = range(4)


def add(a, b):
    """a + b."""
    return _parallel(_ADD, a, b) if _alike(a, b) else _pooled_add(a, b)


def sub(a, b):
    """a - b."""
    return _parallel(_SUB, a, b) if _alike(a, b) else _pooled_sub(a, b)


def mul(a, b):
    """a * b."""
    return _parallel(_MUL, a, b) if _alike(a, b) else _pooled_mul(a, b)


def div(a, b):
    """a / b; whole numbers give float64, as NumPy has it."""
    return _parallel(_DIV, a, b) if _alike(a, b) else _pooled_div(a, b)


def clamp(x, min, max):
    """Limited to [min, max]; None means no limit. Where the limits cross, `max` wins."""
    result = _room_for(x)
    if result is None or (min is None and max is None):
        return reference.clamp(x, min, max)
    return np.clip(x, min, max, out=result)


def cast(x, dtype):
    """x as `dtype`, a copy that keeps the memory order; fractions are cut off."""
    result = memory.empty_like(x, dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        np.copyto(result, x, casting="unsafe")
    return result


def all_finite(x):
    """Whether x holds neither NaN nor infinity, as a Python bool."""
    view = flat(x) if x.dtype == np.float32 and x.size > CHUNK else None
    return reference.all_finite(x) if view is None else bool(_finite_chunks(view).all())


def _pooled(slow, ufunc):
    """`slow` of the reference, with large float32 results in memory from the pool."""

    @functools.wraps(slow)
    def fast(*operands):
        result = _room_for(*operands)
        if result is None:
            return slow(*operands)
        with np.errstate(all="ignore"):
            return ufunc(*operands, out=result)

    return fast


def _room_for(*operands):
    """Memory for a float32 result, shaped and ordered like the largest operand; None if that is not to be."""
    like = None
    shapes = set()
    for x in operands:
        if isinstance(x, np.ndarray):
            if x.dtype != np.float32:
                return None
            shapes.add(x.shape)
            if like is None or x.size > like.size:
                like = x
        elif type(x) not in (int, float, bool):  # NumPy's own scalars carry a type that promotes
            return None
    if like is None or like.nbytes < memory.SMALL:
        return None
    if len(shapes) > 1 and np.broadcast_shapes(*shapes) != like.shape:
        return None
    return memory.empty_like(like)


abs = _pooled(reference.abs, np.absolute)
ceil = _pooled(reference.ceil, np.ceil)
cos = _pooled(reference.cos, np.cos)
exp = _pooled(reference.exp, np.exp)
expm1 = _pooled(reference.expm1, np.expm1)
floor = _pooled(reference.floor, np.floor)
log = _pooled(reference.log, np.log)
log1p = _pooled(reference.log1p, np.log1p)
log2 = _pooled(reference.log2, np.log2)
maximum = _pooled(reference.maximum, np.maximum)
minimum = _pooled(reference.minimum, np.minimum)
neg = _pooled(reference.neg, np.negative)
pow = _pooled(reference.pow, np.power)
reciprocal = _pooled(reference.reciprocal, np.reciprocal)
round = _pooled(reference.round, np.rint)
sign = _pooled(reference.sign, np.sign)
sin = _pooled(reference.sin, np.sin)
sqrt = _pooled(reference.sqrt, np.sqrt)
square = _pooled(reference.square, np.square)
tan = _pooled(reference.tan, np.tan)
trunc = _pooled(reference.trunc, np.trunc)
_pooled_add = _pooled(reference.add, np.add)
_pooled_div = _pooled(reference.div, np.divide)
_pooled_mul = _pooled(reference.mul, np.multiply)
_pooled_sub = _pooled(reference.sub, np.subtract)


def _alike(a, b):
    """Whether a and b are large float32 arrays of one shape."""
    return (
        isinstance(a, np.ndarray)
        and isinstance(b, np.ndarray)
        and a.size > CHUNK
        and a.shape == b.shape
        and a.dtype == b.dtype == np.float32
    )


def _parallel(op, a, b):
    result, *arrays = elementwise(a, b)
    _arithmetic(*arrays, op)
    return result


@kernel(parallel=True)
def _arithmetic(result, a, b, op):
    for chunk in prange((result.size + CHUNK - 1) // CHUNK):
        start = np.int64(chunk) * CHUNK
        stop = start + CHUNK
        _combine(result[start:stop], a[start:stop], b[start:stop], op)


@kernel
def _combine(result, a, b, op):
    if op == _ADD:
        for i in range(result.size):
            result[i] = a[i] + b[i]
    elif op == _SUB:
        for i in range(result.size):
            result[i] = a[i] - b[i]
    elif op == _MUL:
        for i in range(result.size):
            result[i] = a[i] * b[i]
    else:
        for i in range(result.size):
            result[i] = a[i] / b[i]


@kernel(parallel=True)
def _finite_chunks(x):
    chunks = (x.size + CHUNK - 1) // CHUNK
    finite = np.empty(chunks, np.bool_)
    for chunk in prange(chunks):
        start = np.int64(chunk) * CHUNK
        finite[chunk] = _is_finite(x[start : start + CHUNK])
    return finite


@kernel(fastmath=REDUCTION)
def _is_finite(x):
    """0 times NaN or infinity is NaN, and NaN stays in a sum: no branch, so the loop vectorizes."""
    total = np.float32(0)
    for i in range(x.size):
        total += x[i] * np.float32(0)
    return total == total
