"""Recipes: what happens to a model and when, as plain values that are checked before anything runs.

A Recipe is the options of a training and a list of steps, in Python or as a TOML file; `run.py` carries it
out. Every step has a `start`, the number of epochs that are done when it happens; a step without one happens
after the last epoch. Recipes that come with the package lie in `recipes/` and are loaded by name.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from minicnn.training.options import (
    CHOICES,
    COUNT,
    FRACTION,
    POSITIVE,
    RANGES,
    Range,
    TrainingOptions,
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


_BITS = Range(int, 2, 17)
_RULES: dict[str, Rule] = {
    **RANGES,
    **{name: tuple(words) for name, words in CHOICES.items()},
    "epochs": Range(int, 0),  # none: a trained model is compressed as it is
    "start": Range(int, 0),
    "end": COUNT,
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
    "clusters": Range(int, 2, 2**15 + 1),
    "init": ("linear", "density", "random"),
    "lr_factor": POSITIVE,
    "rank": COUNT,
    "energy": FRACTION,
    "ratio": FRACTION,
    "temperature": POSITIVE,
    "alpha": FRACTION,
}
"""What the values of a key may be: a Range, the words, or a function that finds fault with a value."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What all steps have: when, and on which layers (names or patterns; None: all that have weights)."""

    do: ClassVar[str]
    start: int | None = None
    layers: tuple[str, ...] | None = None

    def contradictions(self) -> Iterator[str]:
        """What cannot be meant, though each value alone is allowed."""
        yield from ()

    def __str__(self) -> str:
        """The step and the options that it sets, as they would stand in TOML."""
        said = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name not in ("start", "end"))
        default = {f.name: f.default for f in fields(self)}
        return ", ".join([self.do, *(f"{name} = {value}" for name, value in said if value != default[name])])


@dataclass(frozen=True, kw_only=True)
class Prune(Step):
    """Remove a share of the weights: at once at `start`, or more and more until `end` epochs are done.

    rate: the share, or one for each layer by name. initial: the share that a gradual pruning begins with.
    every: how often it goes on, "1 epoch" or "100 batches". regrow: until `end` what is pruned goes on being
    trained and may return. The rest as in `minicnn.compress.prune`.
    """

    do = "prune"
    rate: float | dict[str, float] | None = None
    end: int | None = None
    initial: float = 0.0
    every: str = "1 epoch"
    regrow: bool = False
    unit: str = "weight"
    score: str = "l1"
    scope: str = "layer"

    def contradictions(self) -> Iterator[str]:
        if self.rate is None and ":" not in self.unit:
            yield "rate is missing: how much is to be pruned?"
        if self.end is not None:
            if self.start is None:
                yield f"end = {self.end} without start: when does it begin?"
            elif self.end <= self.start:
                yield f"end = {self.end} is not after start = {self.start}"
            if ":" in self.unit:
                yield f"unit = {self.unit!r} is one rate, which leaves nothing to do until end"
        else:
            for name in ("initial", "every", "regrow"):
                if getattr(self, name) != getattr(Prune, name):
                    yield f"{name} = {getattr(self, name)!r} without end: this pruning happens at once"
        if not isinstance(self.rate, dict) and self.rate is not None and self.initial > self.rate:
            yield f"initial = {self.initial:g} is above rate = {self.rate:g}"
        if isinstance(self.rate, dict) and self.layers is not None:
            yield "rate names layers already, so layers must not be there"
        if isinstance(self.rate, dict) and self.scope == "global":
            yield "rates by layer contradict scope = 'global', which compares weights of all layers"
        if self.score == "bn_scale" and self.unit not in ("filter", "channel"):
            yield f"score = 'bn_scale' is one number per channel, and unit = {self.unit!r} is none"


@dataclass(frozen=True, kw_only=True)
class Quantize(Step):
    """Weights and activations on a lattice: from `start` on while training (aware), or after it.

    activation_bits: as `bits` unless said. layers_bits: other bits for some layers. learned: step sizes are
    trained. equalize: across layers, before. correct_bias: after. calibration: training images to measure
    activations with. The rest as in `minicnn.compress.quantize`.
    """

    do = "quantize"
    bits: int = 8
    activation_bits: int | None = None
    layers_bits: dict[str, int] | None = None
    per_channel: bool = True
    power_of_two: bool = False
    observer: str = "minmax"
    learned: bool = False
    fold: bool = True
    equalize: bool = False
    correct_bias: bool = False
    calibration: int = 512

    def contradictions(self) -> Iterator[str]:
        if self.layers is not None:
            yield "quantize works on all layers; give single ones other bits with layers_bits"
        if self.learned and self.start is None:
            yield "learned step sizes are learned while training: when does it begin? give start"
        if self.learned and self.power_of_two:
            yield "learned step sizes are no powers of two"


@dataclass(frozen=True, kw_only=True)
class Share(Step):
    """`clusters` values per layer, found by k-means; with `start` the values are then trained.

    lr_factor: of the learning rate, for the values: the gradient of each is a sum over all its weights.
    """

    do = "share"
    clusters: int = 16
    init: str = "linear"
    lr_factor: float = 0.01


@dataclass(frozen=True, kw_only=True)
class LowRank(Step):
    """Weights as products of thin matrices: of `rank`, the rank that keeps `energy`, or a `ratio` of it."""

    do = "low_rank"
    rank: int | None = None
    energy: float | None = None
    ratio: float | None = None

    def contradictions(self) -> Iterator[str]:
        given = [name for name in ("rank", "energy", "ratio") if getattr(self, name) is not None]
        if len(given) != 1:
            yield f"expected one of rank, energy and ratio, got {' and '.join(given) or 'none'}"


@dataclass(frozen=True, kw_only=True)
class Distill(Step):
    """Learn from the outputs of `teacher`, a checkpoint or model file, during the whole training."""

    do = "distill"
    teacher: str = ""
    temperature: float = 4.0
    alpha: float = 0.9

    def contradictions(self) -> Iterator[str]:
        if not self.teacher:
            yield "teacher is missing: which checkpoint is to be learned from?"
        if self.start:
            yield f"start = {self.start}: a teacher is there from the beginning"
        if self.layers is not None:
            yield "a teacher has no layers to choose"


STEPS: dict[str, type[Step]] = {kind.do: kind for kind in (Prune, Quantize, Share, LowRank, Distill)}


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
        problems = list(_problems("", self))
        for place, step in zip(places, self.steps, strict=True):
            problems += _problems(place, step)
        if not problems:  # contradictions are looked for among values that are right in themselves
            problems += self._contradictions()
            for place, step in zip(places, self.steps, strict=True):
                problems += (place + text for text in step.contradictions())
        if problems:
            raise ValueError(f"recipe {self.name!r}: " + "; ".join(problems))

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
        for once in ("quantize", "share", "low_rank", "distill"):
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
        """The recipe as it stands in a checkpoint: steps by number, so that a difference can be named."""
        values = self.to_dict()
        return values | {"steps": {str(number): step for number, step in enumerate(values["steps"], 1)}}

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "recipe") -> Recipe:
        """The recipe of a TOML file's values. Raises ValueError naming a wrong key and the nearest one."""
        values = dict(values)
        steps = values.pop("steps", [])
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise ValueError(f"{source}: steps: expected a list of tables, each headed [[steps]]")
        _check_keys(source, values, [f.name for f in fields(cls)])
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
    if do not in STEPS:
        got = "it has none" if do is None else f"got {do!r}{suggestion(str(do), STEPS)}"
        raise ValueError(f"{place}: do: expected one of {', '.join(STEPS)}, {got}")
    _check_keys(f"{place} ({do})", values, [f.name for f in fields(STEPS[do])])
    return STEPS[do](**_tuples(STEPS[do], values))


def _check_keys(place: str, values: dict[str, Any], known: list[str]) -> None:
    for key in values:
        if key not in known:
            hint = suggestion(key, known) or f"; expected some of {', '.join(known)}"
            raise ValueError(f"{place}: unknown key {key!r}{hint}")


def _tuples(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """TOML's lists as tuples where the dataclass holds tuples."""
    annotations = {f.name: str(f.type) for f in fields(kind)}
    return {
        key: tuple(value) if isinstance(value, list) and annotations[key].startswith("tuple") else value
        for key, value in values.items()
    }


def _problems(place: str, values: Any) -> Iterator[str]:
    """Every value that breaks the rule of its key; None is allowed where it is the default."""
    for f in fields(values):
        value = getattr(values, f.name)
        if f.name != "steps" and (value is not None or f.default is not None):
            text = _problem(f.name, value, type(values))
            if text:
                yield f"{place}{f.name}: {text}"


def _problem(name: str, value: Any, kind: type) -> str | None:
    rule = _RULES.get(name)
    if callable(rule):
        text = rule(value)
        return text and f"{text}, got {value!r}"
    if isinstance(rule, Range):
        return None if value in rule else f"expected {rule}, got {value!r}"
    if rule is not None:
        right = isinstance(value, str) and value in rule
        return (
            None
            if right
            else f"expected one of {', '.join(rule)}, got {value!r}{suggestion(str(value), rule)}"
        )
    if name in ("augment", "layers", "report"):
        return _problem_of_list(name, value)
    wanted = dict if name == "model_options" else type(getattr(kind, name))
    return None if type(value) is wanted else f"expected {_KINDS[wanted]}, got {value!r}"


_KINDS = {bool: "true or false", str: "a text", dict: "a table"}


def _problem_of_list(name: str, value: Any) -> str | None:
    if not isinstance(value, (list, tuple)) or not all(isinstance(entry, str) for entry in value):
        return f"expected a list of texts, got {value!r}"
    if name == "augment":
        return next(filter(None, map(unknown_augmentation, value)), None)
    if name == "report":
        unknown = [word for word in value if word not in FORMATS]
        if unknown:
            return (
                f"expected some of {', '.join(FORMATS)}, got {unknown[0]!r}{suggestion(unknown[0], FORMATS)}"
            )
    return None
