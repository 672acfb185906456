"""Steps: the callback that lets the steps of a recipe happen while `fit` trains.

A step changes the form of the model (masks, lattices, factors) and brings parameters of its own. Both are
written into every checkpoint, so that `rebuild` gives a fresh model and optimizer the same form before the
values are loaded: a resumed compression goes on bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from minicnn import data
from minicnn.compress.bias_correction import correct_bias
from minicnn.compress.binary import binarize
from minicnn.compress.equalize import equalize
from minicnn.compress.low_rank import low_rank
from minicnn.compress.mask import set_mask
from minicnn.compress.prune import prune
from minicnn.compress.quantize import freeze_quantizers, quantize
from minicnn.compress.recipe import Binarize, LowRank, Prune, Quantize, Recipe, Share, Step
from minicnn.compress.schedule import PolynomialPruning
from minicnn.compress.select import select_layers
from minicnn.compress.share import share
from minicnn.compress.structure import describe, restore
from minicnn.data import Dataset
from minicnn.data.on_device import on_device
from minicnn.nn.module import Module
from minicnn.nn.transform import attached
from minicnn.training.callbacks import Callback
from minicnn.training.evaluate import device_of
from minicnn.training.run import Run


class Compressor:
    """Carries out single steps on a model.

    images: training images, from which batches for scores and calibration are taken: never augmented, always
    the same ones. Raises ValueError if a step names layers that the model has not.
    """

    def __init__(self, recipe: Recipe, model: Module, images: Dataset) -> None:
        self.recipe, self.model, self.images = recipe, model, images
        for step in recipe.steps:
            for option in ("layers", "rate", "layers_bits", "clusters"):
                names = getattr(step, option, None)
                if isinstance(names, (tuple, dict)):
                    select_layers(model, names)

    def batches(self, count: int) -> Iterable[Any]:
        """`count` training images, chosen by the recipe's seed, in batches on the model's device."""
        chosen = self.images
        if count < len(chosen):
            chosen = data.random_split(chosen, [count, len(chosen) - count], seed=self.recipe.seed)[0]
        return on_device(data.DataLoader(chosen, 64, prefetch=0), device_of(self.model))

    def apply(self, step: Step) -> None:
        """Let `step` happen now, as it stands in the recipe."""
        match step:
            case Prune():
                prune(self.model, step.rate, **self.prune_options(step))
            case Quantize():
                self._quantize(step)
            case Binarize():
                binarize(self.model, layers=step.layers, ternary=step.ternary)
            case Share():
                share(
                    self.model,
                    step.clusters,
                    biases=step.biases,
                    layers=step.layers,
                    init=step.init,
                    seed=self.recipe.seed,
                )
            case LowRank():
                low_rank(self.model, rank=step.rank, energy=step.energy, ratio=step.ratio, layers=step.layers)

    def prune_options(self, step: Prune) -> dict[str, Any]:
        """The keyword arguments of `prune` that a step says."""
        options = {"score": step.score, "unit": step.unit, "scope": step.scope, "seed": self.recipe.seed}
        if step.layers is not None:
            options["layers"] = list(step.layers)
        if step.score == "taylor":
            options["data"] = self.batches(512)
        return options

    def _quantize(self, step: Quantize) -> None:
        batches = self.batches(step.calibration)
        if step.equalize:
            equalize(self.model, next(iter(batches))[0])
        quantize(
            self.model,
            batches,
            bits=step.bits,
            activation_bits=step.activation_bits,
            layers_bits=step.layers_bits,
            per_channel=step.per_channel,
            power_of_two=step.power_of_two,
            observer=step.observer,
            learned=step.learned,
            fold=step.fold,
        )

    def finish(self) -> None:
        """After the last epoch: what was pruned is gone, and the steps without a start happen.

        Lattices stop moving, and biases are corrected.
        """
        for one in attached(self.model, "mask"):
            set_mask(one.module, one.place, one.transform.keep.data)
        for step in self.recipe.steps:
            if step.start is None:
                self.apply(step)
        for step in self.recipe.steps:
            if isinstance(step, Quantize):
                freeze_quantizers(self.model)
                if step.correct_bias:
                    correct_bias(self.model, self.batches(step.calibration))


class Steps(Callback):
    """Applies the steps of a recipe after their epochs.

    measure: gives plain numbers about the model; called when the first step is about to happen, its answer is
    kept as `before`. scheduler: the optimizer's, to be set before training begins.
    """

    scheduler: Any = None

    def __init__(self, compressor: Compressor, optimizer: Any, measure: Callable[[], dict[str, Any]]) -> None:
        self.compressor, self.optimizer, self.measure = compressor, optimizer, measure
        self.initial = describe(compressor.model)
        self.before: dict[str, Any] | None = None
        self.groups: list[dict[str, Any]] = []  # of parameters that steps brought: names, learning rate
        self.done = 0

    @property
    def waiting(self) -> list[Step]:
        """The steps that are yet to happen while training, in order, those of `gradual` apart."""
        steps = [step for step in self.compressor.recipe.steps if step.start is not None]
        once = [step for step in steps if getattr(step, "end", None) is None]
        return sorted(once, key=lambda step: step.start or 0)[self.done :]

    def gradual(self) -> list[Callback]:
        """The callbacks of prunings that go on for several epochs; they have a state of their own."""
        made: list[Callback] = []
        for step in self.compressor.recipe.steps:
            if isinstance(step, Prune) and step.end is not None:
                options = self.compressor.prune_options(step)
                options |= {"every": step.every, "hard": not step.regrow}
                made.append(
                    PolynomialPruning(step.start or 0, step.end, step.initial, step.rate or 0, **options)
                )
        return made

    def on_start(self, run: Run) -> None:
        self._apply(run)

    def on_epoch(self, run: Run) -> None:
        if run.epoch < run.epochs:
            self._apply(run)

    def _apply(self, run: Run) -> None:
        starts = [step.start for step in self.compressor.recipe.steps if step.start is not None]
        if self.before is None and starts and min(starts) <= run.epoch:
            self.before = self.measure() | {"epochs": run.epoch}
        for step in self.waiting:
            if step.start <= run.epoch:  # type: ignore[operator]
                known = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
                self.compressor.apply(step)
                self.done += 1
                names = [name for name, p in run.model.named_parameters() if id(p) not in known]
                if names:
                    self._train(names, self.compressor.recipe.lr * getattr(step, "lr_factor", 1.0))

    def _train(self, names: list[str], lr: float) -> None:
        """Let the optimizer train these parameters from now on, without decay."""
        self.groups.append({"names": names, "lr": lr})
        self._add(self.groups[-1])
        self.scheduler.step(self.scheduler.last_epoch)  # they, too, take the present share of their rate

    def _add(self, group: dict[str, Any]) -> None:
        parameters = [self.compressor.model.get_parameter(name) for name in group["names"]]
        decay = {name: 0.0 for name in ("weight_decay", "l1") if name in self.optimizer.defaults}
        self.optimizer.add_param_group({"params": parameters, "lr": group["lr"], **decay})

    def rebuild(self, state: dict[str, Any]) -> None:
        """Give model and optimizer, both as at the beginning, the form that a checkpoint's state tells of."""
        restore(self.compressor.model, state["structure"])
        for group in state["groups"]:
            self._add(group)

    def state_dict(self) -> dict[str, Any]:
        return {
            "initial": self.initial,
            "structure": describe(self.compressor.model),
            "groups": self.groups,
            "done": self.done,
            "before": self.before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.groups, self.done, self.before = state["groups"], state["done"], state["before"]
