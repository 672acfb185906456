"""Every model of the experiment `fashion` as a file: accuracy against bytes and latency, all measured.

Missing models are trained first. Speeds are those of one seed each on this machine: let nothing else run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import minicnn
from bench.experiments import fashion
from bench.experiments.deployed import deployed
from bench.experiments.record import Record, across
from bench.experiments.rows import Options, digest, drawn
from minicnn.compress.report.markdown import markdown_table
from minicnn.deploy.report import measure_artefact, point
from minicnn.deploy.report.tables import comparison
from minicnn.viz import pareto

TITLE = "Fashion-MNIST: W2 compressed, as files"
_LIMIT_OF_PLOT = 0.02  # below the best accuracy; what lies lower would press all others together


def run(record: Record, options: Options) -> str:
    """Deploy and measure what is missing; gives the table."""
    sources = replace(options, work=_of_fashion(options.work))
    trained = Record(_of_fashion(record.path), options.settings())
    lines = fashion.rows(options)
    known = {row.name: row for row in lines}
    for seed in range(options.seeds):
        for row in lines:
            if options.rows is not None and row.name not in options.rows:
                continue
            if (record.get(row.name, seed) or {}).get("recipe") == digest(row):
                continue
            file = deployed(row, seed, known, trained, sources)
            numbers = measure_artefact(file.path, file.loader, seconds=0.1 if options.quick else 0.5)
            record.add(row.name, seed, _kept(numbers) | {"recipe": digest(row)})
            print(f"seed {seed}: {row.name}: {numbers['bytes']:,} bytes", flush=True)
    points = {name: _mean(seeds) for name, seeds in record.rows.items()}
    drawn(record.path.with_suffix(".png"), (13, 5), lambda figure: _draw(figure, points))
    table = comparison(points, "")
    return (
        f"{markdown_table(table.header, table.rows)}\n\n{table.note} A batch has 64 images; "
        f"{minicnn.get_num_threads()} threads. Means over seeds."
    )


def _of_fashion(path: Path) -> Path:
    """The folder or file of the experiment `fashion` that belongs to this one's."""
    return path.with_name(path.name.replace("pareto", "fashion"))


def _kept(numbers: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a file for the record, which names the machine itself."""
    return {key: value for key, value in numbers.items() if key not in ("machine", "per_class")}


def _mean(seeds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    points = {seed: point(numbers) for seed, numbers in seeds.items()}
    first = next(iter(points.values()))
    means = {key: across(points, lambda numbers, key=key: numbers[key])[0] for key in first}
    return means | {key: round(means[key]) for key in ("bytes", "macs")}


def _draw(figure: Any, points: dict[str, dict[str, Any]]) -> None:
    """Accuracy against bytes, and against the latency of one image."""
    best = max(numbers["accuracy"] for numbers in points.values())
    near = {name: p for name, p in points.items() if p["accuracy"] >= best - _LIMIT_OF_PLOT}
    left, right = figure.subfigures(1, 2)
    pareto(near, label="bytes of the file", figure=left)
    pareto(near, "latency_ms", label="ms for one image", figure=right)
