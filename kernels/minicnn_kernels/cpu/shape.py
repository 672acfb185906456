"""Copies that change the layout, in parallel tiles (`layout.py`); memory from the pool.

Views, indexing, joining and sorting are the reference's: NumPy's loops over memory are as fast. But images
stay channels-last: NumPy would give padding, and the gradient of a slice, in C order, and every op after them
would have to change the layout (an eighth of a ResNet-20 step, whose shortcuts slice and pad).
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels import memory
from minicnn_kernels.cpu import layout
from minicnn_kernels.reference import shape as reference

__all__ = [
    "cat",
    "contiguous",
    "copy",
    "copy_into",
    "full",
    "getitem_backward",
    "pad",
    "pad_backward",
    "reshape",
]


def full(shape, value, dtype):
    """A new array filled with `value`."""
    result = memory.empty(shape, dtype)
    result.fill(value)
    return result


def copy(x):
    """A dense copy in the same order of axes in memory."""
    result = memory.empty_like(x)
    layout.copy_into(result, x)
    return result


def contiguous(x):
    """x in C order: itself if it is so already."""
    if x.flags.c_contiguous:
        return x
    result = memory.empty(x.shape, x.dtype)
    layout.copy_into(result, x)
    return result


def reshape(x, shape):
    """x in another shape, elements in C order; a view where strides allow."""
    try:
        return np.reshape(x, shape, copy=False)
    except ValueError:
        return contiguous(x).reshape(shape)


def copy_into(destination, source):
    """Overwrite `destination` in place; `source` broadcasts and is cast."""
    same_shape = isinstance(source, np.ndarray) and source.shape == destination.shape
    if same_shape and not np.may_share_memory(destination, source):
        layout.copy_into(destination, source)
    else:
        reference.copy_into(destination, source)


def cat(arrays, dim):
    """Arrays one after the other along `dim`, in the memory order of the first."""
    dim %= arrays[0].ndim
    shape = list(arrays[0].shape)
    shape[dim] = sum(array.shape[dim] for array in arrays)
    order = memory.memory_order(arrays[0])
    dtype = np.result_type(*arrays)
    result = memory.empty(tuple(shape[axis] for axis in order), dtype).transpose(memory.inverse_order(order))
    return np.concatenate(arrays, axis=dim, out=result)


def getitem_backward(grad, shape, index):
    """Gradient of x[index] for x of `shape`, in the memory order of grad where both have all dimensions."""
    if grad.ndim != len(shape) or not reference.takes_each_once(index):
        return reference.getitem_backward(grad, shape, index)
    order = memory.memory_order(grad)
    result = memory.zeros(tuple(shape[axis] for axis in order), grad.dtype)
    result = result.transpose(memory.inverse_order(order))
    result[index] = grad
    return result


def pad(x, pad, mode, value):
    """x with pad[i] = (before, after) elements more around dimension i, in the memory order of x."""
    order = memory.memory_order(x)
    padded = reference.pad(x.transpose(order), tuple(pad[axis] for axis in order), mode, value)
    return padded.transpose(memory.inverse_order(order))


def pad_backward(grad, shape, pad, mode):
    """Gradient of `pad` for an input of `shape`, in the memory order of grad."""
    order = memory.memory_order(grad)
    shape, pad = (tuple(values[axis] for axis in order) for values in (shape, pad))
    return reference.pad_backward(grad.transpose(order), shape, pad, mode).transpose(
        memory.inverse_order(order)
    )
