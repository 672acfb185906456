"""Numbers that describe a model: means over images, the confusion matrix, and the history of a training.

Everything here is bookkeeping on the host in double precision; nothing is recorded on the tape. Numbers that
a device computes are noted there, and read many batches at a time (`Tally`).
`evaluate.py` computes an Evaluation, `run.py` a History.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import minicnn_kernels as kernels


class Means:
    """Loss and accuracy over images, each batch weighted by its size.

    The last batch of an epoch is often smaller; the mean of batch means would count its images for more.
    """

    def __init__(self) -> None:
        self.images = 0
        self.loss_sum = 0.0
        self.classified = 0
        self.correct = 0

    def add(self, loss: float, images: int, correct: int | None = None) -> None:
        """Count a batch of `images` with mean `loss`; `correct` is None where there are no classes."""
        self.images += images
        self.loss_sum += loss * images
        if correct is not None:
            self.classified += images
            self.correct += correct

    @property
    def loss(self) -> float:
        """Mean loss per image."""
        return self.loss_sum / self.images if self.images else 0.0

    @property
    def accuracy(self) -> float | None:
        """Fraction of images classified right, None where there are no classes."""
        return self.correct / self.classified if self.classified else None

    def state_dict(self) -> dict[str, Any]:
        """The sums, so that an interrupted epoch goes on counting."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        vars(self).update(state)


def is_classification(outputs: Any, targets: Any) -> bool:
    """Whether these are scores (N, C) with one class number per row (N,), so that accuracy has a meaning."""
    return outputs.ndim == 2 and targets.ndim == 1 and targets.dtype.kind in "iu"


def count_correct(outputs: Any, targets: Any) -> Any:
    """How many rows of the scores (N, C) are largest at their target (N,), a tensor (); None if these are no
    classes."""
    if not is_classification(outputs, targets):
        return None
    return (outputs.detach().argmax(dim=1) == targets).sum()


class Tally:
    """The means of batches as they are computed. On a device reading every loss would stop its work."""

    def __init__(self, device: str) -> None:
        self.means = Means()
        self._ledger = None if device == "cpu" else kernels.backend(device).Ledger()
        self._unread: list[tuple[int, bool]] = []  # (images, whether they have classes) of noted batches

    def add(self, loss: Any, images: int, correct: Any) -> None:
        """Count a batch of `images`. loss, correct: tensors (); no correct where there are no classes."""
        self.note(loss, correct)
        if self._ledger is None:
            self.means.add(loss.item(), images, None if correct is None else correct.item())
        else:
            self.count(images, correct is not None)

    def note(self, loss: Any, correct: Any) -> None:
        """The device's half of `add`: launches that are the same for every batch. Nothing on the host."""
        if self._ledger is not None:
            self._ledger.note(loss.data, None if correct is None else correct.data)

    def count(self, images: int, classified: bool) -> None:
        """The host's half of `add` for a batch that was noted."""
        self._unread.append((images, classified))

    @property
    def is_full(self) -> bool:
        """Whether it must be read before another batch is noted."""
        return self._ledger is not None and len(self._unread) >= self._ledger.ROWS

    def read(self) -> list[float]:
        """Bring `means` up to date; gives the losses that were read, of the newest batches, oldest first."""
        if not self._unread:
            return []
        assert self._ledger is not None
        losses, correct = self._ledger.read()
        for (images, classified), loss, right in zip(self._unread, losses, correct, strict=True):
            self.means.add(float(loss), images, int(right) if classified else None)
        self._unread = []
        return losses.tolist()


def confusion_matrix(targets: Any, predictions: Any, classes: int) -> np.ndarray:
    """Counts (classes, classes): row = true class, column = predicted class. int64.

    Raises ValueError if a class number lies outside of 0 ... classes - 1.
    """
    targets, predictions = (np.asarray(numbers, dtype=np.int64) for numbers in (targets, predictions))
    for what, numbers in (("target", targets), ("prediction", predictions)):
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < classes:
            raise ValueError(
                f"confusion_matrix: expected every {what} in 0 ... {classes - 1}, "
                f"got values from {numbers.min()} to {numbers.max()}; is `classes` too small?"
            )
    counts = np.bincount(targets * classes + predictions, minlength=classes * classes)
    return counts.reshape(classes, classes)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. accuracy and confusion are None where the targets are no classes."""

    images: int
    loss: float
    accuracy: float | None = None
    confusion: np.ndarray | None = None

    @property
    def counts(self) -> np.ndarray:
        """The confusion matrix. Raises ValueError if there is none."""
        if self.confusion is None:
            raise ValueError(
                "Evaluation: the targets were no class numbers, so nothing was counted per class"
            )
        return self.confusion

    @property
    def per_class(self) -> np.ndarray:
        """Fraction of each true class that was predicted right (recall), NaN for classes without images."""
        totals = self.counts.sum(axis=1)
        right = np.diagonal(self.counts).astype(np.float64)
        return np.divide(right, totals, out=np.full(len(totals), np.nan), where=totals > 0)

    def by_class(self, names: Sequence[str] | None = None) -> dict[str, float | None]:
        """`per_class` by name, None for classes without images. names: default their numbers."""
        shares = self.per_class.tolist()
        names = names or [str(i) for i in range(len(shares))]
        return {name: None if share != share else share for name, share in zip(names, shares, strict=True)}


class History:
    """One row of numbers per finished epoch; `history["loss"]` is a column, `history[-1]` a row.

    Keys: epoch (from 1), loss, accuracy, validation_loss, validation_accuracy, learning_rate, seconds,
    images_per_second; those that make no sense for a training are absent.
    """

    def __init__(self, rows: list[dict[str, Any]] | None = None) -> None:
        self.rows = list(rows or ())
        self.stopped: str | None = None  # why training ended before the last epoch

    def append(self, row: dict[str, Any]) -> None:
        """Add the numbers of one epoch."""
        self.rows.append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __contains__(self, name: object) -> bool:
        return any(name in row for row in self.rows)

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, int):
            return self.rows[key]
        if self.rows and key not in self:
            known = ", ".join(self.rows[-1])
            raise KeyError(f"{key!r}: this history has the columns {known}")
        return [row[key] for row in self.rows]

    def __repr__(self) -> str:
        last = (
            "" if not self.rows else ", last " + ", ".join(f"{k}={v:.4g}" for k, v in self.rows[-1].items())
        )
        return f"History({len(self)} epochs{last})"
