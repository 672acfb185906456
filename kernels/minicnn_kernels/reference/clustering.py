"""Weight sharing in plain NumPy: k-means of numbers, and values looked up in a codebook.

Numbers on a line are clustered as intervals: sorted once, every sweep of Lloyd's algorithm takes a search for
the interval ends and two differences of running sums, whatever the number of elements.
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels.reference.random import random_permutation

__all__ = ["codebook_backward", "codebook_forward", "kmeans", "nearest_centroid"]

_SWEEPS = 1000  # Lloyd's algorithm ends by itself long before; this is against cycles through rounding


def kmeans(x, clusters, init, seed):
    """The centroids (clusters,) of the elements of x, ascending, in the type of x.

    Lloyd's algorithm to its end. init: where it starts (Han et al. 2016, section 3.2): 'linear', evenly
    between the smallest and the largest element; 'density', at evenly spaced quantiles; 'random', at distinct
    elements drawn with `seed`. A cluster without members moves to the element that is farthest from its own
    centroid. If x has no more than `clusters` distinct elements these are the centroids, and the largest is
    repeated; of an empty x they are 0.
    """
    values = np.sort(x, axis=None).astype(np.float64)
    distinct = np.unique(values)
    if len(distinct) <= clusters:
        padded = np.full(clusters, distinct[-1] if len(distinct) else 0, x.dtype)
        padded[: len(distinct)] = distinct
        return padded
    if init == "linear":
        centroids = np.linspace(values[0], values[-1], clusters)
    elif init == "density":
        centroids = np.quantile(values, (np.arange(clusters) + 0.5) / clusters)
    else:
        centroids = np.sort(distinct[random_permutation(len(distinct), seed, 0)[:clusters]])

    totals = np.concatenate(([0.0], np.cumsum(values)))
    ends = None
    for _ in range(_SWEEPS):
        before = ends
        centroids, ends = _all_with_members(values, centroids)
        if before is not None and np.array_equal(ends, before):
            break
        centroids = np.diff(totals[ends]) / np.diff(ends)
    return centroids.astype(x.dtype)


def nearest_centroid(x, centroids, dtype):
    """For each element the position of the nearest of the ascending centroids; between two, the larger."""
    return np.searchsorted(_midpoints(centroids), x, side="right").astype(dtype)


def codebook_forward(x, centroids, index):
    """centroids[index] where x is not 0, and 0 where it is. x, index: one shape."""
    return np.where(x != 0, centroids[index], np.zeros((), centroids.dtype))


def codebook_backward(grad, x, index, clusters):
    """Gradient of the centroids (clusters,): the sum over the members of each (Han et al. 2016, eq. 3)."""
    members = x != 0
    sums = np.bincount(index[members], weights=grad[members], minlength=clusters)
    return sums.astype(grad.dtype)


def _midpoints(centroids):
    return (centroids[1:] + centroids[:-1]) / 2


def _all_with_members(values, centroids):
    """Centroids, and the ends (clusters + 1,) of their members among the sorted values, none without any.

    Each round puts one of the empty ones on a value that no centroid lies on, where it can't be empty again.
    Of the members of a centroid the first or the last is the farthest.
    """
    while True:
        inner = np.searchsorted(values, _midpoints(centroids), side="left")
        ends = np.concatenate(([0], inner, [len(values)]))
        counts = np.diff(ends)
        empty = np.flatnonzero(counts == 0)
        if not len(empty):
            return centroids, ends
        owners = np.flatnonzero(counts)
        farthest = values[np.concatenate((ends[owners], ends[owners + 1] - 1))]
        moved = farthest[np.argmax(np.abs(farthest - np.tile(centroids[owners], 2)))]
        centroids = np.sort(np.append(np.delete(centroids, empty[0]), moved))
