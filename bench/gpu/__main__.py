"""One part in this process: `python -m bench.gpu NAME [--simulate]`, a line of JSON for each finding."""

from __future__ import annotations

import json
import sys

from bench.gpu.parts import PARTS


def main(name: str, *options: str) -> None:
    """Print what the part finds. Where the part itself prints, that goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for entry in PARTS[name]("--simulate" in options):
        print(json.dumps(entry), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
