"""Elements moved about or masked by place: clone, flip, roll, pad, triangles. All of these copy."""

from __future__ import annotations

from typing import Any

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.arguments import fail, normalized_dim
from minicnn.functions.shape import sizes_of
from minicnn.tensor import Tensor, tensor_method

__all__ = [
    "clone",
    "flip",
    "fliplr",
    "flipud",
    "roll",
    "tril",
    "triu",
]


class Clone(Function):
    """A copy."""

    def forward(self, x: Any) -> Any:
        return kernels.of(x).copy(x)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (grad,)


class Flip(Function):
    """Elements in reverse order along `dims`."""

    def forward(self, x: Any, *, dims: tuple[int, ...]) -> Any:
        self.dims = dims
        return kernels.of(x).flip(x, dims)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).flip(grad, self.dims),)


class Roll(Function):
    """Elements moved by `shifts` along `dims` (None: as if flat), re-entering at the other end."""

    def forward(self, x: Any, *, shifts: tuple[int, ...], dims: tuple[int, ...] | None) -> Any:
        self.shifts, self.dims = shifts, dims
        return self._rolled(x, shifts)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (self._rolled(grad, tuple(-shift for shift in self.shifts)),)

    def _rolled(self, x: Any, shifts: tuple[int, ...]) -> Any:
        return kernels.of(x).roll(x, shifts if self.dims else shifts[0], self.dims)


class Pad(Function):
    """`pad` = ((before, after), ...) more elements per dimension; see the kernel for the modes."""

    def forward(self, x: Any, *, pad: tuple[tuple[int, int], ...], mode: str, value: float) -> Any:
        self.shape, self.pad, self.mode = x.shape, pad, mode
        return kernels.of(x).pad(x, pad, mode, value)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).pad_backward(grad, self.shape, self.pad, self.mode),)


class Tril(Function):
    """Zero above a diagonal of the last two dimensions."""

    def forward(self, x: Any, *, diagonal: int) -> Any:
        self.diagonal = diagonal
        return kernels.of(x).tril(x, diagonal)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).tril(grad, self.diagonal),)


class Triu(Function):
    """Zero below a diagonal of the last two dimensions."""

    def forward(self, x: Any, *, diagonal: int) -> Any:
        self.diagonal = diagonal
        return kernels.of(x).triu(x, diagonal)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).triu(grad, self.diagonal),)


@tensor_method()
def clone(input: Tensor) -> Tensor:
    """A copy through which gradients flow."""
    return Clone.apply(input)


def flip(input: Tensor, dims: Any) -> Tensor:
    """Elements in reverse order along `dims` (an int or several), a copy."""
    dims = dims if isinstance(dims, (tuple, list)) else (dims,)
    return Flip.apply(input, dims=tuple(normalized_dim("flip", dim, input.ndim) for dim in dims))


@tensor_method("flip")
def _flip(self: Tensor, *dims: Any) -> Tensor:
    """Elements in reverse order along `dims`, a copy."""
    return flip(self, sizes_of(dims))


@tensor_method()
def fliplr(input: Tensor) -> Tensor:
    """Columns in reverse order."""
    return flip(input, 1)


@tensor_method()
def flipud(input: Tensor) -> Tensor:
    """Rows in reverse order."""
    return flip(input, 0)


@tensor_method()
def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Elements moved by `shifts` along `dims` (None: as if flat), re-entering at the other end."""
    shifts = tuple(shifts) if isinstance(shifts, (tuple, list)) else (shifts,)
    if dims is not None:
        dims = dims if isinstance(dims, (tuple, list)) else (dims,)
        dims = tuple(normalized_dim("roll", dim, input.ndim) for dim in dims)
    if len(shifts) != (1 if dims is None else len(dims)):
        raise fail("roll", f"expected one shift for each dimension, got shifts {shifts}, dims {dims}")
    return Roll.apply(input, shifts=shifts, dims=dims)


@tensor_method()
def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The last two dimensions with zeros above `diagonal` (0: the main one, positive: above it)."""
    return Tril.apply(_matrix(input, "tril"), diagonal=diagonal)


@tensor_method()
def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The last two dimensions with zeros below `diagonal`."""
    return Triu.apply(_matrix(input, "triu"), diagonal=diagonal)


def _matrix(input: Tensor, op: str) -> Tensor:
    if input.ndim < 2:
        raise fail(op, f"expected at least two dimensions, got shape {input.shape}")
    return input
