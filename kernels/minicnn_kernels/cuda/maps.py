"""Loops over elements, made around a formula: `out[i] = formula(a[i], b[i], ...)`.

A formula is a small function of scalars. Each kernel exists for operands of one shape, and for operands that
repeat, where operand k of element i is `k[i // inner % count]`. That covers numbers, vectors along one
dimension or several neighbouring ones; other broadcasts are copied out first. Which type an op computes in is
asked of NumPy's ufunc of the same meaning.

Such a loop only moves memory, and a GPU needs many bytes on their way to move it at full speed: 2 MB for the
3.35 TB/s of an H100 at 600 ns, of which all its threads with one float32 each have half. So float32 of one
shape goes by fours, in instructions of 128 bits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import Elements, Kernel, cuda, device_function, kernel, launch
from minicnn_kernels.cuda.gemm import LONGEST
from minicnn_kernels.cuda.instructions import load4, store4
from minicnn_kernels.cuda.storage import cast, dense, empty, flat, on_device, upload
from minicnn_kernels.device_array import DeviceArray

__all__ = ["Map", "constant", "elementwise", "typed", "with_numbers"]


def elementwise(specification: Callable, types: Any, formula: Callable) -> Callable[..., DeviceArray]:
    """The kernel of `specification`, a function of the reference, whose name, arguments and docstring it
    takes.

    types, formula: as in `Map`.
    """
    run = Map(specification.__name__, types, formula)

    @functools.wraps(specification)
    def call(*operands: Any) -> DeviceArray:
        return run(*operands)

    return call


class Map:
    """One elementwise op of one, two or three operands.

    name: the op's, as errors show it. formula: a function of as many scalars. types: NumPy's ufunc with the
    same type rules, or a function from operand types to (type of each operand, ..., type of the result).
    """

    def __init__(self, name: str, types: Any, formula: Callable) -> None:
        self.name, self.types = name, types
        count = formula.__code__.co_argcount
        operands: list[np.dtype] = [np.dtype(np.float32)] * count
        if count == 3:
            operands[0] = np.dtype(bool)
        gives = "boolean" if _resolved(types, *operands)[-1].kind == "b" else "float32"
        formula = device_function(formula)
        self.same_shape = _SAME_SHAPE[count](name, formula, gives)
        self.by_fours = _BY_FOURS[count](name, formula) if count < 3 and gives == "float32" else None
        self.repeating = _REPEATING[count](name, formula, gives) if count > 1 else self.same_shape

    def __call__(self, *operands: Any) -> DeviceArray:
        on_device(self.name, *operands)
        *types, result_type = _resolved(self.types, *(_type_of(x) for x in operands))
        arrays = [typed(x, dtype) for x, dtype in zip(operands, types, strict=True)]
        if len({x.shape for x in arrays}) == 1:
            result = empty(arrays[0].shape, result_type)
            elements = [flat(result), *(flat(dense(x)) for x in arrays)]
            if self.by_fours is not None and _go_by_fours(result.size, elements):
                launch(self.by_fours, result.size // 4, *elements, result.size // 4)
            else:
                launch(self.same_shape, result.size, *elements, result.size)
            return result
        shape = np.broadcast_shapes(*(x.shape for x in arrays))
        result = empty(shape, result_type)
        repeated: list[Any] = []
        for x in arrays:
            pattern = _pattern(x.shape, shape)
            if pattern is None:
                x, pattern = x.broadcast(shape), (1, math.prod(shape))
            repeated += [flat(dense(x)), *pattern]
        launch(self.repeating, result.size, flat(result), *repeated, result.size)
        return result


def _type_of(x: Any) -> Any:
    """A dtype, or for a Python number its type, which adapts to those of arrays."""
    return x.dtype if isinstance(x, (DeviceArray, np.generic)) else type(x)


@functools.lru_cache(maxsize=1024)
def _resolved(types: Any, *operands: Any) -> tuple[np.dtype, ...]:
    if isinstance(types, np.ufunc):
        operands = tuple(int if operand is bool else operand for operand in operands)
        return types.resolve_dtypes((*operands, None))
    return types(*operands)


def typed(x: Any, dtype: Any) -> DeviceArray:
    """An array or a number as an array of this type, itself where it is one."""
    if isinstance(x, DeviceArray):
        return x if x.dtype == dtype else cast(x, dtype)
    return constant(x, dtype)


def constant(value: Any, dtype: Any) -> DeviceArray:
    """A number as a 0-d array on the device; the same one for the same number, so nobody may write to it."""
    return _uploaded(value, math.copysign(1, value), dtype)


@functools.lru_cache(maxsize=256)
def _uploaded(value: Any, sign: float, dtype: Any) -> DeviceArray:
    """sign: to a cache -0.0 and 0.0 are one number."""
    return upload(np.asarray(value, dtype))


def _pattern(shape: tuple[int, ...], result: tuple[int, ...]) -> tuple[int, int] | None:
    """(inner, count) with which an array of `shape` repeats inside of `result`; None if that is not
    enough."""
    shape = (1,) * (len(result) - len(shape)) + shape
    moving = [axis for axis, size in enumerate(result) if shape[axis] == size != 1]
    if not moving:
        return 1, 1
    first, last = moving[0], moving[-1]
    if any(shape[axis] != result[axis] for axis in range(first, last + 1)):
        return None
    return math.prod(result[last + 1 :]), math.prod(result[first : last + 1])


def _same_shape_1(name: str, formula: Callable, gives: str) -> Kernel:
    @kernel(f"{gives}[::1], float32[::1], int64", name=name, registers=40)
    def run(out, a, size):
        for i in range(cuda.grid(1), size, cuda.gridsize(1)):
            out[i] = formula(a[i])

    return run


def _same_shape_2(name: str, formula: Callable, gives: str) -> Kernel:
    @kernel(f"{gives}[::1], float32[::1], float32[::1], int64", name=name, registers=48)
    def run(out, a, b, size):
        for i in range(cuda.grid(1), size, cuda.gridsize(1)):
            out[i] = formula(a[i], b[i])

    return run


def _same_shape_3(name: str, formula: Callable, gives: str) -> Kernel:
    @kernel(f"{gives}[::1], boolean[::1], float32[::1], float32[::1], int64", name=name, registers=48)
    def run(out, a, b, c, size):
        for i in range(cuda.grid(1), size, cuda.gridsize(1)):
            out[i] = formula(a[i], b[i], c[i])

    return run


def _go_by_fours(size: int, elements: list[Elements]) -> bool:
    """Whether arrays of so many elements are float32, and can be read by fours and counted in 32 bits."""
    fit = size % 4 == 0 and size <= LONGEST
    return fit and all(x.memory.elements.dtype == np.float32 and x.is_aligned for x in elements)


def _by_fours_1(name: str, formula: Callable) -> Kernel:
    @kernel("float32[::1], float32[::1], int64", name=f"{name} by fours", registers=48)
    def run(out, a, fours):
        for i in range(cuda.grid(1), fours, cuda.gridsize(1)):
            first = np.int32(4 * i)
            a0, a1, a2, a3 = load4(a, first)
            store4(out, first, formula(a0), formula(a1), formula(a2), formula(a3))

    return run


def _by_fours_2(name: str, formula: Callable) -> Kernel:
    @kernel("float32[::1], float32[::1], float32[::1], int64", name=f"{name} by fours", registers=64)
    def run(out, a, b, fours):
        for i in range(cuda.grid(1), fours, cuda.gridsize(1)):
            first = np.int32(4 * i)
            a0, a1, a2, a3 = load4(a, first)
            b0, b1, b2, b3 = load4(b, first)
            store4(out, first, formula(a0, b0), formula(a1, b1), formula(a2, b2), formula(a3, b3))

    return run


def _repeating_2(name: str, formula: Callable, gives: str) -> Kernel:
    operand = "float32[::1], int64, int64"

    @kernel(f"{gives}[::1], {operand}, {operand}, int64", name=f"{name} repeating", registers=64)
    def run(out, a, a_inner, a_count, b, b_inner, b_count, size):
        for i in range(cuda.grid(1), size, cuda.gridsize(1)):
            out[i] = formula(a[i // a_inner % a_count], b[i // b_inner % b_count])

    return run


def _repeating_3(name: str, formula: Callable, gives: str) -> Kernel:
    operand = "float32[::1], int64, int64"

    @kernel(
        f"{gives}[::1], boolean[::1], int64, int64, {operand}, {operand}, int64",
        name=f"{name} repeating",
        registers=64,
    )
    def run(out, a, a_inner, a_count, b, b_inner, b_count, c, c_inner, c_count, size):
        for i in range(cuda.grid(1), size, cuda.gridsize(1)):
            out[i] = formula(a[i // a_inner % a_count], b[i // b_inner % b_count], c[i // c_inner % c_count])

    return run


_SAME_SHAPE: dict[int, Callable[..., Kernel]] = {1: _same_shape_1, 2: _same_shape_2, 3: _same_shape_3}
_BY_FOURS: dict[int, Callable[..., Kernel]] = {1: _by_fours_1, 2: _by_fours_2}
_REPEATING: dict[int, Callable[..., Kernel]] = {2: _repeating_2, 3: _repeating_3}


def with_numbers(specification: Callable, formula: Callable) -> Callable[..., DeviceArray]:
    """The kernel of `specification`: one or two float32 arrays of one shape, then up to two numbers.

    formula: a function of the arrays' elements and of p and q, the numbers.
    """
    name, arrays = specification.__name__, formula.__code__.co_argcount - 2
    formula = device_function(formula)
    if arrays == 1:

        @kernel("float32[::1], float32[::1], float32, float32, int64", name=name, registers=40)
        def run(out, a, p, q, size):
            for i in range(cuda.grid(1), size, cuda.gridsize(1)):
                out[i] = formula(a[i], p, q)

    else:

        @kernel("float32[::1], float32[::1], float32[::1], float32, float32, int64", name=name, registers=40)
        def run(out, a, b, p, q, size):
            for i in range(cuda.grid(1), size, cuda.gridsize(1)):
                out[i] = formula(a[i], b[i], p, q)

    @functools.wraps(specification)
    def call(*arguments: Any) -> DeviceArray:
        operands, numbers = arguments[:arrays], arguments[arrays:]
        on_device(name, *operands)
        result = empty(operands[0].shape)
        p, q = (np.float32(number) for number in (*numbers, 0, 0)[:2])
        launch(run, result.size, flat(result), *(flat(dense(x)) for x in operands), p, q, result.size)
        return result

    return call
