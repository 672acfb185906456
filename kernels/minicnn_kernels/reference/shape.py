"""Moving, choosing and copying elements in plain NumPy: nothing here computes with their values.

Results may be views where the name promises no copy (reshape, permute, broadcast_to, getitem). The
`_backward` kernels send gradients back to where elements came from, adding up where one was used twice.
"""

from __future__ import annotations

import numpy as np

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def full(shape, value, dtype):
    """A new array filled with `value`."""
    return np.full(shape, value, dtype)


def copy(x):
    """A dense copy in the same order of axes in memory."""
    return x.copy(order="K")


def contiguous(x):
    """x in C order: itself if it is so already."""
    return np.ascontiguousarray(x).reshape(x.shape)


def reshape(x, shape):
    """x in another shape, elements in C order; a view where strides allow."""
    return x.reshape(shape)


def permute(x, dims):
    """A view with dimension i taken from dims[i]."""
    return x.transpose(dims)


def broadcast_to(x, shape):
    """A read-only view with repeated elements (stride 0)."""
    return np.broadcast_to(x, shape)


def getitem(x, index):
    """x[index]: a view for numbers and slices, a copy for positions and masks."""
    parts = index if isinstance(index, tuple) else (index,)
    if not any(part is Ellipsis for part in parts):
        parts = (*parts, Ellipsis)  # else a single element would come back as a copied scalar
    return x[parts]


def getitem_backward(grad, shape, index):
    """Gradient of x[index] for x of `shape`; elements taken several times add up."""
    result = np.zeros(shape, grad.dtype)
    if takes_each_once(index):
        result[index] = grad
    else:
        np.add.at(result, index, grad)
    return result


def takes_each_once(index):
    """Whether x[index] cannot take an element twice: slices, integers, None, ... and masks."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        part is None
        or part is Ellipsis
        or isinstance(part, (slice, int, np.integer))
        or (isinstance(part, np.ndarray) and part.dtype == np.bool_)
        for part in parts
    )


def setitem(x, index, value):
    """x[index] = value, in place."""
    x[index] = value


def copy_into(destination, source):
    """Overwrite `destination` in place; `source` broadcasts and is cast."""
    destination[...] = source


def cat(arrays, dim):
    """Arrays one after the other along `dim`."""
    return np.concatenate(arrays, axis=dim)


def pad(x, pad, mode, value):
    """x with pad[i] = (before, after) elements more around dimension i; negative counts cut off.

    mode: constant (filled with `value`), reflect (mirrored without the edge), replicate (the edge repeated)
    or circular.
    """
    widths = [(np.maximum(before, 0), np.maximum(after, 0)) for before, after in pad]
    options = {"constant_values": value} if mode == "constant" else {}
    padded = np.pad(x, widths, mode=_PAD_MODES[mode], **options)
    return padded[tuple(_cut(before, after) for before, after in pad)]


def pad_backward(grad, shape, pad, mode):
    """Gradient of `pad` for an input of `shape`: each element gets what all its copies got."""
    if mode == "constant":
        widths = [(np.maximum(-before, 0), np.maximum(-after, 0)) for before, after in pad]
        return np.pad(grad, widths)[tuple(_cut(-before, -after) for before, after in pad)]
    for axis, (size, widths) in enumerate(zip(shape, pad, strict=True)):
        if widths == (0, 0):
            continue
        source = _pad_positions(size, widths, mode)
        result = np.zeros((size, *np.moveaxis(grad, axis, 0).shape[1:]), grad.dtype)
        np.add.at(result, source, np.moveaxis(grad, axis, 0))
        grad = np.moveaxis(result, 0, axis)
    return grad


def flip(x, dims):
    """Elements in reverse order along `dims`, a copy."""
    return np.flip(x, dims).copy()


def roll(x, shifts, dims):
    """Elements moved by `shifts` along `dims`, re-entering at the other end; dims None: as if flat."""
    return np.roll(x, shifts, dims)


def gather(x, dim, index):
    """result[i][j][k] = x[i][index[i][j][k]][k] for dim 1, and so on. index: int64."""
    return x[_gathered(dim, index)]


def gather_backward(grad, shape, dim, index):
    """Gradient of `gather` for x of `shape`; elements gathered several times add up."""
    result = np.zeros(shape, grad.dtype)
    np.add.at(result, _gathered(dim, index), grad)
    return result


def one_hot(index, classes, dtype):
    """(..., classes): one at each class number, zero elsewhere. index: whole numbers below `classes`."""
    return np.asarray(index[..., None] == np.arange(classes), dtype)


def tril(x, diagonal):
    """The last two dimensions, zero above `diagonal` (0: the main one, positive: above it)."""
    return np.tril(x, diagonal)


def triu(x, diagonal):
    """The last two dimensions, zero below `diagonal`."""
    return np.triu(x, diagonal)


def _cut(before, after):
    """The slice that drops -before and -after elements at the two ends (nothing where they are positive)."""
    return slice(-before if before < 0 else 0, after if after < 0 else None)


def _pad_positions(size, widths, mode):
    """Which element along an axis of `size` each padded position copies."""
    return pad(np.arange(size), (widths,), mode, 0)


def _gathered(dim, index):
    grid = list(np.ogrid[tuple(slice(size) for size in index.shape)])
    grid[dim] = index
    return tuple(grid)
