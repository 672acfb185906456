"""Numbers of many training steps, written down on the device and read in one go.

Reading the loss after every step would make the host wait for the device, and then the device for the host.
The place in the ledger is counted on the device, so the launch that writes is the same in every step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import cuda, kernel, launch
from minicnn_kernels.cuda.storage import dense, empty, flat, on_device, to_device, to_host

__all__ = ["Ledger"]


class Ledger:
    """Rows of a loss and a count of right answers, `ROWS` of them at most between two readings."""

    ROWS = 1024

    def __init__(self) -> None:
        self._losses, self._correct = empty((self.ROWS,)), empty((self.ROWS,), np.int64)
        self._filled = to_device(np.zeros(1, np.int64))

    def note(self, loss: Any, correct: Any) -> None:
        """Add a row. loss: float32 (), correct: int64 () or None. A row too many is lost."""
        on_device("note", loss, correct)
        counted = self._correct.view((1,), None) if correct is None else correct
        launch(
            _note, 1, flat(self._losses), flat(self._correct), flat(self._filled), flat(dense(loss)),
            flat(dense(counted)), self.ROWS, 1,
        )  # fmt: skip

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """(losses, right answers) of all rows, oldest first, and begin anew. Waits for the device."""
        rows = int(to_host(self._filled)[0])
        found = to_host(self._losses)[:rows], to_host(self._correct)[:rows]
        launch(_begin, 1, flat(self._filled), 1)
        return found


@kernel("float32[::1], int64[::1], int64[::1], float32[::1], int64[::1], int64, int64", registers=32)
def _note(losses, correct, filled, loss, counted, rows, size):
    for _ in range(cuda.grid(1), size, cuda.gridsize(1)):  # one thread: size is 1
        row = filled[0]
        if row < rows:
            losses[row], correct[row] = loss[0], counted[0]
            filled[0] = row + 1


@kernel("int64[::1], int64", registers=32)
def _begin(filled, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        filled[i] = 0
