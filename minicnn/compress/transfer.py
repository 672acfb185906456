"""Transfer: what a network learned on one task, used for another.

Take over what fits (`load_matching`), freeze it, give it a new head, and train that: as part of the network,
on features that were computed once (`cached_features`), or with a low-rank residual on every frozen weight.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import minicnn
from minicnn import nn, serialization
from minicnn.compress.residual import LowRankResidual
from minicnn.compress.select import select_layers
from minicnn.compress.substitute import Substitute
from minicnn.data import DataLoader
from minicnn.nn.module import Module
from minicnn.nn.transform import attach, attached, find
from minicnn.tensor import Tensor
from minicnn.training.evaluate import inference


class MatchReport(NamedTuple):
    """What `load_matching` found, by name.

    different: (our shape, theirs). missing: ours that the source lacks. unused: the source's that we lack.
    """

    matched: list[str]
    different: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    missing: list[str]
    unused: list[str]

    def __str__(self) -> str:
        shapes = [f"{name} {ours}, there {theirs}" for name, (ours, theirs) in self.different.items()]
        lines = (
            ("loaded", self.matched),
            ("another shape", shapes),
            ("not in the source", self.missing),
            ("not in the model", self.unused),
        )
        return "\n".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in lines if names)


def load_matching(model: Module, source: Module | Mapping[str, Any] | str | os.PathLike[str]) -> MatchReport:
    """Copy what `source` holds under the same name and in the same shape into `model`; tells what did not.

    source: a model, a state_dict (of tensors or anything NumPy reads, PyTorch's too), or a file: a state that
    minicnn.save wrote, a checkpoint, a model file, or safetensors. Raises ValueError if nothing at all
    matches, and for a damaged file; then the model is as it was.
    """
    own = model.state_dict()
    values = {name: v.data if isinstance(v, Tensor) else np.asarray(v) for name, v in _state(source).items()}
    common = [name for name in own if name in values]
    matched = [name for name in common if own[name].shape == values[name].shape]
    if not matched:
        raise ValueError(
            f"load_matching: nothing in the source has the name and shape of something in "
            f"{type(model).__name__}; it has {_few(own)}, the source {_few(values)}"
        )
    model.load_state_dict({name: values[name] for name in matched}, strict=False)
    return MatchReport(
        matched,
        {name: (own[name].shape, values[name].shape) for name in common if name not in matched},
        [name for name in own if name not in values],
        [name for name in values if name not in own],
    )


def freeze(model: Module, layers: str | Iterable[str] | None = None) -> list[str]:
    """Stop the training of layers and of all in them; gives the names of the parameters that were frozen.

    They get no gradient, and stay in eval mode through `train` and `fit`: running statistics of batch norms
    do not move, dropout is off. layers: None for the whole model, or names and patterns, containers too.
    Raises ValueError for an unknown name.
    """
    frozen = []
    for path, module in _chosen(model, layers).items():
        for part in module.modules():
            part.is_frozen = True
        for name, parameter in module.named_parameters(prefix=path):
            if parameter.requires_grad:
                parameter.requires_grad_(False)
                frozen.append(name)
        module.eval()
    return list(dict.fromkeys(frozen))


def unfreeze(model: Module, layers: str | Iterable[str] | None = None) -> list[str]:
    """Undo `freeze`, for all or for some; gives the names of the parameters that are trained again.

    Raw weights behind a codebook or low-rank factors stay as these left them.
    """
    held = {
        id(one.module._parameters[one.place])
        for one in attached(model)
        if isinstance(one.transform, Substitute)
    }
    thawed = []
    for path, module in _chosen(model, layers).items():
        for part in module.modules():
            part.is_frozen = False
        for name, parameter in module.named_parameters(prefix=path):
            if not parameter.requires_grad and id(parameter) not in held:
                parameter.requires_grad_()
                thawed.append(name)
        module.train(model.training)
    return list(dict.fromkeys(thawed))


def replace_head(model: Module, classes: int, *, layer: str | None = None) -> nn.Linear:
    """Put a new dense layer with `classes` outputs and fresh weights in the place of the last one.

    layer: its name, if it is not the dense layer that was defined last. Returns the new layer, which is
    trained whatever is frozen around it. Raises ValueError if there is no such layer.
    """
    found = select_layers(model, layer, kinds=(nn.Linear,))
    path, old = list(found.items())[-1]
    if not path:
        raise ValueError("replace_head: the model is itself the dense layer; make a new one")
    assert isinstance(old, nn.Linear)
    head = nn.Linear(old.in_features, classes, bias=old._parameters["bias"] is not None)
    head.to(old._parameters["weight"].dtype)
    head.train(model.training)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, head)
    return head


class FeatureDataset:
    """Features (N, ...) float32 with labels (N,) int64, as a dataset for `DataLoader`."""

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        if len(features) != len(labels):
            raise ValueError(f"FeatureDataset: {len(features)} features but {len(labels)} labels")
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: Any) -> tuple[np.ndarray, np.ndarray]:
        return self.features[index], self.labels[index]


def cached_features(
    model: Module, images: Any, *, layer: str | None = None, batch_size: int = 256
) -> FeatureDataset:
    """What `model` makes of each image, computed once in eval mode, so that a head can be trained on arrays.

    images: a dataset, or batches of (images, targets): a loader without augmentation. layer: the features are
    then what this layer of the model is given (the head's name: all that comes before it). Raises ValueError
    if there are no images, or for an unknown layer.
    """
    is_dataset = hasattr(images, "__getitem__") and not isinstance(images, (list, tuple))
    batches = DataLoader(images, batch_size) if is_dataset else images
    taken: list[Tensor] = []
    handle = None
    if layer is not None:
        inner = next(iter(select_layers(model, layer, kinds=(Module,)).values()))
        handle = inner.register_forward_pre_hook(lambda module, inputs: taken.append(inputs[0]))
    features, labels = [], []
    try:
        run = minicnn.compile(model)
        with inference(model):
            for pictures, targets in batches:
                taken.clear()
                result = run(pictures)
                features.append((taken[0] if layer is not None else result).numpy())
                labels.append(targets.numpy())
    finally:
        if handle is not None:
            handle.remove()
    if not features:
        raise ValueError("cached_features: expected at least one image, got none")
    return FeatureDataset(np.concatenate(features), np.concatenate(labels))


def low_rank_residual(
    model: Module, rank: int, *, layers: str | Iterable[str] | None = None
) -> dict[str, LowRankResidual]:
    """Freeze the model and add a trainable low-rank residual to the weights of its layers, zero at first.

    So the function is unchanged until training begins, and then f_target = f_source + delta f. layers: None
    for all convolutions and dense layers, or names and patterns. rank: cut to what a layer can have. Gives
    the residuals by layer; make the optimizer afterwards. Raises ValueError for a rank below 1, an unknown
    layer, and layers that are low-rank already; the model is then as it was.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"low_rank_residual: expected rank to be an integer of at least 1, got {rank!r}")
    made: dict[str, tuple[Module, LowRankResidual]] = {}
    for name, module in select_layers(model, layers).items():
        if find(module, "weight", "low_rank") is not None:
            raise ValueError(f"low_rank_residual: layer {name!r} is low-rank already; take that away first")
        weight = module._parameters["weight"]
        assert weight is not None
        full = min(weight.shape[0], weight.numel() // weight.shape[0])
        made[name] = module, LowRankResidual(weight, min(rank, full))
    freeze(model)
    for module, residual in made.values():
        attach(module, "weight", residual)
    return {name: residual for name, (_, residual) in made.items()}


def _chosen(model: Module, layers: str | Iterable[str] | None) -> dict[str, Module]:
    return {"": model} if layers is None else select_layers(model, layers, kinds=(Module,))


def _state(source: Module | Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Any]:
    """Named values of any source."""
    if isinstance(source, Module):
        return source.state_dict()
    if isinstance(source, Mapping):
        return source
    if Path(source).suffix == ".safetensors":
        return serialization.load_safetensors(source)
    state = serialization.load(source)
    if isinstance(state, dict) and "format" in state:  # of `minicnn train` or `minicnn compress`
        state = state["run"]["model"] if "run" in state else state["model"]
    if not isinstance(state, dict):
        raise ValueError(f"load_matching: {source} holds a {type(state).__name__}; expected a state_dict")
    return state


def _few(names: Iterable[str]) -> str:
    first = list(names)
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "") if first else "nothing"
