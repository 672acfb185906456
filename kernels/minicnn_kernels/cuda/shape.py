"""Moving, choosing and copying elements. Views cost nothing; copies are one strided kernel (`storage.py`).

What sends gradients back to elements that were used several times lets each element collect its own: no
atomic additions, so results repeat bit for bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import Kernel, cuda, kernel, launch
from minicnn_kernels.cuda.indexing import chosen, give_back, is_plain, put, take
from minicnn_kernels.cuda.maps import constant, typed
from minicnn_kernels.cuda.storage import cast, copy_strided, dense, empty, flat, on_device, to_device
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.reference.shape import _pad_positions, takes_each_once

__all__ = [
    "broadcast_to", "cat", "contiguous", "copy", "copy_into", "flip", "full", "gather", "gather_backward",
    "getitem", "getitem_backward", "one_hot", "pad", "pad_backward", "permute", "reshape", "roll",
    "setitem", "takes_each_once", "tril", "triu",
]  # fmt: skip


def full(shape: Any, value: Any, dtype: Any) -> DeviceArray:
    """A new array filled with `value`."""
    result = empty((shape,) if isinstance(shape, int) else tuple(shape), dtype)
    launch(_fill, result.size, flat(result), result.dtype.type(value), result.size)
    return result


def copy(x: Any) -> DeviceArray:
    """A dense copy in C order."""
    return cast(x, x.dtype)


def contiguous(x: Any) -> DeviceArray:
    """x in C order: itself if it is so already."""
    return dense(x)


def reshape(x: Any, shape: Any) -> DeviceArray:
    """x in another shape, elements in C order; a view where x is dense."""
    on_device("reshape", x)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    view = x.reshaped(shape)
    if view is None:
        view = dense(x).reshaped(shape)
    assert view is not None  # dense arrays have every shape
    return view


def permute(x: Any, dims: Any) -> DeviceArray:
    """A view with dimension i taken from dims[i]."""
    return x.permuted(tuple(d % x.ndim for d in dims))


def broadcast_to(x: Any, shape: Any) -> DeviceArray:
    """A read-only view with repeated elements (stride 0)."""
    return x.broadcast(shape)


def getitem(x: Any, index: Any) -> DeviceArray:
    """x[index]: a view for numbers and slices, a copy for positions and masks.

    Raises IndexError for positions of the host that lie outside; one on the device there, which nobody waits
    for, gives NaN, or 0 of whole numbers.
    """
    on_device("getitem", x)
    if is_plain(index):
        return x.sliced(index if isinstance(index, tuple) else (index,))
    found = chosen(x, index)
    return take(reshape(found.view, found.shape), found.positions, found.axis)


def getitem_backward(grad: Any, shape: Any, index: Any) -> DeviceArray:
    """Gradient of x[index] for x of `shape`; elements taken several times add up."""
    result = full(shape, 0, grad.dtype)
    if is_plain(index):
        copy_strided(result.sliced(index if isinstance(index, tuple) else (index,)), grad)
        return result
    found = chosen(result, index)
    part = give_back(grad, found.positions, found.shape, found.axis, found.once)
    copy_strided(found.view, part.view(found.view.shape, None))
    return result


def setitem(x: Any, index: Any, value: Any) -> None:
    """x[index] = value, in place; of several values for one element the last stays."""
    on_device("setitem", x, value)
    if is_plain(index):
        copy_into(x.sliced(index if isinstance(index, tuple) else (index,)), value)
        return
    found = chosen(x, index)
    part = copy(found.view).view(found.shape, None)
    shape = *part.shape[: found.axis], *found.positions.shape, *part.shape[found.axis + 1 :]
    values = typed(value, x.dtype).broadcast(shape)
    put(part, values, found.positions, found.axis)
    copy_strided(found.view, part.view(found.view.shape, None))


def copy_into(destination: Any, source: Any) -> None:
    """Overwrite `destination` in place; `source` broadcasts and is cast."""
    on_device("copy_into", destination, source)
    if not isinstance(source, DeviceArray):
        source = constant(source, destination.dtype)
    elif source.shares_memory(destination):
        source = copy(source)
    copy_strided(destination, source.broadcast(destination.shape))


def cat(arrays: Any, dim: int) -> DeviceArray:
    """Arrays one after the other along `dim`."""
    on_device("cat", *arrays)
    dim %= arrays[0].ndim
    shape = list(arrays[0].shape)
    shape[dim] = sum(array.shape[dim] for array in arrays)
    result = empty(tuple(shape), np.result_type(*(array.dtype for array in arrays)))
    start = 0
    for array in arrays:
        end = start + array.shape[dim]
        copy_strided(result.sliced((*(slice(None),) * dim, slice(start, end))), array)
        start = end
    return result


def pad(x: Any, pad: Any, mode: str, value: Any) -> DeviceArray:
    """x with pad[i] = (before, after) elements more around dimension i; modes as in the reference."""
    if mode != "constant":
        for axis, widths in enumerate(pad):
            if tuple(widths) != (0, 0):
                positions = _pad_positions(x.shape[axis], tuple(widths), mode)
                x = take(dense(x), to_device(positions.astype(np.int64)), axis)
        return x
    shape = [size + before + after for size, (before, after) in zip(x.shape, pad, strict=True)]
    result = full(tuple(shape), value, x.dtype)
    copy_strided(result.sliced(_inner(pad)), x.sliced(_inner(tuple((-a, -b) for a, b in pad))))
    return result


def pad_backward(grad: Any, shape: Any, pad: Any, mode: str) -> DeviceArray:
    """Gradient of `pad` for an input of `shape`: each element gets what all its copies got."""
    if mode == "constant":
        result = full(shape, 0, grad.dtype)
        copy_strided(result.sliced(_inner(tuple((-a, -b) for a, b in pad))), grad.sliced(_inner(pad)))
        return result
    for axis, (size, widths) in enumerate(zip(shape, pad, strict=True)):
        if tuple(widths) != (0, 0):
            positions = to_device(_pad_positions(size, tuple(widths), mode).astype(np.int64))
            smaller = (*grad.shape[:axis], size, *grad.shape[axis + 1 :])
            grad = give_back(grad, positions, smaller, axis)
    return grad


def flip(x: Any, dims: Any) -> DeviceArray:
    """Elements in reverse order along `dims`, a copy."""
    backwards = {d % x.ndim for d in ((dims,) if isinstance(dims, int) else dims)}
    return copy(x.sliced(tuple(slice(None, None, -1 if d in backwards else 1) for d in range(x.ndim))))


def roll(x: Any, shifts: Any, dims: Any) -> DeviceArray:
    """Elements moved by `shifts` along `dims`, re-entering at the other end; dims None: as if flat."""
    if dims is None:
        return roll(reshape(x, (x.size,)), (shifts,), (0,)).view(x.shape, None)
    for shift, dim in zip(shifts, dims, strict=True):
        leading, size = (slice(None),) * (dim % x.ndim), x.shape[dim]
        cut = size - shift % size if size else 0
        x = cat([x.sliced((*leading, slice(cut, None))), x.sliced((*leading, slice(0, cut)))], dim)
    return copy(x) if not dims else x


def gather(x: Any, dim: int, index: Any) -> DeviceArray:
    """result[i][j][k] = x[i][index[i][j][k]][k] for dim 1, and so on. index: int64."""
    on_device("gather", x, index)
    dim %= index.ndim
    x = dense(x.sliced(_corner(index.shape, dim)))
    result = empty(index.shape, x.dtype)
    count, after = index.shape[dim], math.prod(index.shape[dim + 1 :])
    launch(
        _gather,
        result.size,
        flat(result),
        flat(x),
        flat(dense(index)),
        x.shape[dim],
        count,
        after,
        result.size,
    )
    return result


def gather_backward(grad: Any, shape: Any, dim: int, index: Any) -> DeviceArray:
    """Gradient of `gather` for x of `shape`; elements gathered several times add up."""
    dim %= index.ndim
    result = full(shape, 0, grad.dtype)
    part = result.sliced(_corner(index.shape, dim))
    collected = empty(part.shape, grad.dtype)
    count, after = index.shape[dim], math.prod(index.shape[dim + 1 :])
    launch(
        _gather_backward,
        collected.size,
        flat(collected),
        flat(dense(grad)),
        flat(dense(index)),
        part.shape[dim],
        count,
        after,
        collected.size,
    )
    copy_strided(part, collected)
    return result


def one_hot(index: Any, classes: int, dtype: Any) -> DeviceArray:
    """(..., classes): one at each class number, zero elsewhere. index: whole numbers below `classes`."""
    result = empty((*index.shape, classes), dtype)
    launch(_one_hot, result.size, flat(result), flat(dense(index)), classes, result.size)
    return result


def tril(x: Any, diagonal: int) -> DeviceArray:
    """The last two dimensions, zero above `diagonal` (0: the main one, positive: above it)."""
    return _triangle(_tril, x, diagonal)


def triu(x: Any, diagonal: int) -> DeviceArray:
    """The last two dimensions, zero below `diagonal`."""
    return _triangle(_triu, x, diagonal)


def _inner(pad: Any) -> tuple[slice, ...]:
    """Slices of a padded array that the original one fills; where `pad` is negative, all."""
    return tuple(slice(before if before > 0 else 0, -after if after > 0 else None) for before, after in pad)


def _corner(shape: tuple[int, ...], dim: int) -> tuple[slice, ...]:
    return tuple(slice(None) if axis == dim else slice(size) for axis, size in enumerate(shape))


def _triangle(run: Kernel, x: DeviceArray, diagonal: int) -> DeviceArray:
    result = copy(x)
    rows, columns = x.shape[-2:]
    launch(run, result.size, flat(result), rows, columns, diagonal, result.size)
    return result


@kernel("float32[::1], float32, int64")
def _fill(out, value, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        out[i] = value


@kernel("float32[::1], float32[::1], int64[::1], int64, int64, int64, int64")
def _gather(out, x, index, size, count, after, total):
    for i in range(cuda.grid(1), total, cuda.gridsize(1)):
        out[i] = x[(i // after // count * size + index[i]) * after + i % after]


@kernel("float32[::1], float32[::1], int64[::1], int64, int64, int64, int64")
def _gather_backward(dx, grad, index, size, count, after, total):
    for i in range(cuda.grid(1), total, cuda.gridsize(1)):
        mine, value = i // after % size, grad.dtype.type(0)
        first = i // after // size * count
        for j in range(count):
            place = (first + j) * after + i % after
            if index[place] == mine:
                value += grad[place]
        dx[i] = value


@kernel("float32[::1], int64[::1], int64, int64")
def _one_hot(out, index, classes, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        out[i] = index[i // classes] == i % classes


@kernel("float32[::1], int64, int64, int64, int64")
def _tril(x, rows, columns, diagonal, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        if i % columns > i // columns % rows + diagonal:
            x[i] = 0


@kernel("float32[::1], int64, int64, int64, int64")
def _triu(x, rows, columns, diagonal, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        if i % columns < i // columns % rows + diagonal:
            x[i] = 0
