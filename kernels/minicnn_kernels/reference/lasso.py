"""Least squares with few channels: what layer-wise reconstruction asks of arrays, in double precision."""

from __future__ import annotations

import numpy as np

from minicnn_kernels.reference.conv import im2col
from minicnn_kernels.reference.selection import smallest

__all__ = ["channel_gram", "choose_channels", "fit_channels", "lasso", "windows_at"]


def windows_at(x, kernel_size, stride, padding, dilation, positions):
    """Of each image the windows at `positions` (P,), numbers in row-major order of the output's pixels.

    x (N, C, H, W) -> (N P, C, kh kw).
    """
    columns = im2col(x, kernel_size, stride, padding, dilation)[:, :, positions]
    n, rows, p = columns.shape
    return columns.transpose(0, 2, 1).reshape(n * p, x.shape[1], rows // x.shape[1])


def channel_gram(x, weight, y):
    """(Z^T Z, Z^T y) of the least-squares problem y = Z b, where column c is what channel c adds to y.

    x (R, C, K) windows, weight (O, C, K), y (R, O); Z[(r, o), c] = sum_k x[r, c, k] weight[o, c, k].
    """
    gram, target = np.zeros((x.shape[1],) * 2), np.zeros(x.shape[1])
    for o in range(len(weight)):  # one output at a time: Z itself would be O times as large as x
        z = np.einsum("rck,ck->rc", x, weight[o], dtype=np.float64)
        gram += z.T @ z
        target += z.T @ y[:, o]
    return gram, target


def lasso(gram, target, penalty, start, tolerance):
    """The b that minimizes b^T gram b / 2 - target^T b + penalty sum abs(b), found from `start`; all (C,).

    Coordinate descent: in turn b_j = soft(target_j - sum_i!=j gram_ji b_i, penalty) / gram_jj, until none
    moves by more than `tolerance` times the largest; between two rounds over all only those that are not 0
    take part (Friedman et al. 2010, sections 2.1 and 2.6). What has an empty column stays 0.
    """
    b, diagonal = start.copy(), gram.diagonal()
    residual = target - gram @ b

    def descend(coordinates):
        largest = 0.0
        for j in coordinates:
            old = b[j]
            pull = residual[j] + diagonal[j] * old
            new = np.sign(pull) * max(abs(pull) - penalty, 0) / diagonal[j]
            if new != old:
                b[j] = new
                np.subtract(residual, gram[j] * (new - old), out=residual)
                largest = max(largest, abs(new - old))
        return largest <= tolerance * np.abs(b).max(initial=0)

    live = np.flatnonzero(diagonal > 0)
    for _ in range(100):
        if descend(live):
            break
        for _ in range(100):
            if descend(np.flatnonzero(b)):
                break
    return b


def choose_channels(gram, target, count):
    """True at the `count` channels that the LASSO does without: the largest penalty that leaves C - count.

    Columns are scaled to length 1; where penalties jump over that number the smallest b go, and empty columns
    before all. (C,) bool.
    """
    empty = gram.diagonal() <= 0
    length = np.sqrt(np.where(empty, np.inf, gram.diagonal()))
    gram, target = gram / np.outer(length, length), target / length
    wanted = len(target) - count
    low, high = 0.0, np.abs(target).max(initial=0)  # at `high` nothing is left
    b = np.zeros(len(target))
    for _ in range(40):
        penalty = (low + high) / 2
        trial = lasso(gram, target, penalty, b, 1e-4)
        left = np.count_nonzero(trial)
        low, high = (penalty, high) if left >= wanted else (low, penalty)
        if left >= wanted or left > np.count_nonzero(b):  # too few, but better than fewer still
            b = trial
        if left == wanted:
            break
    return smallest(np.where(empty, -1, np.abs(b)), count)


def fit_channels(x, keep, y):
    """The weight (O, C, K), 0 outside of `keep` (C,), that minimizes sum (y - x w)^2; and that sum.

    By the normal equations; a ridge of 1e-8 of their mean diagonal keeps dead or doubled columns harmless.
    """
    r, c, size = x.shape
    rows = x[:, keep].reshape(r, -1).astype(np.float64)
    gram = rows.T @ rows
    gram.flat[:: len(gram) + 1] += max(1e-8 * gram.trace() / len(gram), np.finfo(np.float64).tiny)
    fitted = np.linalg.solve(gram, rows.T @ y)
    weight = np.zeros((y.shape[1], c, size))
    weight[:, keep] = fitted.T.reshape(y.shape[1], -1, size)
    return weight, float(np.square(y - rows @ fitted).sum())
