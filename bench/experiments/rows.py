"""Experiments whose rows are recipes: each is run, or begun from the model of another row, and recorded."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.experiments.record import Record, across
from bench.record import markdown
from minicnn.compress.recipe import Distill, Recipe
from minicnn.compress.run import run_recipe
from minicnn.viz import pareto, style


@dataclass(frozen=True)
class Row:
    """One line of a table. base: the row whose model it begins with. teacher: the row it learns from."""

    name: str
    recipe: Recipe
    base: str | None = None
    teacher: str | None = None
    goal: str = ""


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line. epochs, rows: None for the experiment's own, and for all."""

    seeds: int
    work: Path
    data: str | None = None
    epochs: int | None = None
    rows: tuple[str, ...] | None = None
    held_out: float = 0.0
    quick: bool = False

    def settings(self) -> dict[str, Any]:
        """What the numbers of a record depend on."""
        return {"epochs": self.epochs, "held_out": self.held_out, "quick": self.quick}


def run_rows(rows: list[Row], record: Record, options: Options) -> None:
    """Run what is missing in the record, seed by seed."""
    known = {row.name: row for row in rows}
    chosen = [row for row in rows if options.rows is None or row.name in options.rows]
    for seed in range(options.seeds):
        for row in chosen:
            if not _is_known(row, seed, record):
                _run(row, seed, known, record, options)


def _is_known(row: Row, seed: int, record: Record) -> bool:
    """Whether the record holds the row, made by the recipe that it has now."""
    return (record.get(row.name, seed) or {}).get("recipe") == digest(row)


def digest(row: Row) -> str:
    """A short name of the row's recipe; where its data lie is not a part of it."""
    plain = row.recipe.to_dict() | {"data": "", "base": row.base or "", "teacher": row.teacher or ""}
    return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=4).hexdigest()


def _run(row: Row, seed: int, known: dict[str, Row], record: Record, options: Options) -> None:
    recipe = replace(row.recipe, seed=seed, name=row.name, validation_fraction=options.held_out)
    if options.quick:
        recipe = replace(recipe, limit=400)
    if row.teacher:
        teacher = str(model_of(known[row.teacher], seed, known, record, options))
        steps = [
            replace(step, teacher=teacher) if isinstance(step, Distill) else step for step in recipe.steps
        ]
        recipe = replace(recipe, steps=tuple(steps))
    base = model_of(known[row.base], seed, known, record, options) if row.base else None
    print(f"seed {seed}: {row.name}", flush=True)
    began = time.perf_counter()
    report = run_recipe(recipe, folder_of(row, seed, options), checkpoint=base, resume=True, progress=False)
    tested = report["held_out"] if options.held_out else report["after"]
    numbers = {key: tested[key] for key in ("accuracy", "loss", "images")}
    numbers |= {"total": report["after"]["total"], "seconds": round(time.perf_counter() - began, 1)}
    print(f"        {numbers['accuracy']:.2%}, {numbers['seconds']:.0f} s", flush=True)
    if not _is_known(row, seed, record):
        record.add(row.name, seed, numbers | {"recipe": digest(row)})


def model_of(row: Row, seed: int, known: dict[str, Row], record: Record, options: Options) -> Path:
    """The model file of a row, which is run (again, if its file is gone)."""
    path = folder_of(row, seed, options) / "model.npz"
    if not path.exists():
        _run(row, seed, known, record, options)
    return path


def folder_of(row: Row, seed: int, options: Options) -> Path:
    """Where the model and the reports of a row lie."""
    return options.work / f"{row.name.replace(' ', '-').replace('%', '')}-{digest(row)}" / f"seed-{seed}"


def table(rows: list[Row], record: Record) -> str:
    """Accuracy (mean and standard deviation over seeds), and accuracy and size against the base."""
    lines = []
    for row in rows:
        seeds = record.rows.get(row.name)
        if not seeds:
            continue
        mean, deviation = across(seeds, lambda numbers: 100 * numbers["accuracy"])
        other = row.base or row.teacher
        gap = ""
        if other and record.rows.get(other):
            reference, _ = across(record.rows[other], lambda numbers: 100 * numbers["accuracy"])
            gap = f"{mean - reference:+.2f}"
        whole, _ = across(record.rows.get(other or "", seeds), lambda numbers: numbers["total"]["bytes"])
        size, _ = across(seeds, lambda numbers: numbers["total"]["bytes"])
        left, _ = across(seeds, lambda numbers: numbers["total"]["nonzeros"])
        macs, _ = across(seeds, lambda numbers: numbers["total"]["macs_nonzero"])
        seconds, _ = across(seeds, lambda numbers: numbers["seconds"])
        lines.append(
            [row.name, str(len(seeds)), f"{mean:.2f} ± {deviation:.2f}", gap, row.goal, f"{left:,.0f}",
             f"{macs / 1e6:.2f}", f"{size:,.0f}", f"{whole / size:.1f}", f"{seconds:.0f}"]
        )  # fmt: skip
    header = [
        "",
        "seeds",
        "accuracy, %",
        "points",
        "goal",
        "not zero",
        "MMACs",
        "bytes",
        "smaller",
        "seconds",
    ]
    return markdown(header, lines) + (
        "\n\nPoints, smaller: against the model that the row began with, or learned from. MMACs: million "
        "multiply-accumulates per image that do not multiply by a zero weight. Bytes are computed, not of a "
        "file: the cheapest plain coding of each layer, tables included."
    )


def save_picture(record: Record, path: Path) -> None:
    """Accuracy against computed bytes, means over seeds."""
    points = {
        name: {
            "accuracy": across(seeds, lambda numbers: numbers["accuracy"])[0],
            "bytes": across(seeds, lambda numbers: numbers["total"]["bytes"])[0],
        }
        for name, seeds in record.rows.items()
    }
    drawn(path, (9, 5), lambda figure: pareto(points, label="computed bytes", figure=figure))


def drawn(path: Path, size: tuple[float, float], draw: Callable[[Any], None]) -> None:
    """Write what draw(figure) draws as PNG; without matplotlib nothing but a word about it."""
    try:
        with style.sheet(width=size[0], height=size[1]) as figure:
            draw(figure)
            figure.savefig(path, dpi=120, facecolor="white")
    except ImportError as error:
        print(f"no picture: {error}")
