"""Pruning in several steps: gradually while `fit` runs, or in rounds with retraining between them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from minicnn.compress.prune import Rate, attach_masks, checked_rate, prune
from minicnn.compress.units import parse_unit
from minicnn.nn.module import Module
from minicnn.training.callbacks import Callback
from minicnn.training.checkpoint import parse_interval
from minicnn.training.run import Run

T = TypeVar("T")


class PolynomialPruning(Callback):
    """A callback of `fit` that prunes from rate `initial` to rate `final` while the model is trained.

    At progress p, from 0 at `start` to 1 at `end`, both in epochs done, the rate is
    final + (initial - final) (1 - p)^power (Zhu and Gupta 2017, with power 3). final: a rate, or
    {layer: rate}. every: how often it prunes, "1 epoch" or "100 batches", from `start` on and, whatever it
    divides into, at `end`, when the rate is `final` exactly. options: those of `prune`.

    Masks are set after a batch, before validation, which therefore sees what is saved. The best epoch of a
    Checkpoint or of EarlyStopping may be one of before `end`, with a lower rate.
    """

    def __init__(
        self,
        start: float,
        end: float,
        initial: float,
        final: Rate,
        power: float = 3,
        every: str = "1 epoch",
        **options: Any,
    ) -> None:
        if not 0 <= start < end:
            raise ValueError(f"PolynomialPruning: expected 0 <= start < end, got start={start}, end={end}")
        if not power > 0:
            raise ValueError(f"PolynomialPruning: expected power > 0, got {power}")
        highest = final.values() if isinstance(final, Mapping) else [final]
        for rate in (initial, *highest):
            checked_rate(rate, "PolynomialPruning")
        if options.get("hard", True) and any(rate < initial for rate in highest):
            raise ValueError(
                f"PolynomialPruning: final {final} lies below initial {initial}; "
                f"pruned weights return only with hard=False"
            )
        inspect.signature(prune).bind(None, **options)  # TypeError for an option that prune has not
        if parse_unit(options.get("unit", "weight"))[1] is not None:
            raise ValueError(
                "PolynomialPruning: n:m is one rate, which leaves nothing to schedule; use prune"
            )
        self.interval, self.unit = parse_interval(every, "PolynomialPruning")
        if self.unit == "second":
            raise ValueError("PolynomialPruning: expected every in epochs or batches, not seconds")
        self.start, self.end, self.initial, self.final, self.power = start, end, initial, final, power
        self.every, self.options = every, options

    def rate_at(self, epochs: float) -> Rate:
        """The rate when so many epochs are done."""
        progress = min(max((epochs - self.start) / (self.end - self.start), 0), 1)

        def between(final: float) -> float:
            return final + (self.initial - final) * (1 - progress) ** self.power

        if isinstance(self.final, Mapping):
            return {name: between(rate) for name, rate in self.final.items()}
        return between(self.final)

    def on_setup(self, run: Run) -> None:
        if self.end > run.epochs:
            raise ValueError(
                f"PolynomialPruning: ends after epoch {self.end}, but training after {run.epochs}; "
                f"the final rate would not be reached"
            )
        layers = list(self.final) if isinstance(self.final, Mapping) else self.options.get("layers")
        options = {k: v for k, v in self.options.items() if k in ("unit", "score", "hard")}
        attach_masks(run.model, layers, **options)

    def on_start(self, run: Run) -> None:
        if self.start == 0 and run.epoch == run.batch == 0:
            prune(run.model, self.rate_at(0), **self.options)

    def on_batch(self, run: Run) -> None:
        batches = len(run.loader)
        start, end = round(self.start * batches), round(self.end * batches)
        done = run.epoch * batches + run.batch
        interval = round(self.interval * (batches if self.unit == "epoch" else 1))
        if done == end or (start <= done < end and (done - start) % interval == 0):
            prune(run.model, self.rate_at(self.end if done == end else done / batches), **self.options)

    def settings(self) -> dict[str, Any]:
        names = ("start", "end", "initial", "final", "power", "every")
        plain = {k: v for k, v in self.options.items() if k not in ("data", "loss")}
        return {name: getattr(self, name) for name in names} | plain


def iterative_pruning(
    model: Module, rates: Iterable[Rate], retrain: Callable[[Module], T], **options: Any
) -> list[T]:
    """Prune to each of `rates` in turn, and after each call retrain(model) (Han et al. 2015).

    rates: rising, for example (0.5, 0.75, 0.9). options: those of `prune`. Gives what `retrain` returned.
    """
    rates, results = list(rates), []
    for rate in rates:  # all of them before any training
        for one in rate.values() if isinstance(rate, Mapping) else [rate]:
            checked_rate(one, "iterative_pruning")
    for rate in rates:
        prune(model, rate, **options)
        results.append(retrain(model))
    return results
