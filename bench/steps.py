"""Training step and forward pass of whole nets: engines in processes of their own, bursts in turn.

The package's docstring says how times are taken; `engines.py` holds what is run, `worker.py` the processes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

import numpy as np

from bench.record import markdown
from bench.worker import Unavailable, Worker

MODES = ("step", "forward")
PAUSE = 0.04  # seconds between bursts, for the thread pool of the engine before to go to sleep
LONGEST_BURST = 16


def measure(
    nets: Sequence[str],
    engines: Sequence[str],
    *,
    threads: Sequence[int],
    batch: int,
    rounds: int,
    burst_seconds: float,
) -> list[dict[str, Any]]:
    """One entry per net, number of threads and mode: times of every engine and ratios to the first."""
    results = []
    for net in nets:
        for count in threads:
            with ExitStack() as stack:
                workers = {
                    name: stack.enter_context(Worker(name, net, batch=batch, threads=count))
                    for name in engines
                }
                facts, missing = _ready(workers)
                for mode in MODES:
                    print(f"{net} {mode}, {count} threads ...", file=sys.stderr, flush=True)
                    bursts = alternate(workers, mode, rounds=rounds, burst_seconds=burst_seconds)
                    entry = {"net": net, "mode": mode, "threads": count, "batch": batch, "missing": missing}
                    results.append(entry | {"engines": summarise(bursts), "facts": facts})
    return results


def _ready(workers: dict[str, Worker]) -> tuple[dict[str, Any], dict[str, str]]:
    """Facts of the engines that are there; the others leave `workers` for a table of reasons."""
    facts, missing = {}, {}
    for name, worker in list(workers.items()):
        try:
            facts[name] = worker.wait_until_ready()
        except Unavailable as error:
            missing[name] = str(error)
            del workers[name]
    return facts, missing


def alternate(
    workers: dict[str, Worker], mode: str, *, rounds: int, burst_seconds: float
) -> dict[str, list[list[float]]]:
    """Seconds of every run, engine by engine and round by round; bursts go A B C A B C ..."""
    slowest = max((median(worker.times(mode, 2)) for worker in workers.values()), default=1.0)
    count = int(min(max(burst_seconds / slowest, 3), LONGEST_BURST))
    bursts: dict[str, list[list[float]]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            time.sleep(PAUSE)
            bursts[name].append(worker.times(mode, count))
    return bursts


def summarise(bursts: dict[str, list[list[float]]]) -> dict[str, dict[str, Any]]:
    """Per engine: median and quartiles of the times, and of the per-round ratios to the first engine."""
    base = next(iter(bursts.values()), [])
    summary = {}
    for name, rounds in bursts.items():
        ratios = [median(burst) / median(of) for burst, of in zip(rounds, base, strict=True)]
        summary[name] = {
            "milliseconds": _quartiles([1e3 * seconds for burst in rounds for seconds in burst]),
            "times_first_engine": _quartiles(ratios),
            "round_medians_ms": [round(1e3 * median(burst), 4) for burst in rounds],
        }
    return summary


def _quartiles(values: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return [round(float(value), 4) for value in np.percentile(values, (25, 50, 75))]


def table(results: Sequence[dict[str, Any]], engines: Sequence[str]) -> str:
    """Markdown: medians in ms, then how many times as long as the first engine the others take."""
    first, *others = engines
    header = [
        "net",
        "threads",
        *(f"{name} ms" for name in engines),
        *(f"{name} / {first}" for name in others),
    ]
    rows = []
    for entry in results:
        row = [f"{entry['net']} {entry['mode']}", str(entry["threads"])]
        for name in engines:
            found = entry["engines"].get(name)
            row.append(f"{found['milliseconds'][1]:.2f}" if found else "not installed")
        for name in others:
            found = entry["engines"].get(name)
            if found and first in entry["engines"]:
                low, middle, high = found["times_first_engine"]
                row.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
            else:
                row.append("-")
        rows.append(row)
    return markdown(header, rows)
