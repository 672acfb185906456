"""Reductions, scans and order in plain NumPy.

`dim` is None (all dimensions), an int or a tuple of ints, negative ones count from the end; `keepdim` leaves
a dimension of size 1. Results are arrays of the input's type unless said otherwise; positions are int64.
"""

from __future__ import annotations

import numpy as np


def sum(x, dim, keepdim):
    """Sum; whole numbers and booleans add up in int64."""
    return np.asarray(np.sum(x, axis=dim, keepdims=keepdim, dtype=_accumulator(x)))


def mean(x, dim, keepdim):
    """Mean; NaN over nothing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sum(x, dim, keepdim) / _count(x, dim), dtype=x.dtype)


def prod(x, dim, keepdim):
    """Product; whole numbers and booleans multiply in int64."""
    return np.asarray(np.prod(x, axis=dim, keepdims=keepdim, dtype=_accumulator(x)))


def max(x, dim, keepdim):
    """Largest element; NaN wins. Raises ValueError over nothing."""
    return np.asarray(np.max(x, axis=dim, keepdims=keepdim))


def min(x, dim, keepdim):
    """Smallest element; NaN wins. Raises ValueError over nothing."""
    return np.asarray(np.min(x, axis=dim, keepdims=keepdim))


def any(x, dim, keepdim):
    """Whether one element is not zero."""
    return np.asarray(np.any(x, axis=dim, keepdims=keepdim))


def all(x, dim, keepdim):
    """Whether no element is zero."""
    return np.asarray(np.all(x, axis=dim, keepdims=keepdim))


def argmax(x, dim, keepdim):
    """Position of the first largest element along `dim`, or in the flattened array; NaN counts as largest."""
    return np.asarray(np.argmax(x, axis=dim, keepdims=keepdim), dtype=np.int64)


def argmin(x, dim, keepdim):
    """Position of the first smallest element along `dim`, or in the flattened array; NaN counts so too."""
    return np.asarray(np.argmin(x, axis=dim, keepdims=keepdim), dtype=np.int64)


def var(x, dim, correction, keepdim):
    """Mean squared distance from the mean, divided by (count - correction): NaN where that is 0 of 0."""
    distance = x - mean(x, dim, True)
    divisor = np.maximum(_count(x, dim) - correction, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sum(distance * distance, dim, keepdim) / divisor, dtype=x.dtype)


def logsumexp(x, dim, keepdim):
    """log(sum(exp(x))), without overflow."""
    if x.size == 0:
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(sum(x, dim, keepdim)))
    top = max(x, dim, True)
    shift = np.where(np.isfinite(top), top, 0).astype(x.dtype)
    with np.errstate(divide="ignore"):
        total = np.log(sum(np.exp(x - shift), dim, True)) + shift
    return np.asarray(total if keepdim else total.reshape(sum(x, dim, False).shape))


def cumsum(x, dim):
    """Sum of all elements up to here along `dim`; whole numbers and booleans in int64."""
    return np.asarray(np.cumsum(x, axis=dim, dtype=_accumulator(x))).reshape(x.shape)


def sum_to(x, shape):
    """x summed down to `shape`, from which it was broadcast; x itself if nothing was."""
    if x.shape == tuple(shape):
        return x
    extra = x.ndim - len(shape)
    stretched = tuple(extra + i for i, size in enumerate(shape) if size == 1 and x.shape[extra + i] != 1)
    return np.asarray(np.sum(x, axis=(*range(extra), *stretched), keepdims=True)).reshape(shape)


def sort(x, dim, descending):
    """(values, positions) in order along `dim`; equal elements keep their order, NaN counts as largest."""
    if descending:
        # Sorted backwards and then reversed twice, so that equal elements keep their order here too.
        order = np.flip(np.argsort(np.flip(x, dim), axis=dim, kind="stable"), dim)
        order = x.shape[dim] - 1 - order
    else:
        order = np.argsort(x, axis=dim, kind="stable")
    return np.take_along_axis(x, order, dim), np.asarray(order, np.int64)


def topk(x, k, dim, largest):
    """(values, positions) of the k largest or smallest elements along `dim`, best first."""
    values, order = sort(x, dim, largest)
    best = tuple(slice(k) if axis == dim % x.ndim else slice(None) for axis in range(x.ndim))
    return values[best].copy(), order[best].copy()


def _accumulator(x):
    return x.dtype if x.dtype.kind == "f" else np.dtype(np.int64)


def _count(x, dim):
    dims = range(x.ndim) if dim is None else np.atleast_1d(np.asarray(dim, int))
    return int(np.prod([x.shape[axis] for axis in dims], dtype=int))
