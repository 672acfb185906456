"""How long a model takes on this machine: medians and quartiles of many single calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

_FEWEST = 11  # calls, however long one takes


def latency(run: Callable[[Any], Any], images: np.ndarray, *, seconds: float = 1.0) -> dict[str, Any]:
    """Milliseconds of run(images): {"batch", "median_ms", "low_ms", "high_ms" (quartiles), "calls"}.

    Calls for a fifth of `seconds` go before and are not counted: kernels are compiled, buffers filled,
    threads settle. images: (N, ...).
    """
    _calls(run, images, seconds / 5, 3)
    times = _calls(run, images, seconds, _FEWEST)
    low, median, high = (round(float(ms), 4) for ms in np.percentile(times, (25, 50, 75)))
    return {"batch": len(images), "median_ms": median, "low_ms": low, "high_ms": high, "calls": len(times)}


def _calls(run: Callable[[Any], Any], images: np.ndarray, seconds: float, fewest: int) -> list[float]:
    """The milliseconds of each of at least `fewest` calls, for `seconds`."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < fewest or time.perf_counter() < end:
        began = time.perf_counter()
        run(images)
        times.append(1e3 * (time.perf_counter() - began))
    return times
