"""A recorded function is called again, and heard before it is launched.

An optimizer's step is Python that decides: which parameters have gradients, which have masks, which learning
rate is in force. So it is called in every step, but what it launches only waits. If that is what was
recorded, with the same memory, the recording is repeated in its place, one CUDA graph; from the first
difference on, everything is launched as it comes. Either way the device does what the function asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from minicnn_kernels.cuda.driver import Elements, Kernel, Launch, listening
from minicnn_kernels.cuda.rates import rates
from minicnn_kernels.cuda.recording import Recording, identity
from minicnn_kernels.cuda.storage import Lease, shared_pool

__all__ = ["Rehearsal"]


class Rehearsal:
    """One call of a function that `recording` has heard before. matched: it did the same again."""

    def __init__(self, recording: Recording) -> None:
        self.recording, self.matched = recording, True
        # Not the recording's: what differs may keep what it allocates.
        self.pool = shared_pool()
        self._waiting: list[tuple] = []  # launches as they were heard, whose memory stays taken
        self._rates: dict[int, tuple[float, ...]] = {}
        self._asked = 0  # how often for numbers

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Within the block launches wait. At its end they are done."""
        listening.recording = self
        try:
            yield
        finally:
            listening.recording = None
            if self.matched and len(self._waiting) == len(self.recording.launches):
                self._write_rates()
                self.recording.repeat(())
            else:
                self._give_up()

    def hear(self, kernel: Kernel, grid: Any, block: int, arguments: tuple) -> None:
        """A launch: wait with it, or do it if the function differs."""
        if not self.matched:
            Launch.of(kernel, grid, block, arguments).run()
            return
        place = len(self._waiting)
        self._waiting.append((kernel, grid, block, arguments))
        heard = self.recording.heard
        if place >= len(heard) or heard[place] != identity(kernel, grid, block, arguments):
            self._give_up()

    def hold(self, lease: Lease) -> None:
        """Memory is kept by the arguments that wait."""

    def refuse(self, why: str) -> None:
        """The host reads or writes: what waits comes first."""
        self._give_up()

    def late(self, seed: int, offset: int) -> tuple[Elements, int]:
        """Random numbers, which a recording of this kind has none of."""
        self._give_up()
        return self.recording.late(seed, offset)

    def late_rates(self, values: tuple[float, ...]) -> tuple[Elements, int]:
        """Where a launch finds its numbers of this call."""
        slots, asked = self.recording.rates, self._asked
        self._asked += 1
        if self.matched and (asked >= len(slots) or self._rates.setdefault(slots[asked], values) != values):
            self._give_up()
        if self.matched:
            return self.recording.rates_at(slots[asked])
        listening.recording = None  # numbers in memory of their own
        try:
            return rates(values)
        finally:
            listening.recording = self

    def _give_up(self) -> None:
        """Do what waits."""
        if self.matched:
            self.matched = False
            self._write_rates()
            for heard in self._waiting:
                Launch.of(*heard).run()
            self._waiting = []

    def _write_rates(self) -> None:
        for slot, values in self._rates.items():
            self.recording.set_rates(slot, values)
