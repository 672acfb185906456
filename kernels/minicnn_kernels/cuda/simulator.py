"""The simulator made quick: a block of one thread runs in the thread that launches it.

Numba's simulator starts a Python thread for each of CUDA's and polls them: a millisecond each, and many more
on a busy machine. Kernels whose threads do not wait for one another are as well tested by one thread a block;
those that do take MINICNN_SIMULATED_THREADS, 1 or a power of two, so that a few tests can let them meet.
"""

from __future__ import annotations

import os
import threading
from typing import Any

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
