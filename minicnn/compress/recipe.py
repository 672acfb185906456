"""Recipes: what happens to a model and when, as plain values that are checked before anything runs.

A Recipe is the options of a training and a list of steps, in Python or as a TOML file; `run.py` carries it
out. Every step has a `start`, the number of epochs that are done when it happens; a step without one happens
after the last epoch. Recipes that come with the package lie in `recipes/` and are loaded by name.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from minicnn.compress.recipe_steps import STEPS, Binarize, Distill, LowRank, Prune, Quantize, Share, Step
from minicnn.compress.rules import FORMATS, check_keys, problems
from minicnn.training.options import TrainingOptions, suggestion

__all__ = [
    "Binarize",
    "Distill",
    "LowRank",
    "Prune",
    "Quantize",
    "Recipe",
    "Share",
    "Step",
    "changed",
    "load_recipe",
    "recipe_names",
]


@dataclass(frozen=True, kw_only=True)
class Recipe(TrainingOptions):
    """A training and what happens in it. Raises ValueError naming everything that is wrong with it.

    epochs: 0 for a trained model that is compressed without training. model_options: of the network's
    constructor. report: which reports are written. The training options are those of `minicnn train`.

        Recipe(epochs=10, steps=(Prune(rate=0.9, start=3, end=8), Quantize(bits=8, start=8)))
    """

    name: str = "recipe"
    description: str = ""
    model_options: dict[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    report: tuple[str, ...] = FORMATS

    def __post_init__(self) -> None:
        places = [f"step {number} ({step.do}): " for number, step in enumerate(self.steps, 1)]
        found = list(problems("", self))
        for place, step in zip(places, self.steps, strict=True):
            found += problems(place, step)
        if not found:  # contradictions are looked for among values that are right in themselves
            found += self._contradictions()
            for place, step in zip(places, self.steps, strict=True):
                found += (place + text for text in step.contradictions())
        if found:
            raise ValueError(f"recipe {self.name!r}: " + "; ".join(found))

    def _contradictions(self) -> Iterator[str]:
        if self.epochs and self.warmup >= self.epochs:
            yield f"warmup = {self.warmup:g}: expected fewer epochs than epochs = {self.epochs}"
        for number, step in enumerate(self.steps, 1):
            place = f"step {number} ({step.do}): "
            for key in ("start", "end"):
                epoch = getattr(step, key, None)
                if epoch is not None and epoch >= self.epochs + (key == "end"):
                    yield (
                        f"{place}{key} = {epoch} is not within the {self.epochs} epochs of the training"
                        + ("; leave it out for after the last epoch" if key == "start" else "")
                    )
        if {"quantize", "binarize"} <= {step.do for step in self.steps}:
            yield "quantize and binarize: both say what becomes of a weight; expected one of them"
        for once in ("quantize", "binarize", "share", "low_rank", "distill"):
            count = sum(step.do == once for step in self.steps)
            if count > 1:
                yield f"{once} stands there {count} times; expected it once"
        if not self.epochs and any(step.do == "distill" for step in self.steps):
            yield "distill needs a training; epochs is 0"

    def timeline(self) -> list[str]:
        """What happens when, one line each, for a person."""
        lines = []
        if self.epochs:
            lines.append(f"{self.epochs} epochs of {self.optimizer} at a learning rate of {self.lr:g}")
        order = sorted(self.steps, key=lambda step: self.epochs if step.start is None else step.start)
        for step in order:
            if step.do == "distill" or step.start == 0:
                begin = "from the beginning"
            elif step.start is None:
                begin = "at the end"
            else:
                begin = f"after epoch {step.start}"
            if isinstance(step, Prune) and step.end is not None:
                begin += f" to {step.end}"
            lines.append(f"{begin}: {step}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which `from_dict` makes an equal recipe; what has no value is left out."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        values["steps"] = [
            {"do": step.do} | {key: value for key, value in asdict(step).items() if value is not None}
            for step in self.steps
        ]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def configuration(self) -> dict[str, Any]:
        """What a training depends on, for its checkpoint. Steps by number, so that a difference is named."""
        values = self.to_dict()
        for telling in ("name", "description", "report"):
            del values[telling]
        return values | {"steps": {str(number): step for number, step in enumerate(values["steps"], 1)}}

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "recipe") -> Recipe:
        """The recipe of a TOML file's values. Raises ValueError naming a wrong key and the nearest one."""
        values = dict(values)
        steps = values.pop("steps", [])
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise ValueError(f"{source}: steps: expected a list of tables, each headed [[steps]]")
        check_keys(source, values, [f.name for f in fields(cls)])
        made = tuple(_step(f"{source}, step {number}", step) for number, step in enumerate(steps, 1))
        return cls(**_tuples(cls, values), steps=made)


def changed(values: dict[str, Any], setting: dict[str, Any], source: str = "recipe") -> Recipe:
    """The recipe of a TOML file's values with other ones in place: {"lr": 0.1, "steps.1.rate": 0.9}.

    Steps count from 1. Raises ValueError for a name that leads nowhere, and as `Recipe.from_dict`.
    """
    values = copy.deepcopy(values)
    for name, value in setting.items():
        *way, last = name.split(".")
        place: Any = values
        for word in way:
            steps = place if isinstance(place, list) else None
            if steps is not None and word.isdigit() and 1 <= int(word) <= len(steps):
                place = steps[int(word) - 1]
            elif isinstance(place, dict) and isinstance(place.get(word), (dict, list)):
                place = place[word]
            else:
                raise ValueError(f"{source}: {name!r} leads nowhere: there is no {word!r}")
        if not isinstance(place, dict):
            raise ValueError(f"{source}: {name!r} leads nowhere: expected a name such as steps.1.rate")
        place[last] = value
    return Recipe.from_dict(values, source)


def load_recipe(source: str) -> Recipe:
    """A recipe from a TOML file, or by the name of one that comes with the package.

    Raises ValueError if there is none, if it is no TOML, or if something in it is wrong.
    """
    path = Path(source)
    if path.suffix == ".toml":
        if not path.is_file():
            raise ValueError(f"recipe {source}: there is no such file")
        name, text = path.stem, path.read_text(encoding="utf-8")
    else:
        shipped = {entry.name.removesuffix(".toml"): entry for entry in _shipped()}
        if source not in shipped:
            raise ValueError(
                f"recipe {source!r}: expected a .toml file or one of "
                f"{', '.join(sorted(shipped))}{suggestion(source, shipped)}"
            )
        name, text = source, shipped[source].read_text(encoding="utf-8")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"recipe {source}: no valid TOML ({error})") from error
    return Recipe.from_dict({"name": name} | values, f"recipe {source}")


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in _shipped())


def _shipped() -> list[Any]:
    folder = files("minicnn.compress") / "recipes"
    return [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]


def _step(place: str, values: dict[str, Any]) -> Step:
    values = dict(values)
    do = values.pop("do", None)
    if not isinstance(do, str) or do not in STEPS:
        got = "it has none" if do is None else f"got {do!r}{suggestion(str(do), STEPS)}"
        raise ValueError(f"{place}: do: expected one of {', '.join(STEPS)}, {got}")
    check_keys(f"{place} ({do})", values, [f.name for f in fields(STEPS[do])])
    return STEPS[do](**_tuples(STEPS[do], values))


def _tuples(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """TOML's lists as tuples where the dataclass holds tuples."""
    annotations = {f.name: str(f.type) for f in fields(kind)}
    return {
        key: tuple(value) if isinstance(value, list) and annotations[key].startswith("tuple") else value
        for key, value in values.items()
    }
