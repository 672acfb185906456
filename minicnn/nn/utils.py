"""Gradient clipping, with PyTorch's names."""

from __future__ import annotations

import math
from collections.abc import Iterable

import minicnn_kernels as kernels
from minicnn.tensor import Tensor, tensor


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients together so that their common norm is at most `max_norm`; gives the norm before.

    norm_type: 2, or math.inf for the largest absolute value. Raises RuntimeError with `error_if_nonfinite` if
    the norm is not finite, ValueError for another norm or a negative limit.
    """
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm_: max_norm must be a number of at least 0, got {max_norm!r}")
    grads = _gradients(parameters)
    if norm_type == 2:
        total = math.sqrt(sum(kernels.of(g.data).squared_norm(g.data) for g in grads))
    elif norm_type == math.inf:
        norms = [_largest(g.data) for g in grads]
        total = math.nan if any(map(math.isnan, norms)) else max(norms, default=0.0)
    else:
        raise ValueError(f"clip_grad_norm_: norm_type must be 2 or infinity, got {norm_type!r}")
    if error_if_nonfinite and not math.isfinite(total):
        raise RuntimeError(
            f"clip_grad_norm_: the gradients' norm is {total}; a loss or an activation overflowed "
            f"(minicnn.detect_anomaly() names the first op where that happens)"
        )
    factor = max_norm / (total + 1e-6)
    if not factor >= 1:  # also when it is NaN, which must not stay hidden
        for g in grads:
            kernels.of(g.data).scale_(g.data, factor)
            g.mark_changed()
    return tensor(total)


def _largest(array: object) -> float:
    backend = kernels.of(array)
    return float(backend.max(backend.abs(array), None, False))


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Limit every element of the gradients to [-clip_value, clip_value]. Raises ValueError below 0."""
    if not clip_value >= 0:
        raise ValueError(f"clip_grad_value_: clip_value must be a number of at least 0, got {clip_value!r}")
    for g in _gradients(parameters):
        kernels.of(g.data).clamp_(g.data, -clip_value, clip_value)
        g.mark_changed()
