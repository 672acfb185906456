"""Joining tensors and splitting them: cat, stack, split, chunk, unbind. Parts of a split are views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.arguments import fail, integers, normalized_dim
from minicnn.functions.promotion import promote_types
from minicnn.functions.shape import unsqueeze
from minicnn.tensor import Tensor, tensor_method

__all__ = [
    "cat",
    "chunk",
    "concat",
    "concatenate",
    "split",
    "stack",
    "unbind",
]


class Cat(Function):
    """Tensors one after the other along `dim`."""

    def forward(self, *arrays: Any, dim: int) -> Any:
        self.dim, self.sizes = dim, [array.shape[dim] for array in arrays]
        return kernels.of(*arrays).cat(arrays, dim)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k, before, start, parts = kernels.of(grad), (slice(None),) * self.dim, 0, []
        for size, wanted in zip(self.sizes, self.needs_input_grad, strict=True):
            parts.append(k.getitem(grad, (*before, slice(start, start + size))) if wanted else None)
            start += size
        return tuple(parts)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one after the other along `dim`. Raises ValueError for none, or where other sizes differ."""
    tensors = list(tensors)
    if not tensors:
        raise fail("cat", "expected at least one tensor, got none")
    if len(tensors) > 1:  # PyTorch lets an empty list's tensor of shape (0,) join anything
        tensors = [x for x in tensors if x.shape != (0,)] or tensors[:1]
    first = tensors[0]
    if first.ndim == 0:
        raise fail("cat", "numbers without dimensions cannot be joined; use stack")
    dim = normalized_dim("cat", dim, first.ndim)
    dtype = first.dtype
    for i, x in enumerate(tensors):
        dtype = promote_types(dtype, x.dtype)
        if x.ndim != first.ndim or any(d != dim and size != first.shape[d] for d, size in enumerate(x.shape)):
            raise fail(
                "cat",
                f"expected equal sizes outside of dimension {dim}, got {first.shape} and {x.shape} at {i}",
            )
    return Cat.apply(*(x.to(dtype) for x in tensors), dim=dim)


concat = concatenate = cat


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape along a new dimension `dim`."""
    return cat([unsqueeze(x, dim) for x in tensors], dim)


@tensor_method()
def split(tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views along `dim`: of this size each (the last may be smaller), or of these sizes.

    Raises ValueError if sizes do not add up.
    """
    dim = normalized_dim("split", dim, tensor.ndim)
    size = tensor.shape[dim]
    if isinstance(split_size_or_sections, int):
        (step,) = integers("split", "split_size_or_sections", split_size_or_sections, 1, 1)
        sections = [min(step, size - start) for start in range(0, size, step)] or [0]
    else:
        sections = list(split_size_or_sections)
        if sum(sections) != size:
            raise fail("split", f"sizes {sections} do not add up to {size}, the size of dimension {dim}")
    starts = [sum(sections[:i]) for i in range(len(sections))]
    return tuple(tensor.narrow(dim, start, length) for start, length in zip(starts, sections, strict=True))


@tensor_method()
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` views of equal size along `dim`; the last may be smaller."""
    dim = normalized_dim("chunk", dim, input.ndim)
    (chunks,) = integers("chunk", "chunks", chunks, 1, 1)
    size = input.shape[dim]
    return split(input, -(-size // chunks) if size else [0] * chunks, dim)


@tensor_method()
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of all positions along `dim`, without that dimension."""
    return tuple(input.select(dim, i) for i in range(input.shape[normalized_dim("unbind", dim, input.ndim)]))
