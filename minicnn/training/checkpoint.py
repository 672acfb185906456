"""Checkpoints: everything that the rest of a training depends on, in one npz file without pickle.

A file is written under a temporary name, forced to the disk and renamed, so that at any moment the path
names a whole checkpoint: the new one or the one before. What goes in is `Run.state_dict`, the settings of
the run, and the configuration that the caller of `fit` gave.
"""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import minicnn
from minicnn import serialization
from minicnn.graph import CompiledModule
from minicnn.training.anomaly import not_finite
from minicnn.training.callbacks import Best, Callback
from minicnn.training.errors import CheckpointError, TrainingError

if TYPE_CHECKING:
    from minicnn.training.run import Run

FORMAT = "minicnn checkpoint 1"
_UNITS = {"epoch": "epoch", "batch": "batch", "batche": "batch", "second": "second"}


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written; training goes on and tries again at the next occasion."""


class Checkpoint(Callback):
    """Saves the run `every` so often, when it is interrupted, and when it ends.

    path: the newest state. every: "2 epochs"; or "200 batches" or "60 seconds", and then also after every
    epoch. keep_best: also keep the best epoch by `monitor`, in `best_path`; default: if there is validation.
    If the disk is full while training, the last file stays, a CheckpointWarning is given and the next
    occasion tries again; at the end (or on Ctrl-C) it is a CheckpointError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        every: str = "1 epoch",
        keep_best: bool | None = None,
        monitor: str = "validation_accuracy",
    ) -> None:
        self.path = Path(path)
        if self.path.suffix != ".npz":
            raise ValueError(f"Checkpoint: expected a path that ends in .npz, got {str(path)!r}")
        self.best_path = self.path.with_suffix(".best.npz")
        self.interval, self.unit = parse_interval(every, "checkpoint_every")
        self.keep_best, self.best = keep_best, Best(monitor)
        self.last: str | None = None  # what the file at `path` holds
        self.batches, self.saved_at = 0, 0.0

    def on_start(self, run: Run) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in self.path.parent.glob(f".{self.path.stem}*.tmp"):  # of a save that was killed
            leftover.unlink(missing_ok=True)
        if self.keep_best is None:
            self.keep_best = run.validation is not None
        self.batches, self.saved_at = 0, time.monotonic()

    def on_batch(self, run: Run) -> None:
        self.batches += 1
        # After an epoch's last batch its end, a moment later, is the better state to keep.
        if run.batch < len(run.loader) and (
            (self.unit == "batch" and self.batches >= self.interval)
            or (self.unit == "second" and time.monotonic() - self.saved_at >= self.interval)
        ):
            self._try(run, self.path)

    def on_epoch(self, run: Run) -> None:
        if self.keep_best:
            previous = (self.best.value, self.best.epoch)
            if self.best.update(run) and not self._try(run, self.best_path):
                self.best.value, self.best.epoch = previous
        ends = run.epoch >= run.epochs or run.stop is not None
        if not ends and (self.unit != "epoch" or run.epoch % self.interval == 0):
            self._try(run, self.path)

    def on_end(self, run: Run) -> None:
        self.save(run)

    def save(self, run: Run, path: Path | None = None) -> None:
        """Write the state of `run` to `path`, by default the newest state's.

        Raises CheckpointError if it can't be written, TrainingError if the weights are not finite; the file
        that was there stays.
        """
        path = path or self.path
        spoilt = not_finite(run.model)
        if spoilt:
            raise TrainingError(
                f"epoch {run.epoch + 1}, batch {run.batch}: '{spoilt[0]}' holds NaN or infinity, "
                f"so the state is not saved; {self.describe_last()}; "
                f"try a lower learning rate, warm-up, or clip_norm"
            )
        state = {
            "format": FORMAT,
            "minicnn": minicnn.__version__,
            "settings": settings(run),
            "configuration": run.configuration,
            "run": run.state_dict(),
        }
        try:
            serialization.save(state, path)
        except OSError as error:
            raise CheckpointError(f"checkpoint: {error.strerror or error}; {self.describe_last()}") from error
        self.batches, self.saved_at = 0, time.monotonic()
        if path == self.path:
            self.last = f"epoch {run.epoch + 1}, batch {run.batch}" if run.batch else f"epoch {run.epoch}"

    def _try(self, run: Run, path: Path) -> bool:
        try:
            self.save(run, path)
        except CheckpointError as error:
            warnings.warn(f"{error}; training goes on and tries again", CheckpointWarning, stacklevel=2)
            return False
        return True

    def describe_last(self) -> str:
        """Which state is safe on the disk, in words."""
        if self.last is None:
            return "there is no earlier checkpoint of this run"
        return f"the last good checkpoint is {self.path} (after {self.last})"

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.best.value, "epoch": self.best.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best.value, self.best.epoch = state["value"], state["epoch"]


def parse_interval(every: str, what: str) -> tuple[float, str]:
    """'200 batches' as (200, 'batch'); also epochs and seconds. Raises ValueError that names `what`."""
    number, _, unit = every.strip().partition(" ")
    unit = _UNITS.get(unit.strip().removesuffix("s"), "")
    try:
        interval = float(number)
    except ValueError:
        interval = 0.0
    if not unit or interval <= 0 or (unit != "second" and interval != int(interval)):
        raise ValueError(f"{what}: expected '1 epoch', '200 batches' or '60 seconds', got {every!r}")
    return interval, unit


def settings(run: Run) -> dict[str, Any]:
    """What must be the same on resume, apart from the caller's configuration."""
    return {
        "optimizer": type(run.optimizer).__name__,
        "scheduler": None if run.scheduler is None else type(run.scheduler).__name__,
        "scheduler_step": run.scheduler_step,
        "batches per epoch": len(run.loader),
        "clip_norm": run.clip_norm,
        "clip_value": run.clip_value,
        "max_norm": run.max_norm,
        "l1": run.l1,
        "compile": isinstance(run.forward, CompiledModule),
        "callbacks": [name for name, c in run.named_callbacks() if not isinstance(c, Checkpoint)],
        "settings": {name: c.settings() for name, c in run.named_callbacks()},
    }


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The contents of a checkpoint: settings, configuration, run (see `Run.state_dict`).

    Raises CheckpointError if the file is missing, cut off, or something else.
    """
    try:
        state = serialization.load(path)
    except FileNotFoundError:
        raise CheckpointError(
            f"checkpoint {path}: there is no such file; expected a checkpoint.npz that training wrote"
        ) from None
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise CheckpointError(f"checkpoint: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint {path}: expected a file of format '{FORMAT}', got something else; "
            f"weights alone are read with minicnn.load and load_state_dict"
        )
    return state


def resume_from(run: Run, path: str | os.PathLike[str]) -> None:
    """Put `run` into the state of the checkpoint at `path`.

    Raises CheckpointError that names every difference if it belongs to another model or configuration.
    """
    state = load_checkpoint(path)
    different = [
        *differences("", state["settings"], settings(run)),
        *differences("configuration ", state["configuration"], run.configuration),
        *differences("", _shapes(state["run"]["model"]), _shapes(run.model.state_dict())),
        *differences("loss ", _shapes(state["run"].get("loss", {})), _shapes(run.loss_state())),
    ]
    if different:
        shown = "; ".join(different[:8]) + (f"; and {len(different) - 8} more" if len(different) > 8 else "")
        raise CheckpointError(
            f"checkpoint {path}: belongs to another training: {shown}; "
            f"resume with what the checkpoint was made with, or start anew"
        )
    run.load_state_dict(state["run"])
    if run.checkpoint is not None and os.path.abspath(path) == os.path.abspath(run.checkpoint.path):
        run.checkpoint.last = f"epoch {run.epoch + bool(run.batch)}"


def _shapes(state: dict[str, Any]) -> dict[str, str]:
    return {f"'{name}'": f"{value.dtype}{tuple(value.shape)}" for name, value in state.items()}


def differences(what: str, theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """A line for every value of a checkpoint (theirs) that is another one here (ours)."""
    absent, theirs, ours = "absent", _flat(theirs), _flat(ours)
    return [
        f"{what}{key} is {theirs.get(key, absent)} in the checkpoint and {ours.get(key, absent)} here"
        for key in dict.fromkeys((*theirs, *ours))
        if theirs.get(key, absent) != ours.get(key, absent)
    ]


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}, so that a difference can be named exactly."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
