"""Where the results of a command go."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path


def results_folder(name: str, options: argparse.Namespace) -> Path:
    """As --output says; or runs/NAME, or the next free runs/NAME-2, -3 ...

    What is resumed without --output is in the newest of them. No result is ever overwritten: raises
    ValueError if the folder holds one and --resume was not given.
    """
    if options.output is not None:
        folder = Path(options.output)
        if not options.resume and (folder / "checkpoint.npz").exists():
            raise ValueError(
                f"--output {folder}: holds a training already; go on with --resume, or name another folder"
            )
        return folder
    numbers = [
        int(match[1] or 1)
        for entry in Path("runs").glob(f"{name}*/*.npz")
        if (match := re.fullmatch(rf"{re.escape(name)}(?:-(\d+))?", entry.parent.name))
    ]
    newest = max(numbers, default=0)
    number = max(newest, 1) if options.resume else newest + 1
    folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
    if number > 1 and not options.quiet:
        print(f"output in {folder}", file=sys.stderr)
    return folder
