"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import minicnn_kernels as kernels
from minicnn.optim.optimizer import Group, Optimizer, zeros_like


class RMSprop(Optimizer):
    """s = alpha s + (1 - alpha) g^2;  w -= lr g / (sqrt(s) + eps) (Tieleman and Hinton 2012).

    g = grad + weight_decay w + l1 sign(w). centered: the root is of the variance, s minus the squared running
    mean of g. momentum: v = momentum v + g / (sqrt(s) + eps);  w -= lr v.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        *,
        maximize: bool = False,
        l1: float = 0,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
            "l1": l1,
        }
        super().__init__(params, defaults)

    def _check(self, group: Group) -> None:
        super()._check(group)
        self._require(group, "eps", group["eps"] >= 0, "at least 0")
        self._require(group, "momentum", group["momentum"] >= 0, "at least 0")
        self._require(group, "alpha", 0 <= group["alpha"] <= 1, "in [0, 1]")

    def _update(self, param: Any, grad: Any, state: dict[str, Any], group: Group) -> None:
        wanted = {"square_avg": True, "grad_avg": group["centered"], "momentum_buffer": group["momentum"] > 0}
        for name, needed in wanted.items():
            if needed and name not in state:
                state[name] = zeros_like(param)
        kernels.of(param).rmsprop_step(
            param,
            grad,
            state["square_avg"],
            state["grad_avg"] if group["centered"] else None,
            state["momentum_buffer"] if group["momentum"] > 0 else None,
            group["lr"],
            group["alpha"],
            group["eps"],
            group["weight_decay"],
            group["momentum"],
            group["l1"],
        )
