"""The simulator made quick, and what it needs for the instructions of `instructions.py`.

Numba's simulator starts a Python thread for each of CUDA's and polls them: a millisecond each, and many more
on a busy machine. So a block of one thread runs in the thread that launches it. Kernels whose threads do not
wait for one another are as well tested by one thread a block; those that do take MINICNN_SIMULATED_THREADS,
1 or a power of two, so that a few tests can let them meet.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from typing import Any

import numpy as np

THREADS = int(os.environ.get("MINICNN_SIMULATED_THREADS", "1"))


def run_single_threads_in_place() -> None:
    """Teach the simulator to start no thread for a block of one."""
    from numba.cuda.simulator import kernel
    from numba.cuda.simulator.kernelapi import Dim3

    run_threads = kernel.BlockManager.run

    def run(manager: Any, grid_point: tuple[int, ...], *arguments: Any) -> None:
        if manager._block_dim != (1, 1, 1):
            run_threads(manager, grid_point, *arguments)
            return
        thread: Any = threading.current_thread()
        thread.blockIdx, thread.threadIdx, thread.thread_id = Dim3(*grid_point), Dim3(0, 0, 0), 0
        thread.syncthreads = lambda: None
        manager._f(*arguments)

    setattr(kernel.BlockManager, "run", run)  # noqa: B010  (a method of somebody else's class)


def let_shared_arrays_be_aligned() -> None:
    """Teach the simulator's `cuda.shared.array` the argument `alignment`, and what uninitialised means.

    Shared memory starts as NaN, or as the largest number of its type, so that a kernel which reads what no
    thread wrote is found out.
    """
    from numba.cuda.simulator import kernelapi

    def array(shared: Any, shape: Any, dtype: Any, alignment: int = 16) -> np.ndarray:
        caller = sys._getframe(1)
        place = (caller.f_code.co_filename, caller.f_lineno)
        if place not in shared._allocations:
            dtype = np.dtype(dtype)
            unknown = np.nan if dtype.kind == "f" else True if dtype.kind == "b" else np.iinfo(dtype).max
            room = np.full(math.prod(np.atleast_1d(shape)) + alignment // dtype.itemsize, unknown, dtype)
            first = -room.ctypes.data % alignment // dtype.itemsize
            allocated = room[first : first + math.prod(np.atleast_1d(shape))].reshape(shape)
            allocated = shared._allocations.setdefault(place, allocated)
        return shared._allocations[place]

    setattr(kernelapi.FakeCUDAShared, "array", array)  # noqa: B010  (as above)


def check_alignment(array: Any, index: Any, size: int) -> None:
    """Raises AssertionError if array[index] does not lie at a multiple of `size` bytes, as the GPU would."""
    assert index >= 0, f"index {index}"
    place = array.ctypes.data + array.itemsize * int(index)
    assert place % size == 0, f"element {index} lies {place % size} bytes past a multiple of {size}"


# Copies in the background: for each thread its groups, the last one still open. A copy is (target, its index,
# source, its index, elements to copy, elements to fill with zeros).


def _groups() -> list[list[tuple]]:
    thread: Any = threading.current_thread()
    if not hasattr(thread, "copies"):
        thread.copies = [[]]
    return thread.copies


def begin_copy(target: tuple, source: tuple, size: int, of: int) -> None:
    """Note a copy of `of` bytes, all but the first `size` of them zeros. target, source: (array, index)."""
    step = target[0].itemsize
    _groups()[-1].append((*target, *source, size // step, of // step))


def close_copies() -> None:
    """What was begun becomes a group."""
    _groups().append([])


def finish_copies(but: int) -> None:
    """Carry out all closed groups but so many of the youngest."""
    groups = _groups()
    while len(groups) > but + 1:
        for target, target_index, source, source_index, count, places in groups.pop(0):
            for i in range(places):
                target[target_index + i] = source[source_index + i] if i < count else 0


_held: dict[int, tuple] = {}  # what each thread of the block has laid open; blocks run one after the other


def gather_from_warp(values: tuple) -> tuple[int, list[tuple]]:
    """(this thread's lane, the values of all 32 lanes of its warp). All threads of the block meet here."""
    thread: Any = threading.current_thread()
    _held[thread.thread_id] = values
    thread.syncthreads()
    first = thread.thread_id // 32 * 32
    found = [_held[first + lane] for lane in range(32)]
    thread.syncthreads()  # before the next values are laid open
    return thread.thread_id % 32, found
