"""The same elements in another shape: reshape, permute, expand, repeat.

Most results are views that share memory with their input. Joining and splitting is in `joining.py`, moving
elements about in `moving.py`, choosing them in `indexing.py`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.arguments import fail, integers, normalized_dim
from minicnn.tensor import Tensor, tensor_method

__all__ = [
    "broadcast_tensors",
    "broadcast_to",
    "expand",
    "flatten",
    "movedim",
    "permute",
    "ravel",
    "repeat_interleave",
    "reshape",
    "squeeze",
    "swapaxes",
    "swapdims",
    "t",
    "tile",
    "transpose",
    "unflatten",
    "unsqueeze",
]


class Reshape(Function):
    """Another shape, elements in C order."""

    is_view = True

    def forward(self, x: Any, *, shape: tuple[int, ...]) -> Any:
        self.shape = x.shape
        return kernels.of(x).reshape(x, shape)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).reshape(grad, self.shape),)


class Permute(Function):
    """Dimension i is dimension dims[i] of x."""

    is_view = True

    def forward(self, x: Any, *, dims: tuple[int, ...]) -> Any:
        self.dims = dims
        return kernels.of(x).permute(x, dims)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        inverse = sorted(range(len(self.dims)), key=self.dims.__getitem__)
        return (kernels.of(grad).permute(grad, tuple(inverse)),)


class BroadcastTo(Function):
    """Dimensions of size 1 repeated without copying."""

    is_view = True

    def forward(self, x: Any, *, shape: tuple[int, ...]) -> Any:
        self.shape = x.shape
        return kernels.of(x).broadcast_to(x, shape)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).sum_to(grad, self.shape),)


def sizes_of(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """`f(2, 3)` and `f((2, 3))` mean the same."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    return tuple(operator.index(size) for size in sizes)


# -- shape and order of dimensions ----------------------------------------------------------------


def reshape(input: Tensor, shape: Any) -> Tensor:
    """`input` in another shape with as many elements, a view where strides allow; one size may be -1.

    Raises ValueError if the sizes do not fit.
    """
    wanted = sizes_of((shape,))
    sizes = _completed("reshape", wanted, input.numel())
    if math.prod(sizes) != input.numel():
        raise fail(
            "reshape", f"{input.numel()} elements of shape {input.shape} do not fit into shape {wanted}"
        )
    return Reshape.apply(input, shape=sizes)


def _completed(op: str, sizes: tuple[int, ...], count: int) -> tuple[int, ...]:
    """`sizes` with a -1 replaced by what makes the product `count`."""
    if sizes.count(-1) > 1 or any(size < -1 for size in sizes):
        raise fail(op, f"expected sizes with at most one -1, got {sizes}")
    if -1 not in sizes:
        return sizes
    known = -math.prod(sizes)
    if known == 0 or count % known:
        raise fail(op, f"{count} elements do not fit into shape {sizes}: there is no size for -1")
    return tuple(count // known if size == -1 else size for size in sizes)


@tensor_method("reshape", "view")
def _reshape(self: Tensor, *shape: Any) -> Tensor:
    """`self` in another shape; see minicnn.reshape. `view` copies, too, where strides allow no view."""
    return reshape(self, sizes_of(shape))


@tensor_method("reshape_as", "view_as")
def _reshape_as(self: Tensor, other: Tensor) -> Tensor:
    """`self` in the shape of `other`."""
    return reshape(self, other.shape)


@tensor_method()
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions `start_dim` to `end_dim` (included) merged into one."""
    first = normalized_dim("flatten", start_dim, input.ndim)
    last = normalized_dim("flatten", end_dim, input.ndim)
    if first > last:
        raise fail("flatten", f"start_dim {start_dim} lies behind end_dim {end_dim}")
    shape = input.shape or (1,)
    return Reshape.apply(
        input, shape=(*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])
    )


@tensor_method()
def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Dimension `dim` split into `sizes`, of which one may be -1."""
    dim = normalized_dim("unflatten", dim, input.ndim)
    sizes = _completed("unflatten", tuple(sizes), input.shape[dim])
    return reshape(input, (*input.shape[:dim], *sizes, *input.shape[dim + 1 :]))


@tensor_method()
def ravel(input: Tensor) -> Tensor:
    """All elements in one dimension."""
    return reshape(input, -1 if input.numel() else 0)


@tensor_method()
def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Without the dimensions of size 1, or without those of them named by `dim` (an int or several)."""
    if dim is None:
        dims = tuple(range(input.ndim))
    else:
        dims = tuple(
            normalized_dim("squeeze", d, input.ndim) for d in (dim if isinstance(dim, tuple) else (dim,))
        )
    shape = tuple(size for i, size in enumerate(input.shape) if size != 1 or i not in dims)
    return Reshape.apply(input, shape=shape)


@tensor_method()
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With one more dimension of size 1, at position `dim` of the result."""
    dim = normalized_dim("unsqueeze", dim, input.ndim + 1)
    return Reshape.apply(input, shape=(*input.shape[:dim], 1, *input.shape[dim:]))


def permute(input: Tensor, dims: Sequence[int]) -> Tensor:
    """A view with dimension i taken from dims[i]. Raises ValueError unless every dimension appears once."""
    order = tuple(normalized_dim("permute", dim, input.ndim) for dim in dims)
    if sorted(order) != list(range(input.ndim)):
        raise fail("permute", f"expected each of the {input.ndim} dimensions once, got {tuple(dims)}")
    return Permute.apply(input, dims=order)


@tensor_method("permute")
def _permute(self: Tensor, *dims: Any) -> Tensor:
    """A view with dimension i taken from dims[i]."""
    return permute(self, sizes_of(dims))


@tensor_method("transpose", "swapaxes", "swapdims")
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """A view with two dimensions exchanged."""
    first = normalized_dim("transpose", dim0, input.ndim)
    second = normalized_dim("transpose", dim1, input.ndim)
    dims = list(range(input.ndim))
    if dims:
        dims[first], dims[second] = second, first
    return Permute.apply(input, dims=tuple(dims))


@tensor_method()
def t(input: Tensor) -> Tensor:
    """A matrix transposed; one dimension or none stays as it is. Raises ValueError for more than two."""
    if input.ndim > 2:
        raise fail("t", f"expected at most two dimensions, got shape {input.shape}; use transpose")
    return permute(input, range(input.ndim)[::-1])


@tensor_method("movedim", "moveaxis")
def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """A view with dimension `source` at position `destination`; both may be several."""
    sources, destinations = (
        [
            normalized_dim("movedim", d, input.ndim)
            for d in (dims if isinstance(dims, (tuple, list)) else (dims,))
        ]
        for dims in (source, destination)
    )
    if not len(sources) == len(destinations) == len(set(sources)) == len(set(destinations)):
        raise fail(
            "movedim", f"expected as many different sources as destinations, got {source}, {destination}"
        )
    order = [d for d in range(input.ndim) if d not in sources]
    for place, dim in sorted(zip(destinations, sources, strict=True)):
        order.insert(place, dim)
    return Permute.apply(input, dims=tuple(order))


# -- repeating ------------------------------------------------------------------------------------


def broadcast_to(input: Tensor, shape: Any) -> Tensor:
    """A view of `shape` with dimensions of size 1 repeated; -1 keeps a size.

    Raises ValueError if a size other than 1 would have to change.
    """
    wanted = sizes_of((shape,))
    extra = len(wanted) - input.ndim
    sizes = tuple(
        input.shape[i - extra] if size == -1 and i >= extra else size for i, size in enumerate(wanted)
    )
    if extra < 0 or any(
        (size != old and old != 1) or size < 0
        for size, old in zip(sizes, (1,) * extra + input.shape, strict=True)
    ):
        raise fail("expand", f"shape {input.shape} does not broadcast to {wanted}")
    return BroadcastTo.apply(input, shape=sizes)


expand = broadcast_to


@tensor_method("expand", "broadcast_to")
def _expand(self: Tensor, *sizes: Any) -> Tensor:
    """A view with dimensions of size 1 repeated; -1 keeps a size."""
    return broadcast_to(self, sizes_of(sizes))


@tensor_method("expand_as")
def _expand_as(self: Tensor, other: Tensor) -> Tensor:
    """A view repeated to the shape of `other`."""
    return broadcast_to(self, other.shape)


def broadcast_tensors(*tensors: Tensor) -> list[Tensor]:
    """All tensors as views of the shape that they broadcast to."""
    rank = max(x.ndim for x in tensors)
    padded = [(1,) * (rank - x.ndim) + x.shape for x in tensors]
    shape = tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True))
    return [broadcast_to(x, shape) for x in tensors]


def tile(input: Tensor, dims: Sequence[int]) -> Tensor:
    """`input` repeated dims[i] times along dimension i; missing counts are 1."""
    counts = (1,) * (input.ndim - len(dims)) + tuple(dims)
    shape = (1,) * (len(counts) - input.ndim) + input.shape
    paired = reshape(input, [n for size in shape for n in (1, size)])
    repeated = broadcast_to(paired, [n for pair in zip(counts, shape, strict=True) for n in pair])
    return reshape(repeated, [count * size for count, size in zip(counts, shape, strict=True)])


@tensor_method("tile")
def _tile(self: Tensor, *dims: Any) -> Tensor:
    """`self` repeated dims[i] times along dimension i; missing counts are 1."""
    return tile(self, sizes_of(dims))


@tensor_method("repeat")
def _repeat(self: Tensor, *sizes: Any) -> Tensor:
    """`self` repeated sizes[i] times along dimension i. Raises ValueError for too few counts."""
    counts = sizes_of(sizes)
    if len(counts) < self.ndim:
        raise fail("repeat", f"expected at least {self.ndim} counts for shape {self.shape}, got {counts}")
    return tile(self, counts)


@tensor_method()
def repeat_interleave(input: Tensor, repeats: int, dim: int | None = None) -> Tensor:
    """Each element `repeats` times in a row along `dim`, or in the flattened tensor."""
    if dim is None:
        input, dim = ravel(input), 0
    dim = normalized_dim("repeat_interleave", dim, input.ndim)
    (count,) = integers("repeat_interleave", "repeats", repeats, 1, 0)
    before, size, after = input.shape[:dim], input.shape[dim], input.shape[dim + 1 :]
    repeated = broadcast_to(reshape(input, (*before, size, 1, *after)), (*before, size, count, *after))
    return reshape(repeated, (*before, size * count, *after))


swapaxes = swapdims = transpose
