"""The stopwatch's rules: bursts in turn, medians, ratios paired round by round.

What is timed is for `steps.py`, `forward.py`, `ops.py` and `growth.py` to say; the stopwatches themselves are
in the engines' processes (`worker.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import exp, log
from statistics import median
from typing import Any

import numpy as np

PAUSE = 0.04  # seconds between bursts, for the thread pool of the engine before to go to sleep
SHORTEST_BURST, LONGEST_BURST = 3, 50  # runs


Stopwatch = Callable[[int], list[float]]
"""Runs something so many times and says how many seconds each run took."""


def alternate(
    stopwatches: Mapping[str, Stopwatch], *, rounds: int, burst_seconds: float
) -> dict[str, list[list[float]]]:
    """Seconds of every run, by name and round; bursts go A B C A B C ...

    A burst is as many runs as fit into `burst_seconds`, but 3 at least and 50 at most.
    """
    counts = {}
    for name, run in stopwatches.items():
        fit = burst_seconds / median(run(2))
        counts[name] = int(min(max(fit, SHORTEST_BURST), LONGEST_BURST))
    bursts: dict[str, list[list[float]]] = {name: [] for name in stopwatches}
    for _ in range(rounds):
        for name, run in stopwatches.items():
            time.sleep(PAUSE)
            bursts[name].append(run(counts[name]))
    return bursts


def summarise(bursts: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, dict[str, Any]]:
    """Per engine: quartiles of the times, and of the per-round ratios of medians to the first engine."""
    base = next(iter(bursts.values()), [])
    summary = {}
    for name, rounds in bursts.items():
        ratios = [median(burst) / median(of) for burst, of in zip(rounds, base, strict=True)]
        summary[name] = {
            "milliseconds": quartiles([1e3 * seconds for burst in rounds for seconds in burst]),
            "times_first_engine": quartiles(ratios),
            "round_medians_ms": [round(1e3 * median(burst), 5) for burst in rounds],
        }
    return summary


def quartiles(values: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return [float(f"{value:.5g}") for value in np.percentile(values, (25, 50, 75))]


def paired_ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Quartiles of the ratios, round by round."""
    return quartiles([a / b for a, b in zip(numerators, denominators, strict=True)])


def fastest(engines: Mapping[str, dict[str, Any]], names: Iterable[str]) -> str | None:
    """The engine among `names` whose median is lowest; None if none of them is there."""
    there = [name for name in names if name in engines]
    return min(there, key=lambda name: engines[name]["times_first_engine"][1], default=None)


def geometric_mean(values: Sequence[float]) -> float:
    """The mean that suits ratios."""
    return exp(sum(map(log, values)) / len(values))
