"""`python -m bench`: see the docstring of the package."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import bench
from bench import record
from bench.commands import COMMANDS, PARTS, Options
from bench.nets import NETS


def names(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """A parser of comma-separated names."""

    def parse(text: str) -> list[str]:
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"unknown name {name!r}: expected some of {', '.join(known)}"
                )
        return text.split(",")

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
    engines = tuple(dict.fromkeys(name for command in COMMANDS.values() for name in command.engines))
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=bench.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=tuple(COMMANDS), default="steps")
    parser.add_argument("--engines", type=names(engines), help="ours first; default: the command's own")
    parser.add_argument("--nets", type=names(tuple(NETS)), default=",".join(NETS))
    parser.add_argument("--threads", type=thread_counts, default=[1, cores] if cores > 1 else [1])
    parser.add_argument("--batch", type=positive, default=64)
    parser.add_argument("--rounds", type=positive, help="bursts per engine; default: the command's own")
    parser.add_argument("--quick", action="store_true", help="a selection, or fewer and shorter bursts")
    parser.add_argument("--parts", type=names(PARTS), help="of the goals, to measure anew; default: all")
    parser.add_argument("--simulate", action="store_true", help="of gpu: try its parts without one")
    parser.add_argument("--output", type=Path, help="the JSON file; default bench/results/NAME-TIME.json")
    arguments = vars(parser.parse_args())
    what, output = arguments.pop("what"), arguments.pop("output")
    options = Options(**arguments)
    command = COMMANDS[what]
    for name in options.engines or ():
        if name not in command.engines:
            parser.error(f"unknown name {name!r} for {what}: expected some of {', '.join(command.engines)}")

    facts = record.machine()
    print(f"{record.describe(facts)}\n")
    results = command.measure(options)
    print(command.table(results))
    if what in ("goals", "gpu") and output is None and not (options.quick or options.simulate):
        output = record.RESULTS / f"{what}.json"
    path = record.write(what, facts, results, output, quick=options.quick)
    print(f"\nwritten to {path}")
    if what in ("goals", "gpu"):
        note = "A quick run: a selection, and rough figures.\n\n" if options.quick else ""
        text = f"{note}{command.table(results)}\n"
        path.with_suffix(".md").write_text(text, encoding="utf-8")
    if what == "ladder":
        from bench import ladder

        try:
            ladder.plot(results, path.with_suffix(".png"))
        except ImportError:
            print("no picture: Matplotlib is not installed")
        else:
            print(f"picture in {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
