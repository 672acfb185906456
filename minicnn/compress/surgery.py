"""Surgery: pruning that can be undone while the model learns (Guo et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import minicnn_kernels as kernels
from minicnn.compress.mask import set_mask
from minicnn.compress.prune import attach_masks
from minicnn.compress.select import Layers, select_layers
from minicnn.nn.module import Module
from minicnn.nn.transform import find, raw
from minicnn.random import Generator
from minicnn.training.callbacks import Callback
from minicnn.training.run import Run


class Surgery(Callback):
    """Dynamic network surgery: masks that follow the weights, with which pruned ones go on being trained.

    A layer's threshold is t = mean + c std of its abs(w) when training begins. After a batch, weights of
    abs(w) <= (1 - margin) t are cut, those above (1 + margin) t are spliced back, and others stay as they are
    (eq. 3). That happens with probability (1 + gamma batches)^-power, less and less often (section 3.3).

    c: a number, or {layer or pattern: number}; larger prunes more. stop: epochs after which the masks stand
    still and become hard; by default they do at the end. layers: names or patterns.
    """

    def __init__(
        self,
        c: float | Mapping[str, float],
        *,
        margin: float = 0.1,
        gamma: float = 1e-4,
        power: float = 1.0,
        stop: float | None = None,
        layers: Layers = None,
        seed: int = 0,
    ) -> None:
        if not 0 <= margin < 1:
            raise ValueError(f"Surgery: margin must be a number in [0, 1), got {margin!r}")
        if not (gamma >= 0 and power >= 0):
            raise ValueError(f"Surgery: expected gamma and power of at least 0, got {gamma!r} and {power!r}")
        if stop is not None and not stop > 0:
            raise ValueError(f"Surgery: stop must be a number of epochs above 0, got {stop!r}")
        if isinstance(c, Mapping) and layers is not None:
            raise ValueError("Surgery: c by layer excludes layers=")
        self.c = dict(c) if isinstance(c, Mapping) else {"*": c}
        self.layers = list(self.c) if isinstance(c, Mapping) else layers
        self.margin, self.gamma, self.power, self.stop, self.seed = margin, gamma, power, stop, seed
        self.generator = Generator(seed)
        self.thresholds: dict[str, float] = {}

    def on_setup(self, run: Run) -> None:
        chosen = self._chosen(run)
        attach_masks(run.model, list(chosen), hard=False)
        for layer in chosen.values():
            set_mask(layer, "weight", find(layer, "weight", "mask").keep.data, hard=False)

    def on_start(self, run: Run) -> None:
        if self.thresholds:  # of a checkpoint
            if _done(run) >= self._last(run):
                self._harden(run)
            return
        chosen = self._chosen(run)
        for pattern, c in self.c.items():
            for name in select_layers(run.model, None if pattern == "*" else pattern):
                if name in chosen:
                    self.thresholds[name] = _threshold(name, raw(chosen[name], "weight").data, c, self.margin)

    def on_batch(self, run: Run) -> None:
        done, last = _done(run), self._last(run)
        if done > last:
            return
        if float(self.generator.uniform(())) < (1 + self.gamma * done) ** -self.power:
            for name, layer in self._chosen(run).items():
                mask, weight = find(layer, "weight", "mask"), raw(layer, "weight").data
                k, t = kernels.of(weight), self.thresholds[name]
                magnitude = k.abs(weight)
                grown = k.logical_or(mask.keep.data, k.gt(magnitude, (1 + self.margin) * t))
                mask.keep.copy_(k.logical_and(grown, k.gt(magnitude, (1 - self.margin) * t)))
        if done == last:
            self._harden(run)

    def on_end(self, run: Run) -> None:
        self._harden(run)

    def settings(self) -> dict[str, Any]:
        names = ("c", "margin", "gamma", "power", "stop", "seed")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        return {"thresholds": dict(self.thresholds), "random": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.thresholds = dict(state["thresholds"])
        self.generator.set_state(state["random"])

    def _chosen(self, run: Run) -> dict[str, Module]:
        return select_layers(run.model, self.layers)

    def _last(self, run: Run) -> float:
        """The number of batches after which the masks change for the last time."""
        return math.inf if self.stop is None else round(self.stop * len(run.loader))

    def _harden(self, run: Run) -> None:
        for layer in self._chosen(run).values():
            set_mask(layer, "weight", find(layer, "weight", "mask").keep.data)


def _done(run: Run) -> int:
    return run.epoch * len(run.loader) + run.batch


def _threshold(name: str, weight: Any, c: float, margin: float) -> float:
    k = kernels.of(weight)
    magnitude = k.abs(weight)
    numbers = k.mean(magnitude, None, False), k.var(magnitude, None, 0, False), k.max(magnitude, None, False)
    mean, variance, largest = (float(kernels.to_host(number)) for number in numbers)
    threshold = max(mean + c * variance**0.5, 0.0)
    if not largest > (1 - margin) * threshold:
        raise ValueError(f"Surgery: c={c} would prune all of layer {name!r}; choose a smaller one")
    return threshold
