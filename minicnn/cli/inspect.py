"""`minicnn inspect FILE.mcnn`: what is inside."""

from __future__ import annotations

import argparse
import json
from typing import Any

from minicnn.deploy.inspect import contents
from minicnn.deploy.stopwatch import words


def run(options: argparse.Namespace) -> int:
    """Print the contents of the file. Gives the exit status."""
    found = contents(options.file)
    if options.json:
        print(json.dumps(found))
        return 0
    rows = []
    for layer in found["layers"]:
        where, result = layer["layer"] or "-", "x".join(map(str, layer["result"]))
        rows.append([where, layer["op"], result, layer["runs"], "", "", "", ""])
        for array in layer["arrays"]:
            shape = "x".join(map(str, array["shape"])) or "1"
            line = [shape, array["stored"], f"{array['bits']:g}", f"{array['bytes']:,}"]
            if rows[-1][4]:
                rows.append(["", "", "", "", *line])
            else:
                rows[-1][4:] = line
    header = ["layer", "op", "result", "runs", "array", "stored", "bits", "bytes"]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    totals = found["totals"]
    print(
        f"\n{found['file']}: {found['bytes']:,} bytes, {totals['array_bytes']:,} of them for "
        f"{totals['elements']:,} numbers, {totals['header_bytes']:,} for the graph and what goes along"
    )
    for key, value in found["about"].items():
        if key == "stopwatch":
            print("stopwatch:", *(f"  {text}" for text in words(value)), sep="\n")
        else:
            print(f"{key}: {_short(value)}")
    return 0


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 300 else f"{text[:300]} ... (all of it with --json)"
