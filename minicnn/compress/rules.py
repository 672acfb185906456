"""What the values of a recipe's keys may be, and the sentence for each that is none of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from minicnn.training.options import (
    CHOICES,
    COUNT,
    FRACTION,
    POSITIVE,
    RANGES,
    Range,
    suggestion,
    unknown_augmentation,
)

FORMATS = ("markdown", "json", "html")

Rule = Range | tuple[str, ...] | Callable[[Any], str | None]


def _rates(value: Any) -> str | None:
    single = isinstance(value, dict) and value
    if all(rate in FRACTION for rate in (value.values() if single else [value])):
        return None
    return f"expected {FRACTION}, or a table of layers with one each"


def _unit(value: Any) -> str | None:
    units = ("weight", "filter", "channel")
    if value in units or (isinstance(value, str) and re.fullmatch(r"[1-9]\d*:[1-9]\d*", value)):
        return None
    return f"expected one of {', '.join(units)}, or n of m as in 2:4"


def _every(value: Any) -> str | None:
    if isinstance(value, str) and re.fullmatch(r"[1-9]\d* (epoch|batch|epochs|batches)", value):
        return None
    return "expected '1 epoch' or '100 batches'"


def _bits_of_layers(value: Any) -> str | None:
    if isinstance(value, dict) and all(bits in _BITS for bits in value.values()):
        return None
    return f"expected a table of layers with {_BITS} each"


def _clusters(value: Any) -> str | None:
    if isinstance(value, dict) and value and all(count in _CLUSTERS for count in value.values()):
        return None
    return None if value in _CLUSTERS else f"expected {_CLUSTERS}, or a table of layers with one each"


def _texts(value: Any) -> str | None:
    if isinstance(value, (list, tuple)) and value and all(isinstance(entry, str) for entry in value):
        return None
    return "expected a list of one or more texts"


def _augmentations(value: Any) -> str | None:
    if value in ([], ()):
        return None
    return _texts(value) or next(filter(None, map(unknown_augmentation, value)), None)


def _reports(value: Any) -> str | None:
    if _texts(value) or set(value) <= set(FORMATS):
        return _texts(value)
    return f"expected some of {', '.join(FORMATS)}"


def _options(value: Any) -> str | None:
    return None if isinstance(value, dict) else "expected a table"


_KINDS = {bool: "true or false", str: "a text"}
_BITS = Range(int, 2, 17)
_CLUSTERS = Range(int, 2, 2**15 + 1)
RULES: dict[str, Rule] = {
    **RANGES,
    **{name: tuple(words) for name, words in CHOICES.items()},
    "epochs": Range(int, 0),  # none: a trained model is compressed as it is
    "augment": _augmentations,
    "model_options": _options,
    "report": _reports,
    "start": Range(int, 0),
    "end": COUNT,
    "layers": _texts,
    "rate": _rates,
    "initial": FRACTION,
    "every": _every,
    "unit": _unit,
    "score": ("l1", "l2", "taylor", "random", "bn_scale"),
    "scope": ("layer", "global"),
    "bits": _BITS,
    "activation_bits": _BITS,
    "layers_bits": _bits_of_layers,
    "observer": ("minmax", "moving", "percentile", "mse", "kl"),
    "calibration": COUNT,
    "clusters": _clusters,
    "biases": _CLUSTERS,
    "init": ("linear", "density", "random"),
    "lr_factor": POSITIVE,
    "rank": COUNT,
    "energy": FRACTION,
    "ratio": FRACTION,
    "temperature": POSITIVE,
    "alpha": FRACTION,
}
"""What the values of a key may be: a Range, the words, or a function that finds fault with a value."""


def problems(place: str, values: Any) -> Iterator[str]:
    """Every value of a dataclass that breaks the rule of its key; None is allowed where it is the default."""
    for f in fields(values):
        value = getattr(values, f.name)
        if f.name != "steps" and (value is not None or f.default is not None):
            text = _problem(f.name, value, type(values))
            if text:
                yield f"{place}{f.name}: {text}, got {value!r}"


def _problem(name: str, value: Any, kind: type) -> str | None:
    """What was expected instead of `value`; None if nothing is wrong with it."""
    rule = RULES.get(name)
    if callable(rule):
        return rule(value)
    if isinstance(rule, Range):
        return None if value in rule else f"expected {rule}"
    if rule is not None:
        if isinstance(value, str) and value in rule:
            return None
        return f"expected one of {', '.join(rule)}{suggestion(str(value), rule)}"
    wanted = type(getattr(kind, name))
    return None if type(value) is wanted else f"expected {_KINDS[wanted]}"


def check_keys(place: str, values: dict[str, Any], known: list[str]) -> None:
    """Raise ValueError for a key that is not known, with the nearest one that is."""
    for key in values:
        if key not in known:
            hint = suggestion(key, known) or f"; expected some of {', '.join(known)}"
            raise ValueError(f"{place}: unknown key {key!r}{hint}")
