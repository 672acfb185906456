"""Order and positions: largest and smallest with their places, sorting, the best k."""

from __future__ import annotations

from typing import Any, NamedTuple

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions import arithmetic, reduction
from minicnn.functions.arguments import fail, normalized_dim
from minicnn.tensor import Tensor, tensor_method

__all__ = ["argmax", "argmin", "argsort", "max", "min", "sort", "topk"]


class ValuesIndices(NamedTuple):
    """Values and the int64 positions that they had."""

    values: Tensor
    indices: Tensor


class ExtremeAt(Function):
    """(largest or smallest elements along one dimension, their positions); the first of equals wins."""

    def forward(self, x: Any, *, largest: bool, dim: int, keepdim: bool) -> Any:
        k = kernels.of(x)
        indices = (k.argmax if largest else k.argmin)(x, dim, True)
        self.shape, self.dim, self.indices = x.shape, dim, indices
        values = k.gather(x, dim, indices)
        if keepdim:
            return values, indices
        rest = tuple(size for i, size in enumerate(x.shape) if i != dim)
        return k.reshape(values, rest), k.reshape(indices, rest)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        grad = k.reshape(grad, self.indices.shape)
        return (k.gather_backward(grad, self.shape, self.dim, self.indices),)


class Sort(Function):
    """(elements in order along `dim`, their positions)."""

    def forward(self, x: Any, *, dim: int, descending: bool) -> Any:
        values, indices = kernels.of(x).sort(x, dim, descending)
        self.shape, self.dim, self.indices = x.shape, dim, indices
        return values, indices

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).gather_backward(grad, self.shape, self.dim, self.indices),)


class TopK(Function):
    """(the k largest or smallest elements along `dim`, best first, their positions)."""

    def forward(self, x: Any, *, k: int, dim: int, largest: bool) -> Any:
        values, indices = kernels.of(x).topk(x, k, dim, largest)
        self.shape, self.dim, self.indices = x.shape, dim, indices
        return values, indices

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).gather_backward(grad, self.shape, self.dim, self.indices),)


class ArgExtreme(Function):
    """Position of the first largest or smallest element along `dim`, or in the flattened tensor."""

    def forward(self, x: Any, *, largest: bool, dim: int | None, keepdim: bool) -> Any:
        k = kernels.of(x)
        return (k.argmax if largest else k.argmin)(x, dim, keepdim)


def _extreme(op: str, largest: bool, input: Tensor, dim: Any, keepdim: bool) -> Any:
    if dim is None:
        return (reduction.amax if largest else reduction.amin)(input)
    if isinstance(dim, Tensor):
        return (arithmetic.maximum if largest else arithmetic.minimum)(input, dim)
    dim = normalized_dim(op, dim, input.ndim)
    if input.ndim == 0:
        values, indices = ExtremeAt.apply(input.reshape(1), largest=largest, dim=0, keepdim=False)
        return ValuesIndices(values, indices)
    _check_some(op, input, dim)
    return ValuesIndices(*ExtremeAt.apply(input, largest=largest, dim=dim, keepdim=keepdim))


def _check_some(op: str, input: Tensor, dim: int | None) -> None:
    size = input.numel() if dim is None or input.ndim == 0 else input.shape[dim]
    if size == 0:
        raise fail(op, f"nothing to choose from: shape {input.shape}, dim={dim}")


@tensor_method()
def max(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest element; with `dim` (values, indices) along it; with another tensor `maximum` of both.

    NaN wins. Without `dim` equal elements share the gradient, with it the first one gets it.
    """
    return _extreme("max", True, input, dim, keepdim)


@tensor_method()
def min(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest element; with `dim` (values, indices) along it; with another tensor `minimum` of both.

    NaN wins. Without `dim` equal elements share the gradient, with it the first one gets it.
    """
    return _extreme("min", False, input, dim, keepdim)


def _position(op: str, largest: bool, input: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    dim = None if dim is None or input.ndim == 0 else normalized_dim(op, dim, input.ndim)
    _check_some(op, input, dim)
    return ArgExtreme.apply(input, largest=largest, dim=dim, keepdim=keepdim)


@tensor_method()
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Position (int64) of the first largest element along `dim`, or in the flattened tensor."""
    return _position("argmax", True, input, dim, keepdim)


@tensor_method()
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Position (int64) of the first smallest element along `dim`, or in the flattened tensor."""
    return _position("argmin", False, input, dim, keepdim)


@tensor_method()
def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> ValuesIndices:
    """(values, indices) in order along `dim`. Equal elements keep their order, whatever `stable` says."""
    _check_dimensions("sort", input)
    dim = normalized_dim("sort", dim, input.ndim)
    return ValuesIndices(*Sort.apply(input, dim=dim, descending=bool(descending)))


@tensor_method()
def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The positions (int64) that put `input` in order along `dim`."""
    return sort(input, dim, descending, stable).indices


@tensor_method()
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> ValuesIndices:
    """(values, indices) of the k largest or smallest elements along `dim`, always best first.

    Raises ValueError if there are fewer than k.
    """
    _check_dimensions("topk", input)
    dim = normalized_dim("topk", dim, input.ndim)
    if not 0 <= k <= input.shape[dim]:
        raise fail("topk", f"expected k from 0 to {input.shape[dim]}, the size of dimension {dim}, got {k}")
    return ValuesIndices(*TopK.apply(input, k=k, dim=dim, largest=bool(largest)))


def _check_dimensions(op: str, input: Tensor) -> None:
    if input.ndim == 0:
        raise fail(op, "expected a tensor with dimensions, got a single number; use reshape(1)")
