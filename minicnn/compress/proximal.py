"""Proximal: training with an L1 norm that makes weights exactly zero, not only small."""

from __future__ import annotations

from typing import Any

import minicnn_kernels as kernels
from minicnn import nn
from minicnn.compress.select import WEIGHTED, Layers, select_layers
from minicnn.nn.transform import raw
from minicnn.training.callbacks import Callback
from minicnn.training.run import Run

_KINDS = {"weight": WEIGHTED, "bn_scale": (nn.BatchNorm1d, nn.BatchNorm2d)}


class Proximal(Callback):
    """After each step w = sign(w) max(abs(w) - lr amount, 0): the proximal step of amount sum abs(w).

    With SGD this is ISTA (Parikh and Boyd 2014, section 4.2); lr is the present one of the weight's group.
    layers: names or patterns. of: "weight" of convolutions and dense layers, or "bn_scale", the scales of
    batch norms, so that whole channels go (Liu et al. 2017). What the optimizer does not train stays.
    Afterwards `prune_below(model, 0)` holds the zeros.
    """

    def __init__(self, amount: float, layers: Layers = None, *, of: str = "weight") -> None:
        if not amount >= 0:
            raise ValueError(f"Proximal: amount must be a number of at least 0, got {amount!r}")
        if of not in _KINDS:
            raise ValueError(f"Proximal: expected of='weight' or 'bn_scale', got {of!r}")
        self.amount, self.of = amount, of
        self.layers = layers if layers is None or isinstance(layers, str) else list(layers)

    def on_setup(self, run: Run) -> None:
        self._chosen(run)

    def on_batch(self, run: Run) -> None:
        rates = {id(p): group["lr"] for group in run.optimizer.param_groups for p in group["params"]}
        for layer in self._chosen(run).values():
            parameter = raw(layer, "weight")
            if parameter is not None and parameter.requires_grad and id(parameter) in rates:
                kernels.of(parameter.data).soft_threshold_(parameter.data, rates[id(parameter)] * self.amount)
                parameter.mark_changed()

    def _chosen(self, run: Run) -> dict[str, nn.Module]:
        return select_layers(run.model, self.layers, kinds=_KINDS[self.of])

    def settings(self) -> dict[str, Any]:
        return {"amount": self.amount, "layers": self.layers, "of": self.of}
