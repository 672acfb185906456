"""Which elements, filters or channels of a weight are the least: what pruning asks of arrays, in plain NumPy.

A weight (G A, B, ...) of G groups is seen as (G, A, B, rest). Its units are its elements (axis None), or
what shares a group and an index of A (axis 0) or of B (axis 1), in the order of (group, index). For a
convolution (O, C / groups, kh, kw) axis 0 gives filters and axis 1 input channels; if it is transposed, the
reverse.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["count_nonzero", "keep_n_of_m", "smallest", "spread_units", "unit_sums"]


def count_nonzero(x):
    """How many elements are not 0, as a Python int."""
    return int(np.count_nonzero(x))


def unit_sums(x, groups, axis):
    """The sum over each unit, float64 (units,); for axis None the elements in C order, (size,)."""
    if axis is None:
        return x.reshape(-1).astype(np.float64)
    x = x.reshape(_parts(x.shape, groups))
    return x.sum(axis=(2 - axis, 3), dtype=np.float64).reshape(-1)


def spread_units(flags, shape, groups, axis):
    """Flags per unit (units,) as flags per element, bool of `shape`."""
    if axis is None:
        return flags.reshape(shape)
    g, a, b, _ = parts = _parts(shape, groups)
    flags = flags.reshape((g, a, 1, 1) if axis == 0 else (g, 1, b, 1))
    return np.broadcast_to(flags, parts).reshape(shape)


def smallest(scores, count):
    """True at the `count` smallest elements of scores (n,), and of equal ones at the first. No NaN."""
    if count == 0:
        return np.zeros(scores.shape, bool)
    last = np.partition(scores, count - 1)[count - 1]
    chosen = scores < last
    ties = np.flatnonzero(scores == last)
    chosen[ties[: count - np.count_nonzero(chosen)]] = True
    return chosen


def keep_n_of_m(scores, n, m):
    """True at the n largest of every m neighbours along axis 1, of equal ones at the last; bool like scores.

    scores (A, B, ...), B a multiple of m.
    """
    a, b, *rest = scores.shape
    order = np.argsort(scores.reshape(a, b // m, m, *rest), axis=2, kind="stable")
    keep = np.ones(order.shape, bool)
    np.put_along_axis(keep, order[:, :, : m - n], False, axis=2)
    return keep.reshape(scores.shape)


def _parts(shape, groups):
    """(G, A, B, rest) for a weight (G A, B, ...)."""
    return groups, shape[0] // groups, shape[1], math.prod(shape[2:])
