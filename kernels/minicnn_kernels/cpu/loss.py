"""Cross-entropy, fused: one pass over each row of logits. The formula is in `reference/loss.py`."""

from __future__ import annotations

import numpy as np
from numba import prange

from minicnn_kernels import memory
from minicnn_kernels.cpu.activation import log_softmax_row
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.layout import contiguous
from minicnn_kernels.cpu.vector_math import exp

__all__ = ["cross_entropy_backward", "cross_entropy_forward"]

_ROWS = 64  # in one task; fewer rows run without waking other threads


def cross_entropy_forward(logits, target, weight, ignore_index, label_smoothing):
    """(loss (M,), log_probabilities (M, C)) of logits (M, C), target (M,) int64 in [0, C) or ignore_index.

    weight: (C,) or None. Rows with ignore_index lose 0; a target out of range gives NaN.
    """
    logits = contiguous(logits)
    rows, classes = logits.shape
    loss, log_p = memory.empty(rows), memory.empty((rows, classes))
    run = _forward if rows <= _ROWS else _forward_chunks
    arrays = np.ascontiguousarray(target, np.int64), _weights(weight, classes)
    run(logits, *arrays, ignore_index, float(label_smoothing), loss, log_p)
    return loss, log_p


def cross_entropy_backward(grad, log_probabilities, target, weight, ignore_index, label_smoothing):
    """Gradient of the logits (M, C) for the gradient (M,) of the rows' losses."""
    log_p = contiguous(log_probabilities)
    rows, classes = log_p.shape
    dx = memory.empty((rows, classes))
    run = _backward if rows <= _ROWS else _backward_chunks
    arrays = np.ascontiguousarray(target, np.int64), _weights(weight, classes)
    run(contiguous(grad), log_p, *arrays, ignore_index, float(label_smoothing), dx)
    return dx


def _weights(weight, classes):
    return np.ones(classes, np.float32) if weight is None else contiguous(weight)


@kernel
def _forward(logits, target, weight, ignore_index, smoothing, loss, log_p):
    rows, classes = logits.shape
    for row in range(rows):
        result = log_p[row]
        log_softmax_row(result, logits[row])
        label = target[row]
        loss[row] = 0
        if label == ignore_index:
            continue
        if label < 0 or label >= classes:
            loss[row] = np.nan
            continue
        # A class that is ruled out by a logit of -inf and has no share in the target adds 0, not NaN.
        share = np.float32(1 - smoothing) * weight[label]
        if share != 0:
            loss[row] -= share * result[label]
        if smoothing != 0:
            for c in range(classes):
                share = np.float32(smoothing / classes) * weight[c]
                if share != 0:
                    loss[row] -= share * result[c]


@kernel(parallel=True)
def _forward_chunks(logits, target, weight, ignore_index, smoothing, loss, log_p):
    for chunk in prange((len(target) + _ROWS - 1) // _ROWS):
        a = np.int64(chunk) * _ROWS
        z = a + _ROWS
        _forward(logits[a:z], target[a:z], weight, ignore_index, smoothing, loss[a:z], log_p[a:z])


@kernel
def _backward(grad, log_p, target, weight, ignore_index, smoothing, dx):
    rows, classes = log_p.shape
    even = np.float32(smoothing / classes)
    total = np.float32(0)
    for c in range(classes):
        total += even * weight[c]
    for row in range(rows):
        label, values, result = target[row], log_p[row], dx[row]
        if label == ignore_index:
            for c in range(classes):
                result[c] = 0
            continue
        if label < 0 or label >= classes:
            for c in range(classes):
                result[c] = np.nan
            continue
        mass = np.float32(1 - smoothing) * weight[label]
        for c in range(classes):
            result[c] = grad[row] * (exp(values[c]) * (total + mass) - even * weight[c])
        result[label] -= grad[row] * mass


@kernel(parallel=True)
def _backward_chunks(grad, log_p, target, weight, ignore_index, smoothing, dx):
    for chunk in prange((len(target) + _ROWS - 1) // _ROWS):
        a = np.int64(chunk) * _ROWS
        z = a + _ROWS
        _backward(grad[a:z], log_p[a:z], target[a:z], weight, ignore_index, smoothing, dx[a:z])
