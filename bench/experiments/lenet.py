"""LeNet-300-100 and LeNet-5 on MNIST, pruned 12 times without loss (Han et al. 2015), and further.

Their errors: 1.64% dense and 1.59% pruned, 0.80% dense and 0.77% pruned; dynamic network surgery (Guo et al.
2016) reaches 56 times at 1.99% and 108 times at 0.91%.
"""

from __future__ import annotations

from bench.experiments.record import Record
from bench.experiments.rows import Options, Row, run_rows, save_picture, table
from minicnn.compress.recipe import Prune, Recipe

TITLE = "MNIST: LeNets pruned"


def rows(options: Options) -> list[Row]:
    """For both networks the dense one, and those with a 12th and fewer of its weights left."""
    lines = []
    plan = (
        ("lenet-300-100", 20, 0.05, ((12, 0.92), (56, 0.984))),
        ("lenet-5", 10, 0.02, ((12, 0.92), (108, 0.9925))),  # at 0.05 its loss becomes NaN in the first epoch
    )
    for model, usual, lr, rates in plan:
        epochs = options.epochs or (2 if options.quick else usual)
        dense = Recipe(
            data=options.data or "",
            model=model,
            epochs=epochs,
            lr=lr,
            augment=[],
            label_smoothing=0.0,
            dropout=0.5,
        )
        lines.append(Row(model, dense))
        for times, rate in rates:
            gradual = Prune(
                rate=rate, start=0, end=max(epochs * 2 // 3, 1), every="100 batches", scope="global"
            )
            recipe = Recipe(
                data=options.data or "",
                model=model,
                epochs=epochs,
                lr=lr,
                warmup=0,
                augment=[],
                label_smoothing=0.0,
                dropout=0.1,
                weight_decay=1e-4,
                steps=(gradual,),
            )
            lines.append(Row(f"{model} pruned {times} times", recipe, base=model))
    return lines


def run(record: Record, options: Options) -> str:
    """Run what is missing; gives the table."""
    lines = rows(options)
    run_rows(lines, record, options)
    save_picture(record, record.path.with_suffix(".png"))
    return table(lines, record)
