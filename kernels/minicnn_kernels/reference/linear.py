"""Matrix products: general `matmul`, and the dense layer with its gradients.

A dense layer is x (..., in) times weight (out, in) transposed, as in PyTorch, for any number of
leading dimensions, also none.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "linear_backward_bias",
    "linear_backward_input",
    "linear_backward_weight",
    "linear_forward",
    "matmul",
]


def matmul(a, b):
    """a @ b by NumPy's rules: 1-d operands are vectors, leading dimensions broadcast."""
    return np.asarray(np.matmul(a, b))


def linear_forward(x, weight, bias):
    """x weight^T + bias. x (..., in), weight (out, in), bias (out,) or None -> (..., out)."""
    y = np.matmul(x, weight.T)
    return y if bias is None else y + bias


def linear_backward_input(grad, weight):
    """grad weight. grad (..., out), weight (out, in) -> (..., in)."""
    return np.matmul(grad, weight)


def linear_backward_weight(grad, x):
    """grad^T x over all leading dimensions. grad (..., out), x (..., in) -> (out, in)."""
    leading = tuple(range(x.ndim - 1))
    return np.tensordot(grad, x, axes=(leading, leading))


def linear_backward_bias(grad):
    """Sum over all leading dimensions. grad (..., out) -> (out,)."""
    return grad.sum(axis=tuple(range(grad.ndim - 1)))
