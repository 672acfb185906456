"""Penalties on weights as terms of a loss; the same as optimizer options are in `minicnn.optim`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from minicnn.nn.module import Module
from minicnn.tensor import Tensor


def weights(model: Module) -> list[Tensor]:
    """The parameters that regularization touches: those with two or more dimensions.

    So dense and convolutional weights, but not biases and not the scales of normalization.
    """
    return [parameter for parameter in model.parameters() if parameter.ndim > 1]


def _total(terms: Iterable[Tensor], name: str) -> Tensor:
    total: Any = None
    for term in terms:
        total = term if total is None else total + term
    if total is None:
        raise ValueError(f"{name}: there is no weight to penalize")
    return total


def _weights_of(model: Module | Iterable[Tensor]) -> Iterable[Tensor]:
    return weights(model) if isinstance(model, Module) else model


def l1_penalty(model: Module | Iterable[Tensor]) -> Tensor:
    """sum(abs(w)) over the weights of a model (see `weights`) or over the given tensors: a scalar tensor.

    Use: loss = criterion(y, t) + 1e-4 * l1_penalty(model).
    """
    return _total((w.abs().sum() for w in _weights_of(model)), "l1_penalty")


def l2_penalty(model: Module | Iterable[Tensor]) -> Tensor:
    """0.5 sum(w^2) over the weights of a model (see `weights`) or over the given tensors: a scalar tensor.

    Its gradient is w, so that strength * l2_penalty equals weight_decay=strength of SGD.
    """
    return _total(((w * w).sum() * 0.5 for w in _weights_of(model)), "l2_penalty")
