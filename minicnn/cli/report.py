"""What `minicnn train` leaves at its end: a table, result.json, and the picture report.png."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import minicnn
from minicnn import data
from minicnn.training.evaluate import evaluate, predict
from minicnn.training.metrics import Evaluation, History
from minicnn.training.pictures import save_report
from minicnn.training.progress import duration


def report(
    folder: Path,
    model: Any,
    history: History,
    test: Any,
    *,
    configuration: dict[str, Any],
    watched: str,
    seconds: float,
    quiet: bool,
) -> None:
    """Test the model, write result.json and report.png into `folder`, and print the table.

    test: dataset of the test images. watched: what the history's validation columns are of.
    seconds: since the command began.
    """
    loader = data.DataLoader(test, 250)
    model = minicnn.compile(model)  # as it was trained, to the last bit
    evaluation = evaluate(model, loader)
    parameters = sum(p.numel() for p in model.parameters())
    names = configuration["class_names"]
    result = {
        "model": configuration["model"],
        "data": configuration["data"],
        "parameters": parameters,
        "epochs": len(history),
        "test_images": evaluation.images,
        "test_loss": evaluation.loss,
        "test_accuracy": evaluation.accuracy,
        "per_class_accuracy": evaluation.by_class(names),
        "training_seconds": sum(history["seconds"]),
        "seconds": seconds,
        "threads": minicnn.get_num_threads(),
        "stopped": history.stopped,
    }
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    told = (
        f"{_counted(len(history), 'epoch')} in {duration(result['training_seconds'])} "
        f"on {_counted(result['threads'], 'thread')}"
    )
    if not quiet:
        print(history_table(history, watched))
        print()
        print(class_table(evaluation, names))
        print()
        if history.stopped:
            print(history.stopped)
        in_all = (
            f", {duration(seconds)} in all" if seconds > result["training_seconds"] else ""
        )  # not resumed
        print(f"{configuration['model']}: {parameters:,} parameters; {told}{in_all}")
        print(f"test accuracy {evaluation.accuracy:.2%} of {evaluation.images:,} images")

    files = ["checkpoint.npz", "metrics.jsonl", "result.json"]
    images, labels = test[np.arange(len(test))]
    try:
        save_report(
            folder / "report.png",
            title=f"{configuration['model']} on {Path(configuration['data']).name}: {told}",
            history=history,
            evaluation=evaluation,
            images=images,
            labels=labels,
            probabilities=predict(model, loader),
            class_names=names,
            watched=watched,
        )
        files.append("report.png")
    except ImportError as error:
        print(f"minicnn: no picture: {error}", file=sys.stderr)
    if not quiet:
        print(f"in {folder}: {', '.join(files)}")


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def history_table(history: History, watched: str) -> str:
    """One line per epoch."""
    lines = [f"epoch    loss  accuracy  {watched + ' loss':>15}  accuracy  images/s     time"]
    for row in history:
        lines.append(
            f"{row['epoch']:5}  {row['loss']:6.4f}   {row['accuracy']:7.2%}  {row['validation_loss']:15.4f}"
            f"   {row['validation_accuracy']:7.2%}  {row['images_per_second']:8,.0f}"
            f"  {duration(row['seconds']):>7}"
        )
    return "\n".join(lines)


def class_table(evaluation: Evaluation, names: Sequence[str]) -> str:
    """One line per class: how much of it was recognised, and what it is most often taken for."""
    width = max(map(len, names))
    lines = [f"{'class':{width}}  accuracy  most often taken for"]
    for i, (name, share) in enumerate(zip(names, evaluation.per_class, strict=True)):
        wrong = evaluation.counts[i].copy()
        wrong[i] = 0
        taken = f"{names[wrong.argmax()]} ({wrong.max()})" if wrong.any() else ""
        lines.append(f"{name:{width}}   {share:7.2%}  {taken}".rstrip())
    return "\n".join(lines)
