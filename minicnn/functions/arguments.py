"""Checks of arguments, once, before any kernel runs; each error names the layer, what came and what fits.

Shapes and dtypes of particular ops are checked beside them; here is what many share.
"""

from __future__ import annotations

import operator
from typing import Any

from minicnn import scope
from minicnn.tensor import Tensor


def fail(op: str, message: str) -> ValueError:
    """The error of `op`, to be raised by the caller: where it happened and what is wrong."""
    return ValueError(f"{scope.where(op)}: {message}")


def check_tensors(op: str, /, **tensors: Any) -> None:
    """All that are not None must be float tensors of one dtype. Raises TypeError."""
    first = dtype = None
    for name, x in tensors.items():
        if x is None:
            continue
        if not isinstance(x, Tensor):
            raise TypeError(
                f"{scope.where(op)}: expected {name} to be a Tensor, got {type(x).__name__}; "
                f"wrap it in minicnn.tensor(...)"
            )
        if x.dtype.kind != "f":
            raise TypeError(
                f"{scope.where(op)}: expected {name} of float32 or float64, got {x.dtype}; "
                f"convert it with .to(minicnn.float32)"
            )
        if dtype is None:
            first, dtype = name, x.dtype
        elif x.dtype != dtype:
            raise TypeError(
                f"{scope.where(op)}: expected one dtype, got {first} {dtype} and {name} {x.dtype}; "
                f"convert one, for example with {first}.to(minicnn.{x.dtype})"
            )


def integers(op: str, name: str, value: Any, count: int, minimum: int) -> tuple[int, ...]:
    """`count` integers of at least `minimum`; a single one is repeated."""
    entries = tuple(value) if isinstance(value, (tuple, list)) else (value,) * count
    try:
        if len(entries) == 1:
            entries *= count
        numbers = tuple(operator.index(entry) for entry in entries)
    except TypeError:
        numbers = ()
    if len(numbers) != count or min(numbers) < minimum:
        several = f", or {count} of them" if count > 1 else ""
        raise fail(op, f"expected {name} to be an integer of at least {minimum}{several}, got {value!r}")
    return numbers


def one_of(op: str, name: str, value: Any, choices: tuple[str, ...]) -> None:
    """`value` must be one of `choices`."""
    if value not in choices:
        raise fail(op, f"expected {name} to be one of {', '.join(map(repr, choices))}, got {value!r}")


def same_shape(op: str, /, **tensors: Tensor) -> None:
    """All must have one shape: losses do not broadcast, for (N, 1) against (N,) would mean N x N pairs."""
    shapes = {name: x.shape for name, x in tensors.items()}
    if len(set(shapes.values())) > 1:
        got = " and ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise fail(op, f"expected one shape, got {got}; reshape one of them")


def normalized_dim(op: str, dim: Any, ndim: int) -> int:
    """`dim` counted from the front. A tensor without dimensions has dimension 0, as in PyTorch."""
    limit = max(ndim, 1)
    if isinstance(dim, bool) or not isinstance(dim, int) or not -limit <= dim < limit:
        raise fail(op, f"expected dim to be an integer from {-limit} to {limit - 1}, got {dim!r}")
    return dim % limit
