"""Sums in two floats: what the reference adds up in double precision, without a double-precision instruction.

A pair (high, low) stands for high + low, of some 48 bits, where high is the float32 nearest to it. So a sum
rounded to float32 at its end is, but for one in millions, that of the reference to the bit (Dekker 1971;
Hida, Li and Bailey 2001). Products and sums here are rounded one by one: the compiler may not fuse them.
Infinities and NaN give NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import SIMULATED, Kernel, cuda, device_function, kernel
from minicnn_kernels.cuda.trees import THREADS, folded_pairs

__all__ = [
    "block_pair_sum", "divide", "halves", "pair_sums", "plus", "plus_pair", "product", "square_of", "times",
]  # fmt: skip

_ZERO = np.float32(0)


def _simulated_product(a: Any, b: Any) -> Any:
    return np.float32(a) * np.float32(b)


def _simulated_fused(a: Any, b: Any, c: Any) -> Any:
    return np.float32(np.float64(a) * np.float64(b) + np.float64(c))


if SIMULATED:
    product, _fused = _simulated_product, _simulated_fused
else:
    _device = getattr(cuda, "libdevice")  # noqa: B009  (numba-cuda has it, its ancestor in Numba not)
    # product: a * b, rounded by itself, whatever is added to it
    product, _fused = _device.fmul_rn, _device.fmaf


def halves(number: float) -> tuple[np.float32, np.float32]:
    """A number of the host as a pair."""
    high = np.float32(number)
    return high, np.float32(number - float(high))


@device_function
def _sum_of(a, b):
    """a + b and what rounding it lost (Knuth 1969)."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


@device_function
def _close(high, low):
    """The pair again, after low has grown: high is what is nearest to both."""
    total = high + low
    return total, low - (total - high)


@device_function
def plus(high, low, x):
    """The pair plus a float."""
    total, lost = _sum_of(high, x)
    return _close(total, lost + low)


@device_function
def plus_pair(high, low, other_high, other_low):
    """The sum of two pairs."""
    total, lost = _sum_of(high, other_high)
    rest, more = _sum_of(low, other_low)
    total, lost = _close(total, lost + rest)
    return _close(total, lost + more)


@device_function
def times(high, low, other_high, other_low):
    """The product of two pairs."""
    total = product(high, other_high)
    lost = _fused(high, other_high, -total)
    return _close(total, lost + (product(high, other_low) + product(low, other_high)))


@device_function
def square_of(x):
    """x * x, exactly."""
    square = product(x, x)
    return square, _fused(x, x, -square)


@device_function
def divide(high, low, other_high, other_low):
    """The quotient of two pairs, by long division in two digits and a last correction."""
    first = high / other_high
    down, lost = times(other_high, other_low, first, _ZERO)
    rest, rest_low = plus_pair(high, low, -down, -lost)
    second = rest / other_high
    down, lost = times(other_high, other_low, second, _ZERO)
    rest, rest_low = plus_pair(rest, rest_low, -down, -lost)
    first, second = _close(first, second)
    return plus(first, second, rest / other_high)


# block_pair_sum(high, low, thread): the sum of the pairs that the threads of a block have laid open.
block_pair_sum = folded_pairs(plus_pair)


def pair_sums(name: str, term: Any) -> Kernel:
    """A kernel that adds up term(x) over what shares a result, one block of threads for each.

    x is seen as (before, kept, after), as in `reduction.py`; high and low (kept,) are the sums. Threads add
    every THREADS-th element, then meet in shared memory, always in the same order.
    """
    term = device_function(term)

    @kernel("float32[::1], float32[::1], float32[::1], int64, int64, int64", name=name, registers=48)
    def run(high, low, x, before, kept, after):
        shared_high = cuda.shared.array(THREADS, np.float32)
        shared_low = cuda.shared.array(THREADS, np.float32)
        thread, target = cuda.threadIdx.x, cuda.blockIdx.x
        total, lost = _ZERO, _ZERO
        for i in range(thread, before * after, THREADS):
            total, lost = plus(total, lost, term(x[(i // after * kept + target) * after + i % after]))
        shared_high[thread], shared_low[thread] = total, lost
        total, lost = block_pair_sum(shared_high, shared_low, thread)
        if thread == 0:
            high[target], low[target] = total, lost

    return run
