"""The form of a compressed model as plain data: which transforms stand where, and what folding left.

A state_dict holds values, not what they belong to. `describe` writes down the rest, so that `restore` gives a
freshly made model the same form, ready for `load_state_dict`: that is how a compression is resumed and how a
model file is read.
"""

from __future__ import annotations

import inspect
from typing import Any

import minicnn
from minicnn import nn
from minicnn.compress.fake_quantize import SameLattice
from minicnn.nn.module import Module
from minicnn.nn.transform import Transform, attach, attached, find, raw

Structure = dict[str, Any]


def describe(model: Module) -> Structure:
    """Plain values from which `restore` makes the form of `model`.

    {"transforms": [{"path", "place", "class", "options", "enabled"}], "identities": paths of layers that do
    nothing (folded batch norms among them), "biased": paths of layers with a bias}.
    """
    names = {id(one.transform): one for one in attached(model)}
    transforms = []
    for one in attached(model):
        entry: dict[str, Any] = {"path": one.path, "place": one.place, "class": type(one.transform).__name__}
        if isinstance(one.transform, SameLattice):
            source = names[id(one.transform.source)]
            entry["source"] = [source.path, source.place, source.transform.kind]
        else:
            entry["options"] = one.transform.options()
            entry["enabled"] = getattr(one.transform, "enabled", True)
        transforms.append(entry)
    return {
        "transforms": transforms,
        "identities": [path for path, module in model.named_modules() if type(module) is nn.Identity],
        "biased": [
            path for path, module in model.named_modules() if module._parameters.get("bias") is not None
        ],
    }


def restore(model: Module, structure: Structure) -> None:
    """Give `model` the form that `describe` wrote down; values come after. What it has of it already stays.

    model: as its constructor made it, or on the way from there to this form. Raises ValueError if the
    structure names a transform or a layer that is not known here.
    """
    for path in structure["identities"]:
        parent, _, name = path.rpartition(".")
        if type(model.get_submodule(path)) is not nn.Identity:
            setattr(model.get_submodule(parent), name, nn.Identity())
    for path in structure["biased"]:
        layer = model.get_submodule(path)
        if layer._parameters.get("bias") is None:
            layer.bias = nn.Parameter(minicnn.zeros(_outputs(layer)))
    known = _classes(Transform)
    made: dict[tuple[str, ...], Transform] = {}
    for late in (False, True):  # what refers to another lattice comes after all that have one
        for entry in structure["transforms"]:
            if ("source" in entry) != late:
                continue
            if entry["class"] not in known:
                raise ValueError(f"unknown transform {entry['class']!r}; expected one of {', '.join(known)}")
            module, place = model.get_submodule(entry["path"]), entry["place"]
            standing = find(module, place, known[entry["class"]].kind)
            if standing is not None:
                made[entry["path"], place, standing.kind] = standing
                continue
            if late:
                transform: Transform = SameLattice(made[tuple(entry["source"])])  # type: ignore[arg-type]
            else:
                transform = _made(known[entry["class"]], module, place, entry["options"])
                if not entry["enabled"]:
                    transform.enabled = False
            attach(module, place, transform)
            made[entry["path"], place, transform.kind] = transform


def _made(kind: Any, module: Module, place: str, options: dict[str, Any]) -> Transform:
    """A transform of the class; one whose first argument is `like` is shaped after the raw parameter."""
    if "like" in inspect.signature(kind).parameters:
        return kind(raw(module, place), **options)
    return kind(**options)


def _classes(base: type[Transform]) -> dict[str, type[Transform]]:
    known: dict[str, type[Transform]] = {}
    for kind in base.__subclasses__():
        known |= {kind.__name__: kind} | _classes(kind)
    return known


def _outputs(layer: Module) -> int:
    return layer.out_channels if hasattr(layer, "out_channels") else layer.out_features
