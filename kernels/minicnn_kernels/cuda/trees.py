"""What the threads of a block find together: each lays its value open in shared memory, and halves meet.

In every round the threads of the lower half take in what lies in the upper half, until one place is left. Who
writes is below the middle and reads above it, where nobody writes, and a barrier lies between two rounds. The
order is always the same, and so are the bits of a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minicnn_kernels.cuda import simulator
from minicnn_kernels.cuda.driver import SIMULATED, device_function
from minicnn_kernels.cuda.instructions import barrier

__all__ = ["THREADS", "block_sum", "folded", "folded_pairs"]

THREADS = simulator.THREADS if SIMULATED else 256  # of a block; a power of two


def folded(combine: Callable) -> Any:
    """fold(shared, thread): what `combine` makes of the values that THREADS threads have written to their
    places in shared memory. All of them get it, and may write there again. combine: a device function of two
    values."""

    @device_function
    def fold(shared, thread):
        barrier()
        width = THREADS // 2
        while width > 0:
            if thread < width:
                shared[thread] = combine(shared[thread], shared[thread + width])
            barrier()
            width //= 2
        result = shared[0]
        barrier()
        return result

    return fold


def folded_pairs(combine: Callable) -> Any:
    """fold(first, second, thread): as `folded`, for values of two parts; combine(a, b, c, d) gives two."""

    @device_function
    def fold(first, second, thread):
        barrier()
        width = THREADS // 2
        while width > 0:
            if thread < width:
                first[thread], second[thread] = combine(
                    first[thread], second[thread], first[thread + width], second[thread + width]
                )
            barrier()
            width //= 2
        result = first[0], second[0]
        barrier()
        return result

    return fold


block_sum = folded(device_function(lambda a, b: a + b))
