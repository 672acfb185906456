"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import minicnn_kernels as kernels
from minicnn.optim.optimizer import Group, Optimizer, zeros_like


class SGD(Optimizer):
    """v = momentum v + (1 - dampening) g;  w -= lr v, or lr (g + momentum v) with `nesterov`.

    g = grad + weight_decay w + l1 sign(w). The first step has v = g. maximize: climb instead of descend.
    With the whole data set as one batch this is plain gradient descent.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        l1: float = 0,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "l1": l1,
        }
        super().__init__(params, defaults)

    def _check(self, group: Group) -> None:
        super()._check(group)
        self._require(group, "momentum", group["momentum"] >= 0, "at least 0")
        plain = group["momentum"] > 0 and group["dampening"] == 0
        self._require(
            group, "nesterov", plain or not group["nesterov"], "False without momentum or with dampening"
        )

    def _update(self, param: Any, grad: Any, state: dict[str, Any], group: Group) -> None:
        momentum, dampening = group["momentum"], group["dampening"]
        buffer = state.get("momentum_buffer")
        if momentum and buffer is None:
            buffer = state["momentum_buffer"] = zeros_like(param)
            dampening = 0  # the first velocity is the gradient itself
        kernels.of(param).sgd_step(
            param,
            grad,
            buffer if momentum else None,
            group["lr"],
            momentum,
            dampening,
            group["weight_decay"],
            group["nesterov"],
            group["l1"],
        )
