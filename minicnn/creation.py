"""New tensors from nothing: constants, ranges, random numbers.

Names, arguments and defaults are PyTorch's; sizes come as `zeros(2, 3)` or `zeros((2, 3))`. Tensors from data
are made by `tensor`, `as_tensor` and `from_numpy` (in `tensor.py`).
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

import minicnn_kernels as kernels
from minicnn.random import Generator, default_generator
from minicnn.tensor import Tensor, as_dtype, bool_, float32, int64, tensor_method

__all__ = [
    "arange",
    "bernoulli",
    "empty",
    "empty_like",
    "eye",
    "full",
    "full_like",
    "linspace",
    "normal",
    "ones",
    "ones_like",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "randperm",
    "zeros",
    "zeros_like",
]


def _sizes(op: str, sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """`f(2, 3)` and `f((2, 3))` mean the same. Raises TypeError and ValueError for what is no size."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    try:
        shape = tuple(operator.index(size) for size in sizes)
    except TypeError:
        raise TypeError(f"{op}: expected sizes as whole numbers, got {sizes}") from None
    if any(size < 0 for size in shape):
        raise ValueError(f"{op}: expected sizes of at least 0, got {shape}")
    return shape


def _filled(shape: tuple[int, ...], value: Any, dtype: Any, requires_grad: bool) -> Tensor:
    dtype = as_dtype(dtype)
    return Tensor(kernels.of(np.empty(0, dtype)).full(shape, value, dtype), requires_grad)


# -- constants ------------------------------------------------------------------------------------


def zeros(*size: Any, dtype: Any = float32, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros."""
    return _filled(_sizes("zeros", size), 0, dtype, requires_grad)


def ones(*size: Any, dtype: Any = float32, requires_grad: bool = False) -> Tensor:
    """A tensor of ones."""
    return _filled(_sizes("ones", size), 1, dtype, requires_grad)


def full(size: Any, fill_value: Any, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor filled with one number, of the type that fits the number unless `dtype` is given."""
    if isinstance(fill_value, Tensor):
        fill_value = fill_value.item()
    if dtype is None:
        dtype = {bool: bool_, int: int64}.get(type(fill_value), float32)
    return _filled(_sizes("full", (size,)), fill_value, dtype, requires_grad)


def empty(*size: Any, dtype: Any = float32, requires_grad: bool = False) -> Tensor:
    """A tensor with whatever lies in memory."""
    return Tensor(kernels.memory.empty(_sizes("empty", size), as_dtype(dtype)), requires_grad)


def zeros_like(input: Tensor, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros in the shape and type of `input`."""
    return _filled(input.shape, 0, input.dtype if dtype is None else dtype, requires_grad)


def ones_like(input: Tensor, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones in the shape and type of `input`."""
    return _filled(input.shape, 1, input.dtype if dtype is None else dtype, requires_grad)


def full_like(input: Tensor, fill_value: Any, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """One number in the shape and type of `input`."""
    return _filled(input.shape, fill_value, input.dtype if dtype is None else dtype, requires_grad)


def empty_like(input: Tensor, *, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """Whatever lies in memory, in the shape, type and memory order of `input`."""
    dtype = input.dtype if dtype is None else as_dtype(dtype)
    return Tensor(kernels.empty_like(input.data, dtype), requires_grad)


def eye(n: int, m: int | None = None, *, dtype: Any = float32, requires_grad: bool = False) -> Tensor:
    """An (n, m) matrix with ones on the diagonal; m defaults to n."""
    shape = _sizes("eye", (n, n if m is None else m))
    return Tensor(np.eye(*shape, dtype=as_dtype(dtype)), requires_grad)


# -- ranges ---------------------------------------------------------------------------------------


def arange(
    start: float, end: float | None = None, step: float = 1, *, dtype: Any = None, requires_grad: bool = False
) -> Tensor:
    """start, start + step, ... up to but without `end`; `arange(n)` begins at 0.

    int64 if all three are whole numbers, else float32, unless `dtype` is given. Raises ValueError for a step
    that is 0 or leads away from `end`.
    """
    if end is None:
        start, end = 0, start
    if step == 0 or (end - start) / step < 0:
        raise ValueError(f"arange: a step of {step} does not lead from {start} to {end}")
    if dtype is None:
        dtype = float32 if any(isinstance(x, float) for x in (start, end, step)) else int64
    count = math.ceil((end - start) / step)
    return Tensor((start + step * np.arange(count)).astype(as_dtype(dtype)), requires_grad)


def linspace(
    start: float, end: float, steps: int, *, dtype: Any = float32, requires_grad: bool = False
) -> Tensor:
    """`steps` numbers at equal distances from `start` to `end`, both included."""
    return Tensor(np.linspace(start, end, steps, dtype=as_dtype(dtype)), requires_grad)


# -- random numbers -------------------------------------------------------------------------------


def rand(
    *size: Any, generator: Generator | None = None, dtype: Any = float32, requires_grad: bool = False
) -> Tensor:
    """Uniform in [0, 1)."""
    return Tensor(_source(generator).uniform(_sizes("rand", size), 0, 1, dtype), requires_grad)


def randn(
    *size: Any, generator: Generator | None = None, dtype: Any = float32, requires_grad: bool = False
) -> Tensor:
    """Normal with mean 0 and standard deviation 1."""
    return Tensor(_source(generator).normal(_sizes("randn", size), 0, 1, dtype), requires_grad)


def randint(
    low: int, high: Any, size: Any = None, *, generator: Generator | None = None, dtype: Any = int64
) -> Tensor:
    """Whole numbers in [low, high); `randint(high, size)` begins at 0."""
    if size is None:
        low, high, size = 0, low, high
    drawn = Tensor(_source(generator).integers(_sizes("randint", (size,)), low, high))
    return drawn.to(dtype)


def randperm(n: int, *, generator: Generator | None = None, dtype: Any = int64) -> Tensor:
    """The numbers 0 to n - 1 in random order."""
    return Tensor(_source(generator).permutation(n)).to(dtype)


def normal(mean: float, std: float, size: Any, *, generator: Generator | None = None) -> Tensor:
    """Normal with this mean and standard deviation."""
    return Tensor(_source(generator).normal(_sizes("normal", (size,)), mean, std))


def rand_like(input: Tensor, *, generator: Generator | None = None, dtype: Any = None) -> Tensor:
    """Uniform in [0, 1), in the shape and type of `input`."""
    return rand(input.shape, generator=generator, dtype=input.dtype if dtype is None else dtype)


def randn_like(input: Tensor, *, generator: Generator | None = None, dtype: Any = None) -> Tensor:
    """Normal with mean 0 and standard deviation 1, in the shape and type of `input`."""
    return randn(input.shape, generator=generator, dtype=input.dtype if dtype is None else dtype)


def randint_like(
    input: Tensor, low: int, high: int | None = None, *, generator: Generator | None = None, dtype: Any = None
) -> Tensor:
    """Whole numbers in [low, high), in the shape and type of `input`; with one bound from 0."""
    low, high = (0, low) if high is None else (low, high)
    return randint(low, high, input.shape, generator=generator, dtype=input.dtype if dtype is None else dtype)


def bernoulli(input: Tensor, *, generator: Generator | None = None) -> Tensor:
    """1 with the probability that `input` gives for each element, else 0."""
    return (rand_like(input, generator=generator) < input).to(input.dtype)


@tensor_method("uniform_")
def _uniform_(
    self: Tensor, low: float = 0.0, high: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Overwrite with numbers in [low, high)."""
    return self.copy_(_source(generator).uniform(self.shape, low, high, self.dtype))


@tensor_method("normal_")
def _normal_(
    self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Overwrite with normally distributed numbers."""
    return self.copy_(_source(generator).normal(self.shape, mean, std, self.dtype))


def _source(generator: Generator | None) -> Generator:
    return default_generator if generator is None else generator
