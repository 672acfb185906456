"""The simulator made quick and strict: one thread runs at a time, and each sees only what it may count on.

Numba's simulator starts a Python thread for each of CUDA's and polls them. Here a block of one thread runs in
the thread that launches it. The threads of a larger block take turns, each up to its next barrier, so that a
run repeats exactly; a barrier that not all of them reach is an error. Shared and local memory starts as NaN:
what nobody wrote must not look like a number. Kernels whose threads meet take MINICNN_SIMULATED_THREADS, 1 or
a power of two; with several, `races.py` watches every access to memory. At the end of this file stands what
the instructions of `instructions.py` need.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from typing import Any

import numpy as np

from minicnn_kernels.cuda import races

THREADS = int(os.environ.get("MINICNN_SIMULATED_THREADS", "1"))


def install() -> None:
    """Teach Numba's simulator all that; for the whole process."""
    from numba.cuda.simulator import kernel

    context, thread = _context_class(), _thread_class()

    def argument(array: Any) -> Any:
        """A device array as kernels see it: NumPy's own is quick, Numba's copy of one is not."""
        return _running(kernel).watched(array._ary)

    def run(manager: Any, grid_point: tuple[int, ...], *arguments: Any) -> None:
        _running(kernel).start_block(grid_point)
        with np.errstate(all="ignore"):  # a GPU warns of nothing
            if manager._block_dim == (1, 1, 1):
                _run_in_place(manager, grid_point, arguments)
            else:
                _run_in_turns(_running(kernel), thread, manager, grid_point, arguments)

    for name, ours in (("FakeWithinKernelCUDAArray", argument), ("FakeCUDAModule", context)):
        setattr(kernel, name, ours)
    setattr(kernel.BlockManager, "run", run)  # noqa: B010  (a method of somebody else's class)


def _running(kernel: Any) -> Any:
    """What `cuda` means to the kernel that runs now."""
    return kernel._get_kernel_context()


def _run_in_place(manager: Any, grid_point: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
    from numba.cuda.simulator.kernelapi import Dim3

    thread: Any = threading.current_thread()
    thread.blockIdx, thread.threadIdx, thread.thread_id = Dim3(*grid_point), Dim3(0, 0, 0), 0
    thread.syncthreads = lambda: None
    manager._f(*arguments)


def _run_in_turns(
    context: Any, thread_class: Any, manager: Any, grid_point: tuple[int, ...], arguments: tuple[Any, ...]
) -> None:
    """Every thread runs up to its next barrier, then the next one does, until all have ended.

    Raises what a thread raises, and RuntimeError if some wait at a barrier that others do not reach.
    """
    threads = [
        thread_class(lambda: manager._f(*arguments), manager, grid_point, place, False)
        for place in np.ndindex(*manager._block_dim)
    ]
    for thread in threads:
        thread.start()
    waiting, epoch = threads, 0
    try:
        while waiting:
            for thread in waiting:
                context.log.turn(grid_point, thread.thread_id, epoch)
                thread.take_turn()
                if thread.exception:
                    raise thread.exception[0].with_traceback(thread.exception[1])
            _require_one_barrier(waiting)
            waiting, epoch = [thread for thread in waiting if thread.barrier], epoch + 1
    finally:
        for thread in threads:
            if thread.barrier:  # somebody failed: nobody is left waiting
                thread.abort = True
                thread.take_turn()


def _require_one_barrier(threads: list[Any]) -> None:
    barriers = {thread.barrier: thread.thread_id for thread in threads}
    if len(barriers) > 1:
        places = "; ".join(f"thread {who}: {place or 'has ended'}" for place, who in barriers.items())
        raise RuntimeError(f"a barrier that not all threads of the block reach: {places}")


def _thread_class() -> Any:
    from numba.cuda.simulator.kernel import BlockThread

    class Thread(BlockThread):
        """One of CUDA's threads. barrier: the line where it waits; None before it starts and at its end."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.mine, self.others = threading.Semaphore(0), threading.Semaphore(0)
            self.barrier: str | None = None

        def take_turn(self) -> None:
            """Called by the one who launches: let this thread run to its next barrier."""
            self.mine.release()
            self.others.acquire()

        def run(self) -> None:
            self.mine.acquire()
            with np.errstate(all="ignore"):
                super().run()
            self.barrier = None
            self.others.release()

        def syncthreads(self) -> None:
            caller = sys._getframe(2)  # behind the `cuda.syncthreads` of the kernel
            self.barrier = f"{caller.f_code.co_filename.rpartition('/')[2]}:{caller.f_lineno}"
            self.others.release()
            self.mine.acquire()
            if self.abort:
                raise RuntimeError("another thread of the block failed")

    return Thread


def _context_class() -> Any:
    from numba.cuda.simulator import kernelapi

    class Context(kernelapi.FakeCUDAModule):
        """What `cuda` means to a kernel while it runs."""

        def __init__(self, grid: Any, block: Any, dynamic_bytes: int) -> None:
            self.gridDim, self.blockDim = kernelapi.Dim3(*grid), kernelapi.Dim3(*block)
            self._local, self._dynamic_bytes = Local(), dynamic_bytes
            self.log = races.Log()
            self._atomic = races.Atomic(kernelapi.FakeCUDAAtomic(), self.log)
            self._blocks: list[Shared] = []  # all of one launch, so that no address is used twice

        def start_block(self, grid_point: tuple[int, ...]) -> None:
            """Give the block memory of its own."""
            self._shared = Shared(self._dynamic_bytes, self.watched)
            self._blocks.append(self._shared)
            self.log.turn(grid_point, 0, 0)

        def watched(self, array: np.ndarray) -> Any:
            """The array, or where threads meet one that notes every access."""
            return array if THREADS == 1 else races.Watched(array, self.log)

    return Context


class Local:
    """Memory of one thread."""

    def array(self, shape: Any, dtype: Any, alignment: int = 16) -> np.ndarray:
        """`cuda.local.array`."""
        return _unwritten(shape, dtype, alignment)


class Shared:
    """Shared memory of one block. An array is known by the line that asks for it, as in Numba's simulator."""

    def __init__(self, dynamic_bytes: int, watched: Any) -> None:
        self._dynamic = np.full(dynamic_bytes, 255, np.uint8)
        self._watched = watched
        self._arrays: dict[Any, np.ndarray] = {}

    def array(self, shape: Any, dtype: Any, alignment: int = 16) -> Any:
        """`cuda.shared.array`; of shape 0, all dynamic shared memory."""
        if shape == 0:
            return self._watched(self._dynamic.view(_dtype(dtype)))
        caller = sys._getframe(1)
        line = caller.f_code, caller.f_lineno
        if line not in self._arrays:
            self._arrays[line] = _unwritten(shape, dtype, alignment)
        return self._watched(self._arrays[line])


def _unwritten(shape: Any, dtype: Any, alignment: int = 16) -> np.ndarray:
    """NaN, or the largest whole number, at a multiple of `alignment` bytes."""
    dtype = _dtype(dtype)
    unknown, size = np.iinfo(dtype).max if dtype.kind in "iu" else np.nan, math.prod(np.atleast_1d(shape))
    room = np.full(size + alignment // dtype.itemsize, unknown, dtype)
    first = -room.ctypes.data % alignment // dtype.itemsize
    return room[first : first + size].reshape(shape)


def _dtype(dtype: Any) -> np.dtype:
    return np.dtype(getattr(dtype, "name", dtype))  # Numba's types have a name


def check_alignment(array: Any, index: Any, size: int) -> None:
    """Raises AssertionError if array[index] does not lie at a multiple of `size` bytes, as the GPU would."""
    assert index >= 0, f"index {index}"
    place = array.__array_interface__["data"][0] + array.itemsize * int(index)
    assert place % size == 0, f"element {index} lies {place % size} bytes past a multiple of {size}"


# Copies in the background: for each thread its groups, the last one still open. A copy is (target, its index,
# source, its index, elements to copy, elements to fill with zeros).


def _groups() -> list[list[tuple]]:
    thread: Any = threading.current_thread()
    try:
        return thread.copies
    except AttributeError:
        thread.copies = [[]]
        return thread.copies


def begin_copy(target: tuple, source: tuple, size: int, of: int) -> None:
    """Note a copy of `of` bytes, all but the first `size` of them zeros. target, source: (array, index)."""
    array, first = target
    count, places = size // array.itemsize, of // array.itemsize
    if THREADS > 1:
        for i in range(places):  # it may arrive from now on, and again when it has been waited for
            races.note_write(array, first + i)
    _groups()[-1].append((array, first, *source, count, places))


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


def meet() -> None:
    """Wait for the other threads of the block."""
    thread: Any = threading.current_thread()
    thread.syncthreads()


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
