"""Gradient clipping, with PyTorch's names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import reduce
from typing import Any

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

    norm_type: 2, or math.inf for the largest absolute value. On a device the norm stays there, and nothing
    waits for it unless `error_if_nonfinite`. Raises RuntimeError with that if the norm is not finite,
    ValueError for another norm or a negative limit.
    """
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm_: max_norm must be a number of at least 0, got {max_norm!r}")
    if norm_type not in (2, math.inf):
        raise ValueError(f"clip_grad_norm_: norm_type must be 2 or infinity, got {norm_type!r}")
    grads = _gradients(parameters)
    if grads and grads[0].device != "cpu":
        norm = _clip_on_device([g.data for g in grads], max_norm, norm_type)
        for g in grads:
            g.mark_changed()
        if error_if_nonfinite:
            _check_norm(norm.item())
        return norm
    if norm_type == 2:
        total = math.sqrt(sum(kernels.of(g.data).squared_norm(g.data) for g in grads))
    else:
        norms = [_largest(g.data) for g in grads]
        total = math.nan if any(map(math.isnan, norms)) else max(norms, default=0.0)
    if error_if_nonfinite:
        _check_norm(total)
    factor = max_norm / (total + 1e-6)
    if not factor >= 1:  # also when it is NaN, which must not stay hidden
        for g in grads:
            kernels.of(g.data).scale_(g.data, factor)
            g.mark_changed()
    return tensor(total)


def _clip_on_device(grads: list[Any], max_norm: float, norm_type: float) -> Tensor:
    """Scale the arrays in place by min(1, max_norm / norm), a number that the host does not see."""
    k = kernels.of(grads[0])
    if norm_type == 2:
        norm = k.sqrt(reduce(k.add, [k.sum(k.square(grad), None, False) for grad in grads]))
    else:
        norm = reduce(k.maximum, [k.max(k.abs(grad), None, False) for grad in grads])
    factor = k.minimum(k.div(max_norm, k.add(norm, 1e-6)), 1)  # NaN if the norm is
    for grad in grads:
        k.copy_into(grad, k.mul(grad, factor))
    return Tensor(norm)


def _check_norm(norm: float) -> None:
    if not math.isfinite(norm):
        raise RuntimeError(
            f"clip_grad_norm_: the gradients' norm is {norm}; a loss or an activation overflowed "
            f"(minicnn.detect_anomaly() names the first op where that happens)"
        )


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
