"""Which range a quantizer shall cover: histograms of what was seen, and the searches that read them.

A histogram has an even number of equal bins, the middle edge at 0, and a width that is a power of two: so a
wider one is had exactly, by adding neighbours, and the order in which values come does not matter. Ranges are
pairs of numbers low <= 0 <= high. `choose_scale` in `quantization.py` makes a lattice of a range.
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels.reference.quantization import choose_scale, fake_quantize_forward, value_range

__all__ = [
    "entropy_range",
    "histogram",
    "least_error_range",
    "least_error_values",
    "percentile_range",
    "widen",
]


def histogram(x, width, bins):
    """How many elements lie in each of `bins` bins of `width` around 0: int64 (bins,). None outside them."""
    places = np.floor(x.reshape(-1) / width).astype(np.int64) + bins // 2
    return np.bincount(np.minimum(places, bins - 1), minlength=bins)  # the last bin has its upper edge


def widen(counts):
    """The histogram of the same values with bins twice as wide."""
    bins = len(counts)
    middle = np.zeros(bins, counts.dtype)
    middle[bins // 4 : bins - bins // 4] = counts.reshape(-1, 2).sum(axis=1)
    return middle


def percentile_range(counts, width, percentile):
    """The range between the outer edges of the bins that hold the middle `percentile` percent of the values.

    On each side (100 - percentile) / 2 percent lie outside of it.
    """
    outside = counts.sum() * (100 - percentile) / 200
    first = int(np.searchsorted(np.cumsum(counts), outside, side="right"))
    last = len(counts) - 1 - int(np.searchsorted(np.cumsum(counts[::-1]), outside, side="right"))
    middle = len(counts) // 2
    return min((first - middle) * width, 0.0), max((last + 1 - middle) * width, 0.0)


def least_error_range(counts, width, low, high, qmin, qmax, symmetric, power_of_two, candidates=100):
    """Of the ranges (low, high) * i / candidates the one whose lattice errs least, squared and added up.

    The values are taken to lie in the middles of their bins.
    """
    filled = np.flatnonzero(counts)
    values = (filled - len(counts) // 2 + 0.5) * width
    best, least = (low, high), np.inf
    for i in range(1, candidates + 1):
        tried = low * i / candidates, high * i / candidates
        scale, zero_point = choose_scale(*map(np.float64, tried), qmin, qmax, symmetric, power_of_two)
        error = values - fake_quantize_forward(values, scale, zero_point, qmin, qmax, None)
        total = float(counts[filled] @ error**2)
        if total < least:
            best, least = tried, total
    return best


def least_error_values(x, axis, qmin, qmax, symmetric, power_of_two, candidates=100):
    """As `least_error_range`, for the values x themselves: low, high 0-d, or (C,) along `axis`."""
    low, high = value_range(x, axis)
    others = None if axis is None else tuple(i for i in range(x.ndim) if i != axis)
    best, least = np.ones_like(low), np.full(low.shape, np.inf)
    for i in range(1, candidates + 1):
        part = np.asarray(i / candidates, low.dtype)
        lattice = choose_scale(low * part, high * part, qmin, qmax, symmetric, power_of_two)
        error = x - fake_quantize_forward(x, *lattice, qmin, qmax, axis)
        total = np.square(error, dtype=np.float64).sum(axis=others)
        best, least = np.where(total < least, part, best), np.minimum(total, least)
    return low * best, high * best


def entropy_range(counts, width, levels, symmetric, stride=8):
    """The range in which `levels` levels on each side of 0 say most about the values.

    symmetric: one limit for both sides, by their magnitudes together; else each side has its own. A limit
    is the one with the smallest Kullback-Leibler divergence between the histogram of magnitudes, what lies
    beyond the limit added to its last bin, and the same histogram averaged over `levels` groups of bins, the
    empty ones left empty (Migacz 2017, "8-bit inference with TensorRT"). They are tried in steps of `stride`.
    """
    middle = len(counts) // 2
    below, above = counts[:middle][::-1].astype(np.float64), counts[middle:].astype(np.float64)
    above[0] = 0  # 0 is a point of every lattice, and ReLU makes so many that nothing else would count
    if symmetric:
        below = above = below + above
    return -_entropy_limit(below, levels, stride) * width, _entropy_limit(above, levels, stride) * width


def _entropy_limit(magnitudes, levels, stride):
    """How many bins to keep of a histogram of magnitudes."""
    filled = np.flatnonzero(magnitudes)
    last = int(filled[-1]) + 1 if len(filled) else len(magnitudes)
    best, least = last, np.inf
    for limit in sorted({*range(min(levels, last), last, stride), last}):
        reference = magnitudes[:limit].copy()
        reference[-1] += magnitudes[limit:].sum()
        filled = reference > 0
        group = np.arange(limit) * min(levels, limit) // limit
        means = np.bincount(group, magnitudes[:limit]) / np.maximum(np.bincount(group, filled), 1)
        lost = _divergence(reference, np.where(filled, means[group], 0))
        if lost < least:
            best, least = limit, lost
    return best


def _divergence(p, q):
    """Kullback-Leibler divergence of two histograms, divided by their sums; infinite if q lacks bins of p."""
    if not q.any():
        return np.inf
    present = p > 0
    p, q = p[present] / p.sum(), q[present] / q.sum()
    return float((p * np.log(p / q)).sum()) if q.all() else np.inf
