"""Races, found in the simulator: two threads touch one element, one writes, and no barrier lies between.

The simulator lets threads take turns, so a race never shows in its results. Here every access to shared and
global memory is noted with its thread and with how many barriers that has passed, its epoch. Two accesses are
in order if one thread makes both, or if threads of one block make them in different epochs; blocks are never
in order. As each element keeps its last write and the reads since then, the first race is found, whatever the
order of turns (after Flanagan and Freund 2009, "FastTrack"). compute-sanitizer's racecheck asks the same of a
GPU, of shared memory only.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np

# What may lie between a kernel and its memory, with Numba's own file at the end.
_MACHINERY = ("races.py", "simulator.py", "instructions.py", "kernelapi.py")


class Race(RuntimeError):
    """Two accesses to one element that may come in either order."""


class Access(NamedTuple):
    """Who touched an element, when and where. atomic: in one piece, so that others may do the same."""

    block: tuple[int, ...]
    thread: int
    epoch: int
    atomic: bool
    line: tuple[str, int]

    def before(self, later: Access) -> bool:
        """Whether it is in order with an access that was noted later."""
        if self.block != later.block:
            return False
        return self.thread == later.thread or self.epoch < later.epoch


class Log:
    """The accesses of one launch, by address."""

    def __init__(self) -> None:
        self._block: tuple[int, ...] = ()
        self._thread = self._epoch = 0
        self.atomic = False
        self._written: dict[int, Access] = {}
        self._read: dict[int, dict[Any, Access]] = {}

    def turn(self, block: tuple[int, ...], thread: int, epoch: int) -> None:
        """Whose accesses follow."""
        self._block, self._thread, self._epoch = block, thread, epoch

    def read(self, address: int) -> None:
        """Note a read. Raises Race."""
        now = self._now()
        self._compare(self._written.get(address), now, "write", "read")
        self._read.setdefault(address, {})[now.block, now.thread] = now

    def write(self, address: int) -> None:
        """Note a write. Raises Race."""
        now = self._now()
        self._compare(self._written.get(address), now, "write", "write")
        for earlier in self._read.pop(address, {}).values():
            self._compare(earlier, now, "read", "write")
        self._written[address] = now

    def _now(self) -> Access:
        return Access(self._block, self._thread, self._epoch, self.atomic, _line())

    @staticmethod
    def _compare(earlier: Access | None, now: Access, did: str, does: str) -> None:
        if earlier is None or earlier.before(now) or (earlier.atomic and now.atomic):
            return
        raise Race(
            f"a race for one element: thread {now.thread} of block {now.block} may {does} it "
            f"({_words(now.line)}) before or after thread {earlier.thread} of block {earlier.block} may "
            f"{did} it ({_words(earlier.line)}); is a syncthreads missing, or an index wrong?"
        )


class Watched:
    """An array of a kernel that notes every access to its elements."""

    __slots__ = ("_array", "_log", "_start")

    def __init__(self, array: np.ndarray, log: Log) -> None:
        self._array, self._log = array, log
        self._start = array.__array_interface__["data"][0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._array, name)  # shape, size, dtype, ...

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: Any) -> Any:
        found = self._array[index]
        if isinstance(found, np.ndarray):
            return Watched(found, self._log)
        self._log.read(self._address(index))
        return found

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(self._array[index], np.ndarray):
            raise TypeError("a kernel writes one element at a time: several have no order among threads")
        self._log.write(self._address(index))
        self._array[index] = value

    def _address(self, index: Any) -> int:
        places = index if isinstance(index, tuple) else (index,)
        layout = zip(places, self._array.shape, self._array.strides, strict=True)
        return self._start + sum(int(i) % size * step for i, size, step in layout)


def note_write(array: Any, index: Any) -> None:
    """Note a write to array[index] without one, where arrays are watched. Raises Race."""
    if isinstance(array, Watched):
        array._log.write(array._address(index))


class Atomic:
    """`cuda.atomic` whose accesses are noted as made in one piece."""

    def __init__(self, functions: Any, log: Log) -> None:
        self._functions, self._log = functions, log

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._functions, name)

        def call(*arguments: Any) -> Any:
            self._log.atomic = True
            try:
                return function(*arguments)
            finally:
                self._log.atomic = False

        return call


def _line() -> tuple[str, int]:
    """(file, number) of the line of the kernel that runs."""
    frame: Any = sys._getframe(4)  # past this, the log's two and the array's one
    while frame.f_code.co_filename.endswith(_MACHINERY):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _words(line: tuple[str, int]) -> str:
    return f"{line[0].rpartition('/')[2]}:{line[1]}"
