"""`fit`: a training from its arguments to its end. What happens to a batch is in `run.py`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from minicnn import nn
from minicnn.nn.transform import attached, detach
from minicnn.training.callbacks import Callback, EarlyStopping, MetricsLog
from minicnn.training.checkpoint import Checkpoint, resume_from
from minicnn.training.metrics import History
from minicnn.training.progress import Progress
from minicnn.training.run import Run


def fit(
    model: Any,
    train_loader: Any,
    *,
    optimizer: Any,
    loss: Callable[..., Any] | None = None,
    epochs: int,
    validation: Any = None,
    validation_name: str = "validation",
    scheduler: Any = None,
    scheduler_step: str = "epoch",
    clip_norm: float | None = None,
    clip_value: float | None = None,
    max_norm: float | None = None,
    l1: float = 0.0,
    early_stopping: EarlyStopping | int | None = None,
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    checkpoint_every: str = "1 epoch",
    resume: bool | str | os.PathLike[str] = False,
    metrics: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    callbacks: Sequence[Callback] = (),
    compile: bool = True,
    device: str | None = None,
    configuration: dict[str, Any] | None = None,
) -> History:
    """Train `model` for `epochs` over `train_loader`, which yields (images, targets). Gives the History.

    loss(outputs, targets): a mean over the batch; default cross-entropy. A loss whose attribute needs_images
    is true is called with (outputs, targets, images); the tensors of its state_dict, if it has one, are kept
    in the checkpoint. validation: a loader evaluated after every epoch, shown under validation_name.
    scheduler_step: how often `scheduler` steps, "batch" or "epoch".
    clip_norm, clip_value: limits of the gradient. max_norm: limit of the length of each unit's incoming
    weights. l1: weight of the sum of |w| in the loss (weights, not biases); weight decay is the optimizer's.
    early_stopping: patience in epochs, or an EarlyStopping. checkpoint: file of the newest state, replaced
    atomically `checkpoint_every` "1 epoch", "200 batches" or "60 seconds"; a Checkpoint says more.
    resume: a file to go on from, bit for bit as if there had been no break; True: from `checkpoint` if it
    exists, else begin. metrics: JSON Lines file. progress: None a bar on a terminal and a line per epoch
    elsewhere, True the same bar anywhere, False nothing. compile: run the model by `minicnn.compile`, which
    changes speed and the last bits of results. device: "cpu" or "cuda", where the model, the optimizer's
    state and the loss are moved and stay; default: where the model is. Batches follow by themselves.
    configuration: plain values that are kept in the checkpoint and must be the same on resume.

    Raises ValueError for arguments that make no sense, TrainingError when loss or weights stop being
    finite, CheckpointError when a checkpoint does not fit, TrainingInterrupted after Ctrl-C. For a device
    that is not here it raises ImportError or RuntimeError, which say what is missing.
    """
    if epochs < 1:
        raise ValueError(f"fit: expected epochs >= 1, got {epochs}")
    if scheduler_step not in ("batch", "epoch"):
        raise ValueError(f"fit: expected scheduler_step 'batch' or 'epoch', got {scheduler_step!r}")
    for what, loader in (("train_loader", train_loader), ("validation", validation)):
        if loader is not None and len(loader) == 0:
            raise ValueError(
                f"fit: {what} has no batches; is its data set empty, or smaller than a batch under drop_last?"
            )
    run = Run(
        model,
        train_loader,
        optimizer=optimizer,
        loss=loss or nn.functional.cross_entropy,
        epochs=epochs,
        validation=validation,
        scheduler=scheduler,
        scheduler_step=scheduler_step,
        clip_norm=clip_norm,
        clip_value=clip_value,
        max_norm=max_norm,
        l1=l1,
        compile=compile,
        device=device,
        configuration=configuration,
    )
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint, every=checkpoint_every)
    if isinstance(early_stopping, int):
        early_stopping = EarlyStopping(early_stopping)
    # The checkpoint comes last: what it saves has seen every other callback of this epoch.
    optional = (
        early_stopping,
        MetricsLog(metrics) if metrics is not None else None,
        Progress.choose(progress, validation_name),
        checkpoint,
    )
    run.callbacks = [*callbacks, *(callback for callback in optional if callback is not None)]
    if resume is True and checkpoint is None:
        raise ValueError("fit: resume=True goes on from `checkpoint`, and none was given")
    with _form_kept_on_error(model):
        run._tell("on_setup")
        if not isinstance(resume, bool):
            resume_from(run, resume)
        elif resume and checkpoint is not None and checkpoint.path.exists():
            resume_from(run, checkpoint.path)
    _train(run)
    return run.history


@contextmanager
def _form_kept_on_error(model: Any) -> Iterator[None]:
    """After an error inside, the model is without the transforms that were attached to it inside."""
    before = [one.transform for one in attached(model)]
    try:
        yield
    except BaseException:
        for one in list(attached(model)):
            if not any(one.transform is transform for transform in before):
                detach(one.module, one.place, one.transform.kind)
        raise


def _train(run: Run) -> None:
    try:
        with _finish_batch_on_interrupt(run):
            run._tell("on_start")
            while run.epoch < run.epochs and run.stop is None:
                run.train_epoch()
            run.history.stopped = run.stop
            run._tell("on_end")
    finally:
        for callback in run.callbacks:
            callback.close()


@contextmanager
def _finish_batch_on_interrupt(run: Run) -> Iterator[None]:
    """The first Ctrl-C asks for an orderly end, the second ends at once. Only the main thread can listen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request(signum: int, frame: Any) -> None:
        run.interrupted = True
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, request)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
