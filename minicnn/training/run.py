"""`Run`: one training in progress, as callbacks see it and checkpoints hold it. `trainer.py` begins it.

One batch is forward, loss, backward, clipping, optimizer step; everything else (progress, logs, early
stopping, checkpoints) is a callback. Finding where a NaN came from is in `anomaly.py`.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import minicnn
import minicnn_kernels as kernels
from minicnn import nn, optim
from minicnn.data.on_device import on_device
from minicnn.graph import CompiledModule, CompiledStep, compile_step, compile_update
from minicnn.training.anomaly import Snapshot, explain, explain_late
from minicnn.training.callbacks import Callback
from minicnn.training.checkpoint import Checkpoint
from minicnn.training.errors import TrainingInterrupted
from minicnn.training.evaluate import device_of, evaluate, loss_of
from minicnn.training.metrics import History, Means, Tally, count_correct


class Run:
    """One training under way.

    epoch, batch: how many epochs, and batches of the present one, are done. means: running loss and
    accuracy of the present epoch. history: the finished epochs. stop: set it to a reason and training
    ends after the epoch. interrupted: Ctrl-C was pressed.
    """

    def __init__(
        self,
        model: Any,
        loader: Any,
        *,
        optimizer: Any,
        loss: Callable[..., Any],
        epochs: int,
        validation: Any = None,
        scheduler: Any = None,
        scheduler_step: str = "epoch",
        clip_norm: float | None = None,
        clip_value: float | None = None,
        max_norm: float | None = None,
        l1: float = 0.0,
        compile: bool = True,
        device: str | None = None,
        configuration: dict[str, Any] | None = None,
    ) -> None:
        self.device = device_of(model) if device is None else device
        kernels.require(self.device)
        for part in (model, optimizer, loss):
            if hasattr(part, "to"):
                part.to(self.device)
        loader = on_device(loader, self.device)
        self.model, self.loader, self.optimizer, self.loss = model, loader, optimizer, loss
        self.forward = minicnn.compile(model) if compile else model
        self._step: CompiledStep | None = None
        self._step_of: Any = None
        self._device_update = compile_update(self._update, model) if compile else self._update
        self.epochs, self.validation = epochs, validation
        self.scheduler, self.scheduler_step = scheduler, scheduler_step
        self.clip_norm, self.clip_value, self.max_norm, self.l1 = clip_norm, clip_value, max_norm, l1
        self.configuration = dict(configuration or {})
        self.callbacks: list[Callback] = []
        self.epoch = self.batch = 0
        self.tally, self.seconds, self.history = Tally(self.device), 0.0, History()
        self.stop: str | None = None
        self.interrupted = False

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The callback that saves this run, if there is one."""
        return next((c for c in self.callbacks if isinstance(c, Checkpoint)), None)

    @property
    def means(self) -> Means:
        """Loss and accuracy of the present epoch until now; see `read_losses`."""
        self.read_losses()
        return self.tally.means

    def read_losses(self) -> None:
        """Wait for a device, if one computes, and count what it has noted since the last time.

        Raises TrainingError if one of these losses, or a norm that was to be limited, is not finite.
        """
        losses = self.tally.read()
        for batch, loss in enumerate(losses, self.batch - len(losses) + 1):
            if not math.isfinite(loss):
                what = "the loss" if self.clip_norm is None else "the loss or the norm of the gradient"
                explain_late(self, batch, f"{what} became {loss}")

    def train_epoch(self) -> None:
        """The rest of the present epoch, validation, and the row of the history."""
        self.model.train()
        knows_its_place = hasattr(self.loader, "load_state_dict")
        began = time.perf_counter()
        for images, targets in self.loader if knows_its_place else islice(self.loader, self.batch, None):
            self.train_batch(images, targets)
            now = time.perf_counter()
            self.seconds, began = self.seconds + now - began, now
            self.batch += 1
            if self.tally.is_full:
                self.read_losses()
            self._tell("on_batch")
            if self.interrupted:
                self._interrupt()
        self.read_losses()  # the epoch ends when its work is done
        self.seconds += time.perf_counter() - began
        self._finish_epoch()

    def train_batch(self, images: Any, targets: Any) -> None:
        """One step. Raises TrainingError if the loss or the gradient's norm is not finite.

        On a device the loss is not looked at, since that would stop it until the step is done: `means` does.
        """
        self.optimizer.zero_grad()
        if self.device != "cpu":
            classified = self._device_step()(images, targets)
            self.tally.count(len(images), classified)
            self._device_update()
            return
        before = Snapshot(self.model)
        outputs, loss = self._loss_of_batch(images, targets)
        if not math.isfinite(value := loss.item()):
            explain(self, before, images, targets, f"the loss became {value}")
        self._backward(loss)
        norm = self._clip_gradients()
        if norm is not None and not math.isfinite(value := norm.item()):
            explain(self, before, images, targets, f"the norm of the gradient became {value}")
        self._update()
        self.tally.add(loss, len(images), count_correct(outputs, targets))

    def _device_step(self) -> Callable[[Any, Any], bool]:
        """`_learn_batch`, compiled where the model is: the same launches for every batch of a shape."""
        if not isinstance(self.forward, CompiledModule):
            return self._learn_batch
        options = (self.forward, self.loss, self.l1, self.clip_value, self.clip_norm)
        if self._step is None or self._step_of != options:
            self._step, self._step_of = compile_step(self._learn_batch, self.model, self.loss), options
        return self._step

    def _learn_batch(self, images: Any, targets: Any) -> bool:
        """What a device does for a batch before the optimizer's step. Gives whether there are classes."""
        outputs, loss = self._loss_of_batch(images, targets)
        self._backward(loss)
        norm = self._clip_gradients()
        if norm is not None:  # what is noted turns NaN if the norm is not finite, and else stays what it is
            loss = loss.detach() + (norm - norm)
        correct = count_correct(outputs, targets)
        self.tally.note(loss, correct)
        return correct is not None

    def _loss_of_batch(self, images: Any, targets: Any) -> tuple[Any, Any]:
        outputs = self.forward(images)
        return outputs, loss_of(self.loss, outputs, targets, images)

    def _backward(self, loss: Any) -> None:
        if self.l1:
            weights = [p for p in self.model.parameters() if p.ndim > 1]
            loss = loss + nn.l1_penalty(weights, self.l1)
        loss.backward()

    def _clip_gradients(self) -> Any:
        """The norm of the gradient, a tensor (), if that is limited."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if self.clip_value is not None:
            optim.clip_grad_value_(parameters, self.clip_value)
        return None if self.clip_norm is None else optim.clip_grad_norm_(parameters, self.clip_norm)

    def _update(self) -> None:
        self.optimizer.step()
        if self.max_norm is not None:
            optim.max_norm_((p for p in self.model.parameters() if p.requires_grad), self.max_norm)
        if self.scheduler is not None and self.scheduler_step == "batch":
            self.scheduler.step()

    def _finish_epoch(self) -> None:
        means = self.means
        row: dict[str, Any] = {"epoch": self.epoch + 1, "loss": means.loss}
        if means.accuracy is not None:
            row["accuracy"] = means.accuracy
        if self.validation is not None:
            result = evaluate(self.forward, self.validation, loss=self.loss)
            row["validation_loss"] = result.loss
            if result.accuracy is not None:
                row["validation_accuracy"] = result.accuracy
        row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        row["seconds"] = self.seconds
        row["images_per_second"] = means.images / self.seconds if self.seconds else 0.0
        if self.scheduler is not None and self.scheduler_step == "epoch":
            if isinstance(self.scheduler, optim.lr_scheduler.ReduceLROnPlateau):
                self.scheduler.step(row.get("validation_loss", row["loss"]))
            else:
                self.scheduler.step()
        self.history.append(row)
        self.epoch, self.batch, self.seconds = self.epoch + 1, 0, 0.0
        self.tally.means = Means()
        self._tell("on_epoch")
        if self.interrupted and self.epoch < self.epochs:
            self._interrupt()

    def _tell(self, event: str) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self)

    def _interrupt(self) -> None:
        place = f"interrupted in epoch {self.epoch + 1} of {self.epochs} after batch {self.batch}"
        if self.checkpoint is None:
            raise TrainingInterrupted(f"{place}; nothing was saved, pass checkpoint= to be able to go on")
        self.checkpoint.save(self)
        raise TrainingInterrupted(f"{place}; saved in {self.checkpoint.path}, go on from there with resume")

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "loaders": [
                loader.state_dict() if hasattr(loader, "state_dict") else None
                for loader in (self.loader, self.validation)
            ],
            "loss": self.loss_state(),
            "random": minicnn.get_rng_state(),
            "callbacks": {name: callback.state_dict() for name, callback in self.named_callbacks()},
            "epoch": self.epoch,
            "batch": self.batch,
            "seconds": self.seconds,
            "means": self.means.state_dict(),
            "history": self.history.rows,
            "stop": self.stop,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`. What fits is checked by `checkpoint.resume_from` before."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for loader, position in zip((self.loader, self.validation), state["loaders"], strict=True):
            if position is not None and loader is not None:
                loader.load_state_dict(position)
        if self.loss_state():
            self.loss.load_state_dict(state["loss"])  # type: ignore[attr-defined]
        for name, callback in self.named_callbacks():
            if name in state["callbacks"]:  # a Checkpoint may be new here
                callback.load_state_dict(state["callbacks"][name])
        self.epoch, self.batch, self.seconds = state["epoch"], state["batch"], state["seconds"]
        self.tally.means.load_state_dict(state["means"])
        self.history.rows = list(state["history"])
        self.stop = state["stop"]
        minicnn.set_rng_state(state["random"])

    def loss_state(self) -> dict[str, Any]:
        """What the loss trains or remembers beside the model; most have nothing."""
        return self.loss.state_dict() if hasattr(self.loss, "state_dict") else {}

    def named_callbacks(self) -> Iterator[tuple[str, Callback]]:
        """Callbacks that have a state or settings, under names that stay the same from run to run."""
        seen: Counter[str] = Counter()
        for callback in self.callbacks:
            own = type(callback)
            if own.state_dict is not Callback.state_dict or own.settings is not Callback.settings:
                name = type(callback).__name__
                seen[name] += 1
                yield (name if seen[name] == 1 else f"{name} {seen[name]}"), callback
