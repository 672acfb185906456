"""`python -m bench`: see the docstring of the package."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench
from bench import memory, record, startup, steps
from bench.engines import ENGINES
from bench.nets import NETS

ENGINES_BY_DEFAULT = "minicnn,minicnn-eager,torch,torch-channels-last"


def choices(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """A parser of comma-separated names."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"unknown name {name!r}: expected some of {', '.join(known)}"
                )
        return names

    return parse


def positive(text: str) -> int:
    """A parser of positive integers."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return number


def thread_counts(text: str) -> list[int]:
    """A parser of comma-separated numbers of threads that this machine has."""
    counts = [positive(part) for part in text.split(",")]
    if max(counts) > record.available_cores():
        raise argparse.ArgumentTypeError(f"this machine has {record.available_cores()} cores, got {text}")
    return counts


def main() -> None:
    """Parse, measure, print the table and write the record."""
    cores = record.available_cores()
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=bench.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=("steps", "startup", "memory", "ladder"), default="steps")
    parser.add_argument("--engines", type=choices(ENGINES), default=ENGINES_BY_DEFAULT)
    parser.add_argument("--nets", type=choices(tuple(NETS)), default=",".join(NETS))
    parser.add_argument("--threads", type=thread_counts, default=[1, cores] if cores > 1 else [1])
    parser.add_argument("--batch", type=positive, default=64)
    parser.add_argument("--rounds", type=positive, help="bursts per engine; default 12, with --quick 4")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter bursts: two minutes")
    parser.add_argument("--output", type=Path, help="the JSON file; default bench/results/NAME-TIME.json")
    options = parser.parse_args()

    facts = record.machine()
    print(f"{record.describe(facts)}\n")
    results: Any
    if options.what == "steps":
        results = steps.measure(
            options.nets,
            options.engines,
            threads=options.threads,
            batch=options.batch,
            rounds=options.rounds or (4 if options.quick else 12),
            burst_seconds=0.1 if options.quick else 0.3,
        )
        print(steps.table(results, options.engines))
    elif options.what == "startup":
        rounds = options.rounds or (3 if options.quick else 10)
        results = startup.measure(rounds=rounds, cold_rounds=1 if options.quick else 3)
        print(startup.table(results))
    elif options.what == "ladder":
        from bench import ladder  # loads the compiler and its threads, which the other commands keep out

        rounds = options.rounds or (4 if options.quick else 12)
        results = ladder.measure(threads=max(options.threads), rounds=rounds, quick=options.quick)
        print(ladder.table(results))
    else:
        results = []
        for net in options.nets:
            results += memory.measure(
                options.engines, net=net, batch=options.batch, threads=max(options.threads)
            )
        print(memory.table(results))
    path = record.write(options.what, facts, results, options.output)
    print(f"\nwritten to {path}")
    if options.what == "ladder":
        try:
            ladder.plot(results, path.with_suffix(".png"))
        except ImportError:
            print("no picture: Matplotlib is not installed")
        else:
            print(f"picture in {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
