"""Cross-entropy over logits with index targets; other losses are composed of tape operations.

With a_c, the target distribution of a row times the class weights, the loss of the row is
-sum_c a_c log p_c, and its gradient by the logits is p sum_c a_c - a. Label smoothing as in Szegedy
et al. 2016: a = (1 - e) weight onehot + e / C weight.
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels.reference.activation import log_softmax_forward

__all__ = [
    "cross_entropy_backward",
    "cross_entropy_forward",
]


def _weighted_targets(target, classes, weight, ignore_index, label_smoothing, dtype):
    """The coefficients a (M, C); zero in rows whose target is ignore_index."""
    kept = target != ignore_index
    weight = np.ones(classes, dtype) if weight is None else weight
    rows = np.arange(len(target))[kept]
    a = np.zeros((len(target), classes), dtype)
    a[kept] = label_smoothing / classes * weight
    a[rows, target[kept]] += (1 - label_smoothing) * weight[target[kept]]
    return a


def cross_entropy_forward(logits, target, weight, ignore_index, label_smoothing):
    """(loss (M,), log_probabilities (M, C)) of logits (M, C), target (M,) int64 in [0, C) or ignore_index.

    weight: (C,) or None. Rows with ignore_index lose 0.
    """
    log_p = log_softmax_forward(logits, 1)
    a = _weighted_targets(target, logits.shape[1], weight, ignore_index, label_smoothing, logits.dtype)
    # A class that is ruled out by a logit of -inf and is no target adds 0, not 0 times infinity.
    return -np.multiply(a, log_p, out=np.zeros_like(a), where=a != 0).sum(axis=1), log_p


def cross_entropy_backward(grad, log_probabilities, target, weight, ignore_index, label_smoothing):
    """Gradient of the logits (M, C) for the gradient (M,) of the rows' losses."""
    classes, dtype = log_probabilities.shape[1], log_probabilities.dtype
    a = _weighted_targets(target, classes, weight, ignore_index, label_smoothing, dtype)
    return (np.exp(log_probabilities) * a.sum(axis=1, keepdims=True) - a) * grad[:, None]
