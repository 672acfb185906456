"""`minicnn pick FILES --max-bytes N --max-latency MS --min-accuracy X`: the file to take, within limits."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from minicnn.compress.report.choose import pick
from minicnn.compress.report.markdown import markdown_table
from minicnn.deploy.report.stored import stored_point
from minicnn.deploy.report.tables import comparison, pareto_of_files

_LIMITS = {"max_bytes": "bytes", "max_latency": "latency_ms", "min_accuracy": "accuracy"}


def run(options: argparse.Namespace) -> int:
    """Compare the files, and name the best one within the limits. Gives the exit status."""
    known, silent = {}, []
    for path in _files(options.files):
        numbers = stored_point(path)
        if numbers is None:
            silent.append(str(path))
        else:
            known[str(path)] = numbers
    if silent:
        print(f"minicnn: warning: without a report, left out: {', '.join(silent)}", file=sys.stderr)
    if not known:
        raise ValueError(
            f"pick: none of {', '.join(options.files)} is a .mcnn file with a report in it; `minicnn deploy` "
            f"measures and writes one"
        )
    limits = {
        key: getattr(options, name) for name, key in _LIMITS.items() if getattr(options, name) is not None
    }
    if not options.json:
        table = comparison(known, "")
        print(markdown_table(table.header, table.rows), table.note, sep="\n\n", end="\n\n")
    chosen = pick(known, options.best, **limits)
    if options.json:
        print(json.dumps({"picked": chosen, "limits": limits, "files": _marked(known)}))
    else:
        print(chosen)
    return 0


def _files(given: Iterable[str]) -> Iterator[Path]:
    """The files that are named, and all .mcnn files in the folders."""
    for name in given:
        path = Path(name)
        yield from sorted(path.rglob("*.mcnn")) if path.is_dir() else [path]


def _marked(known: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    front = pareto_of_files(known)
    return {name: numbers | {"unbeaten": name in front} for name, numbers in known.items()}
