"""The steps that a recipe may hold: plain values, and what contradicts itself among them.

What a step does is in `steps.py`, what each value alone may be in `rules.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar


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
class Binarize(Step):
    """Of the weights their signs, times one scale per output; with `ternary` the small ones are 0.

    Activations stay as they are: behind a ReLU all signs are +1. See `minicnn.compress.binarize`.
    """

    do = "binarize"
    ternary: bool = False

    def contradictions(self) -> Iterator[str]:
        if self.start is None:
            yield "signs are learned while training: when does it begin? give start"


@dataclass(frozen=True, kw_only=True)
class Share(Step):
    """`clusters` values per layer, found by k-means; with `start` the values are then trained.

    clusters: one number, or one for each layer by name. biases: values for the biases of each layer; None
    keeps them as they are. lr_factor: of the learning rate, for the values: the gradient of each is a sum
    over all its weights.
    """

    do = "share"
    clusters: int | dict[str, int] = 16
    biases: int | None = None
    init: str = "linear"
    lr_factor: float = 0.01

    def contradictions(self) -> Iterator[str]:
        if isinstance(self.clusters, dict) and self.layers is not None:
            yield "clusters names layers already, so layers must not be there"


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


STEPS: dict[str, type[Step]] = {
    kind.do: kind for kind in (Prune, Quantize, Binarize, Share, LowRank, Distill)
}
