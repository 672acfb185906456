"""`minicnn search --space FILE`: a recipe tried with many settings, and the table of what came out."""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from minicnn.compress.recipe import changed
from minicnn.compress.report.choose import pareto
from minicnn.compress.run import run_recipe
from minicnn.compress.search import grid, random, search
from minicnn.compress.trials import Table, Trial

_HELD_OUT = 1 / 12  # 5,000 images of Fashion-MNIST


def run(options: argparse.Namespace) -> int:
    """Search as the file says. Gives the exit status."""
    values, space = _read(options.space)
    if options.data:
        values["data"] = options.data
    seeds = range(values.get("seed", 0), values.get("seed", 0) + options.seeds)
    settings = grid(space) if options.n is None else random(space, options.n, seeds[0])
    for setting in settings:  # what is wrong with one is said before the first is trained
        changed(values, setting, f"space {options.space}")
    total, done = len(settings) * len(seeds), [0]

    def tell(trial: Trial) -> None:
        done[0] += 1
        if not options.quiet:
            told = trial.error or f"accuracy {trial.results['accuracy']:.2%}"
            words = ", ".join(f"{name} = {value}" for name, value in trial.setting.items())
            print(f"{done[0]}/{total}  {words}: {told}", file=sys.stderr, flush=True)

    table = search(functools.partial(_train, values), settings, jobs=options.jobs, seeds=seeds, report=tell)
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "search.json").write_text(table.to_json() + "\n", encoding="utf-8")
    text = f"{table.sort('accuracy').to_markdown()}\n\n{_unbeaten(table)}\n"
    (folder / "search.md").write_text(text, encoding="utf-8")
    if not options.quiet:
        print(f"{text}\nin {folder}: search.md, search.json")
    return 0


def _read(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe of a space file, and its [space]. Raises ValueError if there is none or no TOML."""
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"space {path}: no valid TOML ({error})") from error
    space = values.pop("space", None)
    if not isinstance(space, dict) or not space:
        raise ValueError(f'space {path}: expected a table [space] with lines such as "lr" = [0.01, 0.1]')
    return values, space


def _train(values: dict[str, Any], *, seed: int, **setting: Any) -> dict[str, float]:
    """Accuracy on held-out images, so that nothing is chosen by the test images, and the size."""
    recipe = changed(values, setting | {"seed": seed}, "space")
    if not recipe.validation_fraction:
        recipe = changed(values, setting | {"seed": seed, "validation_fraction": _HELD_OUT}, "space")
    with tempfile.TemporaryDirectory() as folder:
        report = run_recipe(recipe, folder, progress=False)
    held_out, total = report["held_out"], report["after"]["total"]
    return {key: held_out[key] for key in ("accuracy", "loss")} | {
        key: float(total[key]) for key in ("bytes", "nonzeros", "macs_nonzero")
    }


def _unbeaten(table: Table) -> str:
    rows = {
        ", ".join(f"{key} = {value}" for key, value in row["setting"].items()): row["mean"]
        for row in table.over_seeds()
        if row["trials"]
    }
    lines = [
        f"- {name}: {rows[name]['accuracy']:.2%}, {rows[name]['bytes']:,.0f} computed bytes"
        for name in pareto(rows)
    ]
    return "\n".join(["Not beaten in both accuracy and bytes, means over seeds:", "", *lines])
