"""`minicnn compress --recipe FILE`: a compressed model, its file and its report."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import minicnn
import minicnn_kernels as kernels
from minicnn.cli.folder import results_folder
from minicnn.compress.recipe import load_recipe
from minicnn.compress.report.markdown import markdown_table
from minicnn.compress.report.tables import tables
from minicnn.compress.run import run_recipe
from minicnn.training.errors import TrainingInterrupted


def run(options: argparse.Namespace) -> int:
    """Carry out the recipe. Gives the exit status."""
    if options.quiet:
        os.environ["MINICNN_QUIET"] = "1"  # read by the kernels' compiler
    if options.threads is not None:
        minicnn.set_num_threads(options.threads)
    kernels.require(options.device)
    recipe = load_recipe(options.recipe)
    changes = {
        key: getattr(options, key) for key in ("data", "seed", "limit") if getattr(options, key) is not None
    }
    recipe = replace(recipe, **changes)
    compare = dict(_point(path) for path in options.compare)
    folder = results_folder(f"{recipe.name}-{Path(recipe.data).name}", options)
    if not options.quiet:
        for line in recipe.timeline():
            print(line, file=sys.stderr)
    try:
        report = run_recipe(
            recipe,
            folder,
            checkpoint=options.checkpoint,
            resume=options.resume,
            checkpoint_every=options.checkpoint_every,
            progress=False if options.quiet else None,
            device=options.device,
            compare=compare,
        )
    except TrainingInterrupted as error:
        raise TrainingInterrupted(
            f"{error}: minicnn compress --recipe {options.recipe} --resume --output {folder}"
        ) from None
    if not options.quiet:
        for table in list(tables(report))[:2]:
            print(markdown_table(table.header, table.rows), table.note, sep="\n\n", end="\n\n")
        print(f"in {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    return 0


def _point(folder: str) -> tuple[str, dict[str, Any]]:
    """Name, accuracy and totals of an earlier compression. Raises ValueError if the folder holds none."""
    path = Path(folder) / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return Path(folder).name, {"accuracy": report["after"]["accuracy"], **report["after"]["total"]}
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"--compare {folder}: expected a folder with the report.json of a compression"
        ) from error
