"""What happens beside the training step: early stopping, a log of metrics, whatever a user adds.

A callback sees the `Run` (run.py) after every batch and every epoch, may set `run.stop`, and has a
state that goes into the checkpoint. The progress bar and the checkpoint are callbacks, too, in their
own files.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import minicnn_kernels as kernels

if TYPE_CHECKING:
    from minicnn.training.run import Run


class Callback:
    """Does nothing; override what you need. Order of calls is the order of the callbacks."""

    def on_setup(self, run: Run) -> None:
        """Before a resume: give the model what the checkpoint has of it, such as masks of a schedule."""

    def on_start(self, run: Run) -> None:
        """Before the first batch, after a resume."""

    def on_batch(self, run: Run) -> None:
        """After the optimizer's step; `run.batch` batches of epoch `run.epoch + 1` are done."""

    def on_epoch(self, run: Run) -> None:
        """After validation; `run.history[-1]` is this epoch's row and `run.epoch` epochs are done."""

    def on_end(self, run: Run) -> None:
        """After the last epoch. Not called when training failed or was interrupted."""

    def close(self) -> None:
        """However training ended: give back what is held (a terminal line, a file)."""

    def settings(self) -> dict[str, Any]:
        """Plain values that must be the same on resume."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must know."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""


class Best:
    """Whether a number is the best so far. Of losses and errors the smallest is best, else the largest."""

    def __init__(self, monitor: str, min_delta: float = 0.0) -> None:
        self.monitor, self.min_delta = monitor, min_delta
        self.sign = -1.0 if monitor.endswith(("loss", "error")) else 1.0
        self.value: float | None = None
        self.epoch = 0

    def update(self, run: Run) -> bool:
        """Look at the newest row of the history; True if it is better by more than `min_delta`."""
        row = run.history[-1]
        if self.monitor not in row:
            raise ValueError(
                f"monitor {self.monitor!r}: expected one of {', '.join(row)}; "
                f"pass validation= to fit to have numbers from data that is not trained on"
            )
        value = row[self.monitor]
        if self.value is not None and self.sign * (value - self.value) <= self.min_delta:
            return False
        self.value, self.epoch = value, row["epoch"]
        return True


class EarlyStopping(Callback):
    """Stop when `monitor` has not become better by more than `min_delta` for `patience` epochs.

    With `restore_best` the model ends with the weights and buffers of its best epoch.
    """

    def __init__(
        self,
        patience: int = 3,
        *,
        min_delta: float = 0.0,
        monitor: str = "validation_loss",
        restore_best: bool = True,
    ) -> None:
        if patience < 1:
            raise ValueError(f"EarlyStopping: expected patience >= 1 epoch, got {patience}")
        if min_delta < 0:
            raise ValueError(f"EarlyStopping: expected min_delta >= 0, got {min_delta}")
        self.patience, self.restore_best = patience, restore_best
        self.best = Best(monitor, min_delta)
        self.best_state: dict[str, Any] | None = None

    def on_epoch(self, run: Run) -> None:
        if self.best.update(run):
            if self.restore_best:
                self.best_state = copied_state(run.model)
        elif run.epoch - self.best.epoch >= self.patience:
            run.stop = (
                f"early stopping: {self.best.monitor} has not improved since epoch {self.best.epoch} "
                f"({self.best.value:.4f})"
            )

    def on_end(self, run: Run) -> None:
        if self.best_state is not None:
            run.model.load_state_dict(self.best_state)

    def state_dict(self) -> dict[str, Any]:
        state = {"value": self.best.value, "epoch": self.best.epoch}
        return state if self.best_state is None else state | {"best_state": self.best_state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best.value, self.best.epoch = state["value"], state["epoch"]
        self.best_state = state.get("best_state")


class MetricsLog(Callback):
    """The history as a JSON Lines file, one epoch a line, written as it happens.

    A new training begins the file anew; a resumed one first brings it back to what the checkpoint knew,
    so that no epoch stands in it twice.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def on_start(self, run: Run) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(map(_line, run.history)), encoding="utf-8")

    def on_epoch(self, run: Run) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(run.history[-1]))


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def copied_state(model: Any) -> dict[str, Any]:
    """The state of a model as arrays of its own, untouched by further training."""
    return {name: kernels.of(t.data).copy(t.data) for name, t in model.state_dict().items()}
