"""Choosing elements: by index expression, by position along a dimension, by class number."""

from __future__ import annotations

from typing import Any

import numpy as np

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.arguments import fail, integers, normalized_dim
from minicnn.tensor import Tensor, int64, tensor_method, unwrap_index

__all__ = ["gather", "index_select", "masked_select", "narrow", "one_hot", "select", "take_along_dim"]

_ARRAYS = (np.ndarray, kernels.DeviceArray)


class GetItem(Function):
    """x[index]; where an element is taken several times, its gradients add up."""

    is_view = True

    def forward(self, x: Any, *, index: Any) -> Any:
        self.shape, self.index = x.shape, index
        return kernels.of(x).getitem(x, index)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).getitem_backward(grad, self.shape, self.index),)


class Gather(Function):
    """Elements at `index` along `dim`; where one is taken several times, its gradients add up."""

    def forward(self, x: Any, index: Any, *, dim: int) -> Any:
        self.shape, self.index, self.dim = x.shape, index, dim
        return kernels.of(x).gather(x, dim, index)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return kernels.of(grad).gather_backward(grad, self.shape, self.dim, self.index), None


class OneHot(Function):
    """A row of zeros with one 1 for each class number."""

    def forward(self, index: Any, *, classes: int) -> Any:
        return kernels.of(index).one_hot(index, classes, int64)


@tensor_method("__getitem__")
def _getitem(self: Tensor, index: Any) -> Tensor:
    """self[index]: numbers, slices, None, ..., positions (tensors, arrays, lists) and boolean masks.

    Numbers and slices give views. As in PyTorch, numbers are applied before positions, where NumPy takes them
    for positions, too. Raises IndexError for what lies outside.
    """
    parts = unwrap_index(index)
    parts = parts if isinstance(parts, tuple) else (parts,)
    arrays = [part for part in parts if isinstance(part, _ARRAYS) and part.ndim]
    for array in arrays:
        if array.size == 0 and array.dtype.kind == "f":  # an empty list
            continue
        if array.dtype.kind not in "iub":
            raise IndexError(f"indices must be whole numbers, booleans or slices, got {array.dtype}")
    if not arrays:
        return GetItem.apply(self, index=parts)
    parts = tuple(
        part.astype(int64) if isinstance(part, np.ndarray) and part.dtype.kind == "f" else part
        for part in parts
    )
    if not any(_is_number(part) for part in parts):
        return GetItem.apply(self, index=parts)
    whole = slice(None)
    first: list[Any] = []
    for part in parts:
        if isinstance(part, _ARRAYS) and part.ndim:
            first += [whole] * (part.ndim if part.dtype.kind == "b" else 1)
        elif part is not None:
            first.append(part)
    return GetItem.apply(
        GetItem.apply(self, index=tuple(first)),
        index=tuple(whole if isinstance(part, slice) else part for part in parts if not _is_number(part)),
    )


def _is_number(part: Any) -> bool:
    """Whether an index part is one position."""
    if isinstance(part, (bool, np.bool_)):
        return False
    return isinstance(part, (int, np.integer)) or (
        isinstance(part, _ARRAYS) and part.ndim == 0 and part.dtype.kind in "iu"
    )


@tensor_method()
def select(input: Tensor, dim: int, index: int) -> Tensor:
    """A view of position `index` along `dim`, without that dimension. Raises IndexError outside."""
    dim = normalized_dim("select", dim, input.ndim)
    return input[(slice(None),) * dim + (index,)]


@tensor_method()
def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """A view of `length` positions along `dim`, from `start` on. Raises ValueError if there are fewer."""
    dim = normalized_dim("narrow", dim, input.ndim)
    size = input.shape[dim]
    start = start + size if start < 0 else start
    if not (start >= 0 and 0 <= length <= size - start):
        raise fail("narrow", f"{length} positions from {start} on exceed {size}, the size of dimension {dim}")
    return input[(slice(None),) * dim + (slice(start, start + length),)]


@tensor_method()
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The positions `index` (whole numbers, one dimension) along `dim`; each may appear several times."""
    dim = normalized_dim("index_select", dim, input.ndim)
    if index.ndim > 1 or index.dtype.kind not in "iu":
        raise fail(
            "index_select", f"expected one dimension of whole numbers, got {index.dtype} {index.shape}"
        )
    return input[(slice(None),) * dim + (index.reshape(-1),)]


@tensor_method()
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where `mask` is true, in one dimension; both broadcast."""
    shape = np.broadcast_shapes(input.shape, mask.shape)
    return input.expand(shape)[mask.expand(shape)]


@tensor_method()
def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """result[i][j][k] = input[i][index[i][j][k]][k] for dim 1, and so on.

    index: int64, of as many dimensions as `input`, nowhere larger except along `dim`.
    Raises ValueError for another shape, IndexError for positions outside, TypeError for other types.
    """
    dim = normalized_dim("gather", dim, input.ndim)
    if index.dtype != int64:
        raise TypeError(f"gather: expected an index of int64, got {index.dtype}; use index.long()")
    if index.ndim != input.ndim or any(
        i != dim and size > input.shape[i] for i, size in enumerate(index.shape)
    ):
        raise fail("gather", f"an index of shape {index.shape} does not fit an input of shape {input.shape}")
    size = input.shape[dim] if input.ndim else 1
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < size:
        raise IndexError(
            f"gather: expected positions from 0 to {size - 1} along dimension {dim}, "
            f"got {int(index.min())} to {int(index.max())}"
        )
    return Gather.apply(input, index, dim=dim)


@tensor_method()
def take_along_dim(input: Tensor, indices: Tensor, dim: int) -> Tensor:
    """`gather` for an index that broadcasts against `input` except along `dim`."""
    dim = normalized_dim("take_along_dim", dim, input.ndim)
    shape = tuple(indices.shape[d] if d == dim else size for d, size in enumerate(input.shape))
    return gather(input, dim, indices.expand(shape))


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """(..., num_classes) of int64: one at each class number, zero elsewhere; -1 counts the classes.

    Raises TypeError for anything but whole numbers, ValueError for class numbers out of range.
    """
    if tensor.dtype.kind not in "iu":
        raise TypeError(f"one_hot: expected class numbers of int64, got {tensor.dtype}; use tensor.long()")
    if num_classes == -1:
        if tensor.numel() == 0:
            raise fail("one_hot", "no class numbers to count the classes from; pass num_classes")
        num_classes = int(tensor.max()) + 1
    (classes,) = integers("one_hot", "num_classes", num_classes, 1, 1)
    if tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) < classes:
        raise fail(
            "one_hot",
            f"expected class numbers from 0 to {classes - 1}, got {int(tensor.min())} to {int(tensor.max())}",
        )
    return OneHot.apply(tensor, classes=classes)
