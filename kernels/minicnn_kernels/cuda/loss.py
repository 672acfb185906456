"""Cross-entropy over logits with index targets: one thread for each row, as `reference/loss.py` has it.

A target that is neither a class nor ignore_index gives NaN, and nothing outside the row is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn_kernels.cuda.activation import log_softmax_forward
from minicnn_kernels.cuda.driver import cuda, exp, kernel, launch
from minicnn_kernels.cuda.storage import dense, empty, flat, on_device
from minicnn_kernels.device_array import DeviceArray

__all__ = ["cross_entropy_backward", "cross_entropy_forward"]

_ZERO, _ONE, _NAN = np.float32(0), np.float32(1), np.float32(np.nan)


def cross_entropy_forward(
    logits: Any, target: Any, weight: Any, ignore_index: int, label_smoothing: float
) -> tuple[DeviceArray, DeviceArray]:
    """(loss (M,), log_probabilities (M, C)) of logits (M, C), target (M,) int64 in [0, C) or ignore_index."""
    on_device("cross_entropy", logits, target, weight)
    log_p = log_softmax_forward(logits, 1)
    loss = empty((logits.shape[0],))
    launch(_loss, loss.size, flat(loss), *_common(log_p, target, weight, ignore_index, label_smoothing))
    return loss, log_p


def cross_entropy_backward(
    grad: Any, log_probabilities: Any, target: Any, weight: Any, ignore_index: int, label_smoothing: float
) -> DeviceArray:
    """Gradient of the logits (M, C) for the gradient (M,) of the rows' losses."""
    on_device("cross_entropy", grad, log_probabilities, target, weight)
    dx = empty(log_probabilities.shape)
    common = _common(log_probabilities, target, weight, ignore_index, label_smoothing)
    launch(_loss_backward, grad.size, flat(dx), flat(dense(grad)), *common)
    return dx


def _common(
    log_p: Any, target: Any, weight: Any, ignore_index: int, label_smoothing: float
) -> tuple[Any, ...]:
    log_p = dense(log_p)
    rows, classes = log_p.shape
    weights = flat(log_p if weight is None else dense(weight))
    even, rest = np.float32(label_smoothing / max(classes, 1)), np.float32(1 - label_smoothing)
    return (
        flat(log_p), flat(dense(target)), weights, weight is not None, ignore_index, even, rest, classes, rows
    )  # fmt: skip


_ARGUMENTS = "float32[::1], int64[::1], float32[::1], boolean, int64, float32, float32, int64, int64"


@kernel(f"float32[::1], {_ARGUMENTS}", registers=48)
def _loss(loss, log_p, target, weight, has_weight, ignored, even, rest, classes, rows):
    """Class c has the coefficient weight_c (even + rest where it is the target)."""
    for row in range(cuda.grid(1), rows, cuda.gridsize(1)):
        mine, total = target[row], _ZERO
        if mine != ignored:
            for c in range(classes):
                share = even + rest if c == mine else even
                if has_weight:
                    share *= weight[c]
                if share != _ZERO:
                    total -= share * log_p[row * classes + c]
            if mine < 0 or mine >= classes:
                total = _NAN
        loss[row] = total


@kernel(f"float32[::1], float32[::1], {_ARGUMENTS}", registers=48)
def _loss_backward(dx, grad, log_p, target, weight, has_weight, ignored, even, rest, classes, rows):
    for row in range(cuda.grid(1), rows, cuda.gridsize(1)):
        mine, together = target[row], _ZERO
        for c in range(classes):
            share = even + rest if c == mine else even
            together += share * weight[c] if has_weight else share
        if mine < 0 or mine >= classes:
            together = _NAN
        for c in range(classes):
            share = even + rest if c == mine else even
            if has_weight:
                share *= weight[c]
            value = (exp(log_p[row * classes + c]) * together - share) * grad[row]
            dx[row * classes + c] = _ZERO if mine == ignored else value
