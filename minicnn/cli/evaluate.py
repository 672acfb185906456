"""`minicnn evaluate CHECKPOINT`: how good a trained model is on test images."""

from __future__ import annotations

import argparse
import json
from typing import Any

import minicnn
from minicnn import data
from minicnn.cli.report import class_table
from minicnn.compress.model_file import load_trained
from minicnn.training.evaluate import evaluate
from minicnn.training.options import load_data


def run(options: argparse.Namespace) -> int:
    """Test the checkpoint's model. Gives the exit status."""
    if options.threads is not None:
        minicnn.set_num_threads(options.threads)
    model, configuration = load_trained(options.checkpoint)
    names = configuration["class_names"]
    normalize = data.Normalize(**configuration["normalize"])
    test = load_data(options.data or configuration["data"], train=False, normalize=normalize)
    if list(test.image_shape) != configuration["image_shape"]:
        raise ValueError(
            f"--data {options.data}: expected images {tuple(configuration['image_shape'])} as the model was "
            f"trained on, got {test.image_shape}"
        )
    result = evaluate(minicnn.compile(model.to(options.device)), data.DataLoader(test, options.batch_size))
    if options.json:
        numbers: dict[str, Any] = {"images": result.images, "loss": result.loss, "accuracy": result.accuracy}
        numbers |= {"per_class_accuracy": result.by_class(names), "confusion": result.counts.tolist()}
        print(json.dumps(numbers))
    else:
        print(class_table(result, names))
        print()
        print(f"loss {result.loss:.4f}, accuracy {result.accuracy:.2%} of {result.images:,} test images")
    return 0
