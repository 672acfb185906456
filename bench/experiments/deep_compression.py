"""Deep Compression (Han et al. 2016) of LeNet-300-100 and LeNet-5 on MNIST, counted in files.

A trained network is pruned more and more while it learns from the answers of the network that it was; then
the weights of each layer share a few values, which are trained on; then it is written, Huffman-coded where
that is shorter. Bytes are those of the file, with header, tables and checksums, and are compared with four
bytes per parameter. Errors are those of the network that is read back from the file.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bench.experiments import lenet
from bench.experiments.deployed import count_errors, deployed
from bench.experiments.record import Record, across
from bench.experiments.rows import Options, Row, run_rows
from bench.record import markdown
from minicnn.compress.recipe import Recipe, Share

TITLE = "MNIST: Deep Compression, as files"

_PUBLISHED = {
    "lenet-300-100": "1.64",
    "lenet-300-100 compressed": "40x, 1.58",
    "lenet-5": "0.80",
    "lenet-5 compressed": "39x, 0.74",
}


class _Plan(NamedTuple):
    """How one network is compressed: of its weights `rate` go, the others share `clusters` values a layer.

    lr_factor: of the learning rate, for shared values.
    """

    rate: float
    clusters: int | dict[str, int]
    epochs: int
    batch_size: int
    lr: float
    lr_factor: float
    warmup: float


_LENET_300 = {"fc1": 16, "fc2": 16, "fc3": 32}  # the last layer has few weights, and all of them matter
_PLANS = {
    "lenet-300-100": {
        "compressed": _Plan(0.90, _LENET_300, 20, 256, 0.05, 0.05, 1),
        "compressed further": _Plan(0.94, _LENET_300, 20, 256, 0.05, 0.05, 1),
    },
    "lenet-5": {
        "compressed": _Plan(0.92, 12, 3, 128, 0.01, 0.01, 0.2),
        "compressed further": _Plan(0.97, 12, 6, 128, 0.01, 0.05, 0.2),
    },
}


def rows(options: Options) -> list[Row]:
    """Each network dense, and compressed moderately and further."""
    dense = {row.name: row for row in lenet.rows(options) if row.base is None}
    lines = []
    for model, plans in _PLANS.items():
        lines.append(dense[model])
        for name, plan in plans.items():
            lines.append(Row(f"{model} {name}", _recipe(options, model, plan), base=model, teacher=model))
    return lines


def _recipe(options: Options, model: str, plan: _Plan) -> Recipe:
    """Pruned in the first half of the training, shared for its last quarter."""
    epochs = options.epochs or (3 if options.quick else plan.epochs)
    share = Share(clusters=plan.clusters, biases=32, start=epochs * 3 // 4, lr_factor=plan.lr_factor)
    end = max(epochs // 2, 1)
    return lenet.taught(
        model, options, plan.rate, end, epochs, plan.batch_size, plan.lr, warmup=plan.warmup, more=(share,)
    )


def run(record: Record, options: Options) -> str:
    """Run what is missing, and deploy it; gives the table."""
    lines = rows(options)
    run_rows(lines, record, options)
    known = {row.name: row for row in lines}
    for row in lines:
        for seed in range(options.seeds):
            numbers = record.get(row.name, seed)
            if numbers is not None and "file" not in numbers:
                record.add(
                    row.name,
                    seed,
                    numbers | {"file": count_errors(deployed(row, seed, known, record, options))},
                )
    return _table(lines, record)


def _table(lines: list[Row], record: Record) -> str:
    """Bytes and errors of the files, means and standard deviations over the seeds."""

    def error(numbers: dict[str, Any]) -> float:
        return 100 * numbers["file"]["errors"] / numbers["file"]["images"]

    files = {
        name: {seed: numbers for seed, numbers in seeds.items() if "file" in numbers}
        for name, seeds in record.rows.items()
    }
    shown = []
    for row in lines:
        seeds = files.get(row.name)
        if not seeds:
            continue
        mean, deviation = across(seeds, error)
        gap = ""
        if row.base and files.get(row.base):
            gap = f"{mean - across(files[row.base], error)[0]:+.2f}"
        left, _ = across(seeds, lambda numbers: numbers["total"]["nonzeros"])
        size, _ = across(seeds, lambda numbers: numbers["file"]["bytes"])
        whole = 4 * next(iter(record.rows[row.base or row.name].values()))["total"]["parameters"]
        seconds, _ = across(seeds, lambda numbers: numbers["seconds"])
        shown.append(
            [row.name, str(len(seeds)), _PUBLISHED.get(row.name, ""), f"{left:,.0f}", f"{size:,.0f}",
             f"{whole / size:.1f}", f"{mean:.2f} ± {deviation:.2f}", gap, f"{seconds:.0f}"]
        )  # fmt: skip
    header = ["", "seeds", "published", "not zero", "bytes", "smaller", "error, %", "points", "seconds"]
    return markdown(header, shown) + (
        "\n\nPublished: Han et al. 2016, table 1, times smaller and error. Bytes: of the whole file, header "
        "and tables included. Smaller: than four bytes per parameter of the dense network. Points: to it."
    )
