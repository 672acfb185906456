"""Where a NaN or infinity came from: the batch that made it is run again with every op watched.

Watching is slow, so training itself looks at one number per batch, the loss. `Snapshot` keeps what a
forward pass changes, so that the second run repeats the first one exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

import minicnn
import minicnn_kernels as kernels
from minicnn.function import NonFiniteError, detect_anomaly
from minicnn.training.errors import TrainingError
from minicnn.training.evaluate import loss_of

if TYPE_CHECKING:
    from minicnn.training.run import Run


class Snapshot:
    """The random state and the buffers of a model (running statistics) before a forward pass."""

    def __init__(self, model: Any) -> None:
        self.random = minicnn.get_rng_state()
        self.buffers = [(b, kernels.of(b.data).copy(b.data)) for b in model.buffers()]

    def restore(self) -> None:
        """Put them back."""
        minicnn.set_rng_state(self.random)
        with minicnn.no_grad():
            for buffer, value in self.buffers:
                buffer.copy_(value)


def explain(run: Run, before: Snapshot, images: Any, targets: Any, what: str) -> NoReturn:
    """Raise the error that says what made this batch's loss or gradient not finite, and what is left.

    ValueError if the data itself is not finite, else TrainingError that names the parameter, or the first
    op and its layer. The model keeps the buffers that it had before the batch.
    """
    place = f"epoch {run.epoch + 1}, batch {run.batch + 1}"
    _check_data(place, "images", images)
    _check_data(place, "targets", targets)
    before.restore()
    cause = _spoilt_parameters(run.model) or _first_op(run, images, targets)
    before.restore()
    raise TrainingError(
        f"{place}: {what}; {cause}; {_kept(run)}; "
        f"try a lower learning rate, warm-up, or a limit on the gradient's norm (clip_norm)"
    )


def explain_late(run: Run, batch: int, what: str) -> NoReturn:
    """Raise the TrainingError for a batch that a device has forgotten: losses there are read many at a time.

    batch: its number in the epoch, from 1.
    """
    cause = _spoilt_parameters(run.model) or "no weight is spoilt"
    raise TrainingError(
        f"epoch {run.epoch + 1}, batch {batch}: {what}; {cause}; {_kept(run)}; try a lower learning rate, "
        f"warm-up, or a limit on the gradient's norm (clip_norm); device 'cpu' names the op that made it"
    )


def _kept(run: Run) -> str:
    return run.checkpoint.describe_last() if run.checkpoint is not None else "no checkpoint was asked for"


def _check_data(place: str, what: str, batch: Any) -> None:
    if batch.dtype.kind != "f":
        return
    finite = np.isfinite(kernels.to_host(batch.data)).reshape(len(batch), -1).all(axis=1)
    if not finite.all():
        rows = np.flatnonzero(~finite)
        raise ValueError(
            f"{place}: expected finite {what}, got NaN or infinity in {len(rows)} of {len(batch)}, "
            f"first at position {rows[0]} of the batch; clean the data before training"
        )


def not_finite(model: Any) -> list[str]:
    """Names of the parameters and buffers that hold a NaN or an infinity."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return [
        name
        for name, tensor in named
        if tensor.dtype.kind == "f" and not kernels.of(tensor.data).all_finite(tensor.data)
    ]


def _spoilt_parameters(model: Any) -> str:
    """Weights that the previous update made infinite explain every op that reads them."""
    names = not_finite(model)
    if not names:
        return ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"the update before it made '{names[0]}'{more} NaN or infinite (the gradient was too large)"


def _first_op(run: Run, images: Any, targets: Any) -> str:
    try:
        with detect_anomaly(), np.errstate(all="ignore"):
            loss = loss_of(run.loss, run.model(images), targets, images)
            loss.backward()
    except NonFiniteError as error:
        return str(error)
    return "no single op made it when the batch was run again, so a sum of finite terms overflowed"
