"""Mask: the transform that prunes, and what can be asked of and done to the masks of a model.

Which weights go is decided elsewhere (`prune.py`); here is what being pruned means for a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import minicnn_kernels as kernels
from minicnn.compress.select import Layers, select_layers
from minicnn.functions.quantization import apply_mask
from minicnn.grad_mode import no_grad
from minicnn.nn.module import Module
from minicnn.nn.transform import Transform, attach, attached, detach, find, raw, value_before
from minicnn.tensor import Tensor, bool_


class Mask(Transform):
    """The value where `keep` holds, 0 elsewhere.

    like: the parameter, whose shape and memory order `keep` (a bool buffer, all True at first) takes.
    hard: what is pruned stays pruned: it gets no gradient, and optimizers hold it at zero, momentum and
    decay included. hard=False: it goes on being trained behind the mask, and may return when the mask is
    chosen anew (dynamic network surgery, Guo et al. 2016).
    """

    kind = "mask"

    def __init__(self, like: Tensor, *, hard: bool = True) -> None:
        super().__init__()
        self.hard = hard
        keep = kernels.empty_like(like.data, bool_)
        kernels.of(like.data).copy_into(keep, True)
        self.register_buffer("keep", Tensor(keep))

    def forward(self, value: Tensor) -> Tensor:
        return apply_mask(value, self.keep, hard=self.hard)

    def options(self) -> dict[str, Any]:
        return {"hard": self.hard}

    def attached(self, module: Module, place: str) -> None:
        raw(module, place).keep = self.keep if self.hard else None

    def detached(self, module: Module, place: str) -> None:
        raw(module, place).keep = None

    def extra_repr(self) -> str:
        return f"hard={self.hard}"


def set_mask(module: Module, place: str, keep: Any, *, hard: bool = True) -> Mask:
    """Prune the parameter called `place`: what `keep` (bool, its shape) lacks is 0 from now on.

    With `hard` the raw values there become 0, too, so that nothing is hidden behind the mask. A mask on
    another device is moved to the parameter's. Raises ValueError if the shapes differ.
    """
    parameter = raw(module, place)
    if keep.shape != parameter.shape:
        raise ValueError(
            f"set_mask: expected a mask of shape {parameter.shape} for {type(module).__name__}.{place}, "
            f"got {keep.shape}"
        )
    mask = find(module, place, "mask")
    if mask is None:
        mask = attach(module, place, Mask(parameter, hard=hard))
    mask.hard = hard
    mask.attached(module, place)
    mask.keep.copy_((keep if isinstance(keep, Tensor) else Tensor(keep)).to(parameter.device))
    if hard:
        kernels.of(parameter.data).apply_mask_(parameter.data, mask.keep.data)
        parameter.mark_changed()
    return mask


def sparsities(model: Module, layers: Layers = None) -> dict[str, float]:
    """The share of zeros in the masked weight of each layer."""
    return {name: zeros / size for name, (zeros, size) in _zeros(model, layers).items()}


def sparsity(model: Module, layers: Layers = None) -> float:
    """The share of zeros in the masked weights of all layers together."""
    counts = _zeros(model, layers).values()
    return sum(zeros for zeros, _ in counts) / sum(size for _, size in counts)


def masks(model: Module) -> dict[str, Any]:
    """Copies of all masks by the name of their layer: bool arrays, True where a weight is kept."""
    return {
        found.path: kernels.of(found.transform.keep.data).copy(found.transform.keep.data)
        for found in attached(model, "mask")
        if found.place == "weight"
    }


def set_masks(model: Module, keeps: Mapping[str, Any], *, hard: bool = True) -> None:
    """Give a model the masks that `masks` gave for another of its kind.

    Raises ValueError, and changes nothing, for a layer that does not exist or is of another shape.
    """
    chosen = {name: select_layers(model, name)[name] for name in keeps}
    for name, layer in chosen.items():
        if raw(layer, "weight").shape != keeps[name].shape:
            raise ValueError(
                f"set_masks: layer {name!r} has a weight of shape {raw(layer, 'weight').shape}, "
                f"its mask {keeps[name].shape}"
            )
    for name, layer in chosen.items():
        set_mask(layer, "weight", keeps[name], hard=hard)


def remove_masks(model: Module) -> None:
    """Take all masks away; pruned weights are zero now, and may become something else in training.

    Raises ValueError, and changes nothing, for a mask over a low-rank form: factors cannot hold its zeros.
    """
    standing = list(attached(model, "mask"))
    for found in standing:
        if find(found.module, found.place, "low_rank") is not None:
            raise ValueError(
                f"remove_masks: {found.name} is a product of low-rank factors, which cannot hold the zeros "
                f"of its mask; keep it, or take the low-rank form away first (minicnn.nn.transform.detach)"
            )
    for found in standing:
        parameter = raw(found.module, found.place)
        kernels.of(parameter.data).apply_mask_(parameter.data, found.transform.keep.data)
        parameter.mark_changed()
        detach(found.module, found.place, "mask")


def _zeros(model: Module, layers: Layers) -> dict[str, tuple[int, int]]:
    """(zeros, weights) of each layer."""
    counts = {}
    for name, layer in select_layers(model, layers).items():
        weight = current_weight(layer, masked=True)
        counts[name] = weight.size - kernels.of(weight).count_nonzero(weight), weight.size
    return counts


def current_weight(layer: Module, masked: bool) -> Any:
    """The weight as its mask gets it, or with `masked` as the mask gives it."""
    with no_grad():
        value = value_before(layer, "weight", "mask")
        mask = find(layer, "weight", "mask")
        return (mask(value) if masked and mask is not None else value).data
