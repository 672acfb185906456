"""Training steps of whole nets: engines in processes of their own, bursts in turn.

The package's docstring says how times are taken; `engines.py` holds what is run, `worker.py` the processes,
`bursts.py` the order and the ratios.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from operator import methodcaller
from typing import Any

from bench.bursts import alternate, summarise
from bench.record import markdown
from bench.worker import Worker, ask_all, start


def measure(
    nets: Sequence[str],
    engines: Sequence[str],
    *,
    threads: Sequence[int],
    batch: int,
    rounds: int,
    burst_seconds: float,
) -> list[dict[str, Any]]:
    """One entry per net and number of threads: times of every engine and ratios to the first."""
    results = []
    for net in nets:
        for count in threads:
            options: dict[str, Any] = {"net": net, "batch": batch, "threads": count}
            found = compare(
                {name: Worker("bench.engines:make", name=name, **options) for name in engines},
                ["step"],
                f"{net}, {count} threads",
                rounds=rounds,
                burst_seconds=burst_seconds,
            )
            results += [{"net": net, "threads": count, "batch": batch, **entry} for entry in found]
    return results


def compare(
    workers: Mapping[str, Worker],
    modes: Sequence[str] | Mapping[str, Sequence[str]],
    what: str,
    *,
    rounds: int,
    burst_seconds: float,
) -> list[dict[str, Any]]:
    """One entry per mode; the processes end with it. Engines that cannot do a mode are missing from it.

    modes: if not every engine is asked for every mode, a table of mode to engines.
    """
    results: list[dict[str, Any]] = []
    with ExitStack() as stack:
        ready, missing = start(stack, workers)
        for mode in modes:
            print(f"{what}: {mode} ...", file=sys.stderr, flush=True)
            asked = modes[mode] if isinstance(modes, Mapping) else workers
            there = {name: worker for name, worker in ready.items() if name in asked}
            errors, unable = ask_all(there, methodcaller("prepare", mode))
            able = {name: there[name] for name in errors}
            watches = {name: worker.stopwatch(mode) for name, worker in able.items()}
            bursts = alternate(watches, rounds=rounds, burst_seconds=burst_seconds)
            entry = {"mode": mode, "missing": missing | unable, "engines": summarise(bursts)}
            if any(error is not None for error in errors.values()):
                entry["errors"] = errors
            if not results:  # they are the same for every mode
                entry["facts"] = {name: worker.facts() for name, worker in able.items()}
            results.append(entry)
            for worker in able.values():
                worker.forget(mode)
    return results


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: medians in ms, then how many times as long as the first engine the others take."""
    engines = list(dict.fromkeys(name for e in results for name in (*e["engines"], *e["missing"])))
    first, *others = engines
    header = ["net", "threads", *(f"{n} ms" for n in engines), *(f"{n} / {first}" for n in others)]
    rows = [
        [
            f"{entry['net']} {entry['mode']}",
            str(entry["threads"]),
            *(milliseconds(entry, name) for name in engines),
            *(ratio(entry, name) for name in others),
        ]
        for entry in results
    ]
    return "\n".join([markdown(header, rows), *reasons(results)])


def milliseconds(entry: dict[str, Any], name: str) -> str:
    """The median of an engine's times, or that there is none, for a table."""
    found = entry["engines"].get(name)
    if found is None:
        return "not installed" if entry["missing"].get(name, "").endswith("not installed") else "-"
    middle = found["milliseconds"][1]
    return f"{middle:.2f}" if middle >= 1 else f"{middle:.3f}"


def ratio(entry: dict[str, Any], name: str) -> str:
    """The median of an engine's ratios to the first, with quartiles, for a table."""
    found = entry["engines"].get(name)
    return spread(found["times_first_engine"]) if found else "-"


def spread(quartiles: Sequence[float]) -> str:
    """'2.10 (2.05 to 2.20)'."""
    low, middle, high = quartiles
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def reasons(results: Sequence[dict[str, Any]]) -> list[str]:
    """Lines under a table: why an engine is missing somewhere, each reason once."""
    found = {f"- {name}: {why}" for entry in results for name, why in entry["missing"].items()}
    return ["", *sorted(found)] if found else []
