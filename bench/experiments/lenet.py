"""LeNet-300-100 and LeNet-5 on MNIST, pruned 12 times without loss (Han et al. 2015), and further.

Their errors: 1.64% dense and 1.59% pruned, 0.80% dense and 0.77% pruned; dynamic network surgery (Guo et al.
2016) reaches 56 times at 1.99% and 108 times at 0.91%. Ours are pruned more and more while they learn from
the answers of the network that they were.
"""

from __future__ import annotations

from typing import NamedTuple

from bench.experiments.record import Record
from bench.experiments.rows import Options, Row, run_rows, save_picture, table
from minicnn.compress.recipe import Distill, Prune, Recipe, Step

TITLE = "MNIST: LeNets pruned"


class _Plan(NamedTuple):
    """epochs, lr: of the dense network. rates: share of the weights that goes, by how many times are left."""

    epochs: int
    lr: float
    rates: dict[int, float]
    pruned_lr: float
    batch_size: int


_PLANS = {
    "lenet-300-100": _Plan(20, 0.05, {12: 0.92, 56: 0.984}, 0.05, 256),
    "lenet-5": _Plan(10, 0.02, {12: 0.92, 108: 0.9925}, 0.01, 128),  # at 0.05 its loss became NaN
}


def rows(options: Options) -> list[Row]:
    """For both networks the dense one, and those with a 12th and fewer of its weights left."""
    lines = []
    for model, plan in _PLANS.items():
        epochs = options.epochs or (2 if options.quick else plan.epochs)
        dense = Recipe(
            data=options.data or "",
            model=model,
            epochs=epochs,
            lr=plan.lr,
            augment=[],
            label_smoothing=0.0,
            dropout=0.5,
        )
        lines.append(Row(model, dense))
        for times, rate in plan.rates.items():
            end = max(epochs * 2 // 3, 1)
            pruned = taught(model, options, rate, end, epochs, plan.batch_size, plan.pruned_lr)
            lines.append(Row(f"{model} pruned {times} times", pruned, base=model, teacher=model))
    return lines


def taught(
    model: str,
    options: Options,
    rate: float,
    end: int,
    epochs: int,
    batch_size: int,
    lr: float,
    *,
    warmup: float = 1,
    more: tuple[Step, ...] = (),
) -> Recipe:
    """`model` pruned to `rate` from the beginning to epoch `end`, while it learns from what it was before.

    more: steps that follow.
    """
    return Recipe(
        data=options.data or "",
        model=model,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        warmup=warmup,  # a trained network diverges where it begins at the full rate
        clip_norm=5.0,
        augment=[],
        label_smoothing=0.0,
        dropout=0.0,
        weight_decay=1e-4,
        steps=(
            Prune(rate=rate, start=0, end=end, every="100 batches", scope="global"),
            *more,
            Distill(teacher=model),
        ),
    )


def run(record: Record, options: Options) -> str:
    """Run what is missing; gives the table."""
    lines = rows(options)
    run_rows(lines, record, options)
    save_picture(record, record.path.with_suffix(".png"))
    return table(lines, record)
