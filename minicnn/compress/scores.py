"""How much a unit of a layer matters: the scores by which pruning ranks. Higher is kept, none is negative."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import minicnn_kernels as kernels
from minicnn import nn
from minicnn.compress.mask import current_weight
from minicnn.compress.select import WEIGHTED
from minicnn.compress.units import Units
from minicnn.grad_mode import enable_grad
from minicnn.nn.module import Module
from minicnn.nn.transform import raw
from minicnn.random import Generator
from minicnn.tensor import as_tensor
from minicnn.training.evaluate import device_of, inference

SCORES = ("l1", "l2", "taylor", "random", "bn_scale")


def unit_scores(
    score: str,
    model: Module,
    layers: dict[str, Module],
    unit: str,
    *,
    data: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    seed: int = 0,
    masked: bool = True,
) -> dict[str, Any]:
    """For each layer the scores of its units (units,), float64, on a device float32. score: one of SCORES;
    see `prune`.

    masked: a mask that is there counts; else weights are ranked as if there were none. Raises ValueError for
    scores that do not exist, do not fit the unit, lack data, or are not finite.
    """
    units = {name: Units.of(layer, unit) for name, layer in layers.items()}
    if score in ("l1", "l2"):
        scores = {
            name: _magnitudes(current_weight(layer, masked), units[name], squared=score == "l2")
            for name, layer in layers.items()
        }
    elif score == "taylor":
        if data is None:
            raise ValueError(
                "prune: score 'taylor' needs data=, batches (images, targets), for its gradients"
            )
        scores = _taylor(model, layers, units, data, loss or nn.functional.cross_entropy, masked)
    elif score == "random":
        # Whole numbers of 32 bits, for a device has no doubles, and float32 would make ties of some.
        generator, scores = Generator(seed), {}
        for name, layer in layers.items():
            drawn = generator.integers(units[name].count, 0, 1 << 32)
            scores[name] = kernels.to_device(drawn, raw(layer, "weight").device)
    elif score == "bn_scale":
        scores = {name: _norm_scales(model, name, layer, unit) for name, layer in layers.items()}
    else:
        raise ValueError(f"prune: unknown score {score!r}; expected one of {', '.join(SCORES)}")
    for name, values in scores.items():
        if not kernels.of(values).all_finite(values):
            raise ValueError(f"prune: the {score} scores of layer {name!r} are not finite (NaN or infinity)")
    return scores


def _magnitudes(weight: Any, units: Units, *, squared: bool) -> Any:
    """Mean of abs(w), or of w^2, over every unit (Li et al. 2017): large filters have no advantage."""
    k = kernels.of(weight)
    sums = units.sums(k.square(weight) if squared else k.abs(weight))
    return kernels.of(sums).div(sums, units.size)


def _taylor(
    model: Module,
    layers: dict[str, Module],
    units: dict[str, Units],
    data: Iterable[Any],
    loss: Callable[[Any, Any], Any],
    masked: bool,
) -> dict[str, Any]:
    """abs(sum of w dL/dw over the unit), averaged over batches: how the loss changes without it.

    To first order, in eval mode (Molchanov et al. 2017, eq. 6; 2019, eq. 8). Gradients that are there stay.
    """
    totals: dict[str, Any] = {}
    batches = 0
    with inference(model), enable_grad(), _own_gradients(model, layers):
        for images, targets in data:
            images, targets = (as_tensor(part).to(device_of(model)) for part in (images, targets))
            loss(model(images), targets).backward()
            batches += 1
            for name, layer in layers.items():
                parameter = raw(layer, "weight")
                if parameter.grad is None:
                    raise ValueError(
                        f"prune: no gradient of the loss reaches the weight of layer {name!r}; "
                        f"is it used in forward, or does a low-rank form stand in for it?"
                    )
                weight = current_weight(layer, masked)
                k = kernels.of(weight)
                change = units[name].sums(k.mul(weight, parameter.grad.data))
                parameter.grad = None
                k = kernels.of(change)
                change = k.abs(change)
                totals[name] = k.add(totals[name], change) if name in totals else change
    if not batches:
        raise ValueError("prune: data yields no batches, and score 'taylor' needs gradients")
    return {name: kernels.of(total).div(total, batches) for name, total in totals.items()}


@contextmanager
def _own_gradients(model: Module, layers: dict[str, Module]) -> Iterator[None]:
    """Within the block parameters have no gradients yet, and the layers' weights get one even if frozen."""
    parameters = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    for p, _, _ in parameters:
        p.grad = None
    for layer in layers.values():
        raw(layer, "weight").requires_grad = True
    try:
        yield
    finally:
        for p, grad, requires_grad in parameters:
            p.grad, p.requires_grad = grad, requires_grad


def norm_beside(model: Module, layer: Module, unit: str) -> Module | None:
    """The batch norm that the model defines right after the layer for filters, right before it for channels.

    None unless it has a scale for each of the layer's units.
    """
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    chain = [module for module in model.modules() if isinstance(module, (*WEIGHTED, *norms))]
    position = chain.index(layer) + (1 if unit == "filter" else -1)
    norm = chain[position] if 0 <= position < len(chain) else None
    if not isinstance(norm, norms) or norm.num_features != Units.of(layer, unit).count or not norm.affine:
        return None
    return norm


def _norm_scales(model: Module, name: str, layer: Module, unit: str) -> Any:
    """abs(gamma) of the batch norm beside the layer (Liu et al. 2017, "network slimming")."""
    if unit == "weight":
        raise ValueError("prune: score 'bn_scale' ranks filters or channels; pass unit='filter' or 'channel'")
    norm = norm_beside(model, layer, unit)
    if norm is None:
        raise ValueError(
            f"prune: score 'bn_scale' needs a batch norm with a scale for each {unit} directly "
            f"{'after' if unit == 'filter' else 'before'} layer {name!r}: choose other layers, or score 'l1'"
        )
    scale = raw(norm, "weight").data
    k = kernels.of(scale)
    return k.unit_sums(k.abs(scale), 1, None)
