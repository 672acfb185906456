"""The launches of a function, recorded while it runs and then repeated without Python: one CUDA graph.

A repetition uses the very memory of the recorded run, so three things must hold:

- What the function allocated is lent to nobody else. It comes from a pool of the recording's own, in which
  the order of launches makes reuse safe, and which is not taken from once the recording has ended.
- What the function found (weights, inputs, constants) stays where it is: the recording holds it.
- What changes from run to run is in device memory, not among a launch's arguments: the place of dropout in
  the stream of random numbers is written there before each repetition, and what changes an optimizer's step
  (`rehearsal.py`).

A function that reads a value on the host, or copies one from there, cannot be recorded: it says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import BLOCK, Elements, Kernel, Launch, cuda, kernel, listening, repeated
from minicnn_kernels.cuda.rates import PLACES, write_rates
from minicnn_kernels.cuda.storage import Lease, Pool, empty, flat

__all__ = ["Recording", "identity", "is_recording"]

_MOST_DRAWS = 256  # of random numbers, in one run
_MOST_RATES = 64  # groups of numbers that change, in one run


def is_recording() -> bool:
    """Whether this thread's launches are being recorded."""
    return listening.recording is not None


class Recording:
    """What `listen` heard, to be repeated. refusal: why it cannot be; None if it can.

    where: says which line of the caller's is running, for `refusal`. draws: (seed, offset) of random numbers
    in the order in which they were drawn.
    """

    def __init__(self, where: Callable[[], str] = str) -> None:
        self.pool, self.refusal = Pool(), None  # type: Pool, str | None
        self.launches: list[Launch] = []
        self.draws: list[tuple[int, int]] = []
        self._where = where
        self._held: dict[int, Lease] = {}
        self._numbers = empty((2 * _MOST_DRAWS,), np.int64)
        self.heard: list[tuple] = []  # the identity of each launch
        self.rates: list[int] = []  # slots of the numbers that were asked for, in order
        self._slots: dict[tuple[float, ...], int] = {}
        self._written: dict[int, tuple[float, ...]] = {}
        self._rates = empty((PLACES * _MOST_RATES,))
        self._repeat: Callable[[], None] | None = None

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Within the block this thread's launches run, and are recorded. Once only."""
        listening.recording = self
        try:
            yield
        finally:
            listening.recording = None

    def hear(self, kernel: Kernel, grid: Any, block: int, arguments: tuple) -> None:
        """Record a launch, and do it."""
        launch = Launch.of(kernel, grid, block, arguments)
        self.launches.append(launch)
        self.heard.append(identity(kernel, grid, block, arguments))
        launch.run()

    def hold(self, lease: Lease) -> None:
        """Keep memory that a launch uses, unless it is this recording's own."""
        if lease.owner is not self.pool:
            self._held[id(lease)] = lease

    def refuse(self, why: str) -> None:
        """Note the first thing that a repetition could not repeat."""
        self.refusal = self.refusal or f"{self._where()}: {why}"

    def late(self, seed: int, offset: int) -> tuple[Any, int]:
        """Where a launch finds `seed` and `offset`, which are others in each repetition: (memory, place)."""
        place = 2 * len(self.draws)
        self.draws.append((seed, offset))
        if len(self.draws) > _MOST_DRAWS:
            self.refuse(f"random numbers are drawn more than {_MOST_DRAWS} times")
            place = 0
        self._write(place, seed, offset)
        return flat(self._numbers), place

    def late_rates(self, values: tuple[float, ...]) -> tuple[Any, int]:
        """Where a launch finds `values`, in whose place a rehearsal may write others; equal ones lie
        together."""
        slot = self._slots.setdefault(values, len(self._slots))
        if slot >= _MOST_RATES:
            self.refuse(f"more than {_MOST_RATES} groups of numbers")
            slot = 0
        self.rates.append(slot)
        self.set_rates(slot, values)
        return self.rates_at(slot)

    def rates_at(self, slot: int) -> tuple[Any, int]:
        """Memory and place of a slot."""
        return flat(self._rates), PLACES * slot

    def set_rates(self, slot: int, values: tuple[float, ...]) -> None:
        """Write numbers for the launches that follow."""
        if self._written.get(slot) != values:
            self._written[slot] = values
            write_rates(self._rates, PLACES * slot, values)

    def repeat(self, draws: Sequence[tuple[int, int]]) -> None:
        """Do all launches again, with these (seed, offset) in the place of `self.draws`."""
        if self._repeat is None:
            self._repeat = repeated(self.launches)
        for i, draw in enumerate(draws):
            self._write(2 * i, *draw)
        self._repeat()

    def _write(self, place: int, seed: int, offset: int) -> None:
        numbers = (np.uint64(number).view(np.int64) for number in (seed, offset))
        Launch(_write, 1, BLOCK, (flat(self._numbers).given(), place, *numbers, 1)).run()


def identity(kernel: Kernel, grid: Any, block: int, arguments: tuple) -> tuple:
    """What makes two launches the same: kernel, threads, memory and numbers."""
    places = (
        (id(x.memory.elements), x.first, x.end, x.seen_as) if isinstance(x, Elements) else x
        for x in arguments
    )
    return kernel, grid, block, *places


@kernel("int64[::1], int64, int64, int64, int64", registers=32)
def _write(numbers, place, seed, offset, size):
    for _ in range(cuda.grid(1), size, cuda.gridsize(1)):  # one thread: size is 1
        numbers[place], numbers[place + 1] = seed, offset
