"""Constraints on weights, to be called after each optimizer step. They work in place, unseen by the tape."""

from __future__ import annotations

from collections.abc import Iterable

import minicnn_kernels as kernels
from minicnn.tensor import Tensor


def max_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, dim: int = 0) -> None:
    """Shrink every unit's weights to an L2 norm of at most `max_norm` (Srivastava et al. 2014).

    w * min(1, max_norm / norm(w)) for each index along `dim`: 0 is the output unit of dense and convolutional
    weights. Tensors with one dimension (biases, scales) are left alone. Raises ValueError below 0.
    """
    if not max_norm >= 0:
        raise ValueError(f"max_norm_: max_norm must be a number of at least 0, got {max_norm!r}")
    for p in [parameters] if isinstance(parameters, Tensor) else parameters:
        if p.ndim < 2:
            continue
        k, w = kernels.of(p.data), p.data
        others = tuple(d for d in range(p.ndim) if d != dim % p.ndim)
        norm = k.sqrt(k.sum(k.square(w), others, True))
        # The floor avoids 0 / 0; where it acts the factor is 1 or the weights are 0.
        factor = k.clamp(k.div(max_norm, k.maximum(norm, 1e-30)), None, 1)
        k.copy_into(w, k.mul(w, factor))
        p.mark_changed()


def clip_weights_(parameters: Tensor | Iterable[Tensor], limit: float) -> None:
    """Limit every element to [-limit, limit]. Raises ValueError below 0."""
    if not limit >= 0:
        raise ValueError(f"clip_weights_: limit must be a number of at least 0, got {limit!r}")
    for p in [parameters] if isinstance(parameters, Tensor) else parameters:
        kernels.of(p.data).clamp_(p.data, -limit, limit)
        p.mark_changed()
