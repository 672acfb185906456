"""W2 on Fashion-MNIST, compressed in every way that the library knows."""

from __future__ import annotations

from bench.experiments.record import Record
from bench.experiments.rows import Options, Row, run_rows, save_picture, table
from minicnn.compress.recipe import Distill, LowRank, Prune, Quantize, Recipe, Share, Step

TITLE = "Fashion-MNIST: W2 (conv 32, conv 64, fc 128, fc 10), compressed"


def _tuned(epochs: int, *steps: Step, lr: float = 0.01, dropout: float = 0.3) -> Recipe:
    """Fine-tuning of a trained model."""
    return Recipe(epochs=epochs, lr=lr, warmup=0, dropout=dropout, steps=steps)


def _sparse(rate: float) -> Recipe:
    """Pruned during two of three epochs; fewer weights need less dropout, and a higher rate to recover."""
    gradual = Prune(rate=rate, start=0, end=2, every="100 batches", scope="global")
    return _tuned(3, gradual, lr=0.03, dropout=0.1)


def rows(options: Options) -> list[Row]:
    """The dense network, and what becomes of it; the student with and without a teacher."""
    epochs = options.epochs or (2 if options.quick else 10)
    student = Recipe(epochs=epochs, model_options={"width": 0.5})
    return [
        Row("dense", Recipe(epochs=epochs)),
        Row("dense and 3 more epochs", _tuned(3), base="dense"),
        Row("90% of weights pruned", _sparse(0.9), base="dense"),
        Row("95% of weights pruned", _sparse(0.95), base="dense"),
        Row(
            "50% of filters pruned",
            _tuned(3, Prune(rate=0.5, start=0, unit="filter", layers=("conv*",))),
            base="dense",
        ),
        Row("int8 after training", _tuned(0, Quantize(bits=8)), base="dense", goal="0.1"),
        Row("int8 aware", _tuned(2, Quantize(bits=8, start=0)), base="dense"),
        Row(
            "4-bit aware",
            _tuned(3, Quantize(bits=4, activation_bits=8, learned=True, start=0)),
            base="dense",
            goal="0.3",
        ),
        Row(
            "2-bit aware",
            _tuned(3, Quantize(bits=2, activation_bits=8, learned=True, start=0)),
            base="dense",
            goal="1.5",
        ),
        Row("16 shared values", _tuned(2, Share(clusters=16, start=0)), base="dense"),
        Row("half the rank", _tuned(3, LowRank(ratio=0.5, start=0)), base="dense"),
        Row("student of a quarter", student),
        Row(
            "student with its teacher",
            Recipe(
                epochs=epochs,
                model_options={"width": 0.5},
                steps=(Distill(teacher="dense", temperature=2.0, alpha=0.5),),
            ),
            teacher="dense",
        ),
    ]


def run(record: Record, options: Options) -> str:
    """Run what is missing; gives the table."""
    lines = rows(options)
    run_rows(lines, record, options)
    save_picture(record, record.path.with_suffix(".png"))
    return table(lines, record)
