"""Numbers that change from step to step, such as a learning rate, in device memory.

A launch that reads them there is the same in every step, so that it can be repeated as it was recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import BLOCK, Elements, Launch, cuda, kernel, launch, listening
from minicnn_kernels.cuda.storage import empty, flat
from minicnn_kernels.device_array import DeviceArray

__all__ = ["PLACES", "rates", "write_rates"]

PLACES = 9  # the most numbers of one launch


def rates(values: Sequence[float]) -> tuple[Elements, int]:
    """Where a kernel finds up to `PLACES` numbers, as float32: (memory, place of the first)."""
    values = tuple(values)
    if listening.recording is not None:
        return listening.recording.late_rates(values)
    return flat(_written(values)), 0


def write_rates(memory: DeviceArray, place: int, values: Sequence[float]) -> None:
    """Write numbers into memory of float32, unheard by any recording."""
    Launch.of(_write, 1, BLOCK, (flat(memory), place, *_padded(values), 1)).run()


@lru_cache(maxsize=64)
def _written(values: tuple[float, ...]) -> DeviceArray:
    """The numbers in memory of their own. It is not uploaded: that would wait for the device."""
    memory = empty((PLACES,))
    launch(_write, 1, flat(memory), 0, *_padded(values), 1)
    return memory


def _padded(values: Sequence[float]) -> list[Any]:
    return [np.float32(value) for value in (*values, *(0,) * (PLACES - len(values)))]


@kernel(f"float32[::1], int64, {', '.join(['float32'] * PLACES)}, int64", registers=40)
def _write(rates, place, r0, r1, r2, r3, r4, r5, r6, r7, r8, size):
    for _ in range(cuda.grid(1), size, cuda.gridsize(1)):  # one thread: size is 1
        rates[place], rates[place + 1], rates[place + 2] = r0, r1, r2
        rates[place + 3], rates[place + 4], rates[place + 5] = r3, r4, r5
        rates[place + 6], rates[place + 7], rates[place + 8] = r6, r7, r8
