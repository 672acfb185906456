"""The roofline of this machine, measured on the spot: peak float32 arithmetic and memory bandwidth.

attainable = min(peak, intensity x bandwidth), with intensity in operations per byte of memory traffic
(Williams, Waterman and Patterson 2009). The kernels are in `minicnn_kernels/ladder/limits.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import minicnn_kernels as kernels
from bench.record import markdown
from minicnn_kernels import memory

_FLOATS = 1 << 25  # of each array of the triad: 128 MiB, more than most caches


@dataclass(frozen=True)
class Roofline:
    """What `threads` threads can do: GFLOP/s from registers, GB/s from memory."""

    threads: int
    peak_gflops: float
    bandwidth_gbs: float

    def attainable(self, intensity: float) -> float:
        """GFLOP/s that a kernel with `intensity` operations per byte can reach at most."""
        return min(self.peak_gflops, intensity * self.bandwidth_gbs)


def measure(threads: Sequence[int], *, rounds: int) -> list[Roofline]:
    """A roofline for each number of threads. The best of `rounds`, for these are upper bounds."""
    from minicnn_kernels.ladder import limits

    totals = np.empty(limits.TASKS, np.float32)
    a, b, c = (memory.zeros(_FLOATS) for _ in range(3))
    factor, addend = np.float32(0.5), np.float32(1)  # sums go to 2: neither overflow nor denormals
    steps = 20_000  # a few milliseconds: some call will pass without interruption even on a busy machine
    found = []
    for count in threads:
        kernels.set_threads(count)
        arithmetic = _best(lambda: limits.multiply_add(steps, factor, addend, totals), 5 * rounds)
        streaming = _best(lambda: limits.triad(a, b, c, factor), rounds)
        # STREAM's convention: 12 bytes per element, though most caches read a line before they write it.
        peak = limits.multiply_add_flops(steps) / arithmetic / 1e9
        found.append(Roofline(count, round(peak, 1), round(3 * a.nbytes / streaming / 1e9, 1)))
    return found


def _best(call: Callable[[], Any], rounds: int) -> float:
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def as_records(rooflines: Sequence[Roofline]) -> list[dict[str, Any]]:
    """For the JSON."""
    return [asdict(roofline) for roofline in rooflines]


def table(rooflines: Sequence[Roofline]) -> str:
    """Markdown: one row per number of threads."""
    rows = [
        [
            str(r.threads),
            f"{r.peak_gflops:.0f}",
            f"{r.bandwidth_gbs:.1f}",
            f"{r.peak_gflops / r.bandwidth_gbs:.0f}",
        ]
        for r in rooflines
    ]
    return markdown(["threads", "peak GFLOP/s", "bandwidth GB/s", "operations per byte at the ridge"], rows)
