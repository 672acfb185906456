"""Which layers of a model a compression works on: names, patterns, and errors that know the right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from minicnn import nn
from minicnn.nn.module import Module

Layers = str | Iterable[str] | None

TRANSPOSED: tuple[type[Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d)
CONVOLUTIONS: tuple[type[Module], ...] = (nn.Conv1d, nn.Conv2d, *TRANSPOSED)
WEIGHTED: tuple[type[Module], ...] = (*CONVOLUTIONS, nn.Linear)


def select_layers(
    model: Module, layers: Layers = None, *, kinds: tuple[type[Module], ...] = WEIGHTED
) -> dict[str, Module]:
    """The layers of `kinds` in `model` by dotted name, in the model's order; a shared one once.

    layers: None for all, or names ("features.0") and shell patterns ("features.*"). Raises ValueError for a
    name that is no such layer, with the nearest one that is; for a pattern without a match; for a model
    without such layers.
    """
    known = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    if not known:
        wanted = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{type(model).__name__} has no layers to choose from; expected some of {wanted}")
    if layers is None:
        return known
    chosen: set[str] = set()
    for name in [layers] if isinstance(layers, str) else layers:
        matching = [name] if name in known else [one for one in known if fnmatchcase(one, name)]
        if not matching:
            raise ValueError(_unknown(model, name, known))
        chosen.update(matching)
    return {name: module for name, module in known.items() if name in chosen}


def _unknown(model: Module, name: str, known: Iterable[str]) -> str:
    known = list(known)
    inside = [one for one in known if one.startswith(f"{name}.")]
    if inside:
        return f"layer {name!r} of {type(model).__name__} is a container; its layers are {name + '.*'!r}"
    other = dict(model.named_modules()).get(name)
    if other is not None:
        return (
            f"layer {name!r} is a {type(other).__name__}, which this does not apply to; "
            f"expected one of {', '.join(known)}"
        )
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{type(model).__name__} has no layer {name!r}; {hint}its layers are {', '.join(known)}"
