"""`minicnn sensitivity --checkpoint FILE`: what pruning each layer alone costs, and the rates that follow."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import minicnn
from minicnn import data, viz
from minicnn.compress.model_file import load_trained
from minicnn.compress.sensitivity import Sensitivity, sensitivity
from minicnn.training.evaluate import evaluate
from minicnn.training.options import load_images


def run(options: argparse.Namespace) -> int:
    """Scan the checkpoint's model. Gives the exit status."""
    if options.threads is not None:
        minicnn.set_num_threads(options.threads)
    model, configuration = load_trained(options.checkpoint)
    images, described = _images(configuration, options)
    loader = data.DataLoader(images, 250)

    def accuracy(trial: Any) -> float:
        return evaluate(minicnn.compile(trial), loader).accuracy or 0.0

    found = sensitivity(
        model,
        accuracy,
        rates=options.rates,
        layers=options.layers,
        unit=options.unit,
        score=options.score,
        **({"data": loader} if options.score == "taylor" else {}),
    )
    picked = found.pick(options.max_drop)
    folder = Path(options.output) if options.output else Path(options.checkpoint).parent
    print(f"accuracy on {len(images):,} {described} with one layer pruned at a time\n")
    print(found)
    print(f"\nrates that lose at most {options.max_drop:.2%} each, for a step of a recipe:")
    print(_toml(picked, options))
    _write(folder, found, picked, options)
    return 0


def _images(configuration: dict[str, Any], options: argparse.Namespace) -> tuple[Any, str]:
    """Images to judge by and what they are. Rates are chosen by them, so they are no test images."""
    own = {"data": "fashion-mnist", "limit": None, "validation_fraction": 0.0, "seed": 0} | configuration
    images = load_images(own | ({"data": options.data} if options.data else {}))
    if images.facts["image_shape"] != configuration["image_shape"]:
        raise ValueError(
            f"--data {options.data}: expected images {tuple(configuration['image_shape'])} as the model was "
            f"trained on, got {tuple(images.facts['image_shape'])}"
        )
    held_out = images.watched is not images.test
    chosen = images.watched if held_out else images.train
    if options.images < len(chosen):
        chosen = data.random_split(chosen, [options.images, len(chosen) - options.images])[0]
    return chosen, "held-out images" if held_out else "training images"


def _toml(picked: dict[str, float], options: argparse.Namespace) -> str:
    rates = ", ".join(f'"{name}" = {rate:g}' for name, rate in picked.items())
    extra = "".join(f'\n{key} = "{getattr(options, key)}"' for key in ("unit", "score"))
    return f'[[steps]]\ndo = "prune"\nrate = {{ {rates} }}{extra}'


def _write(folder: Path, found: Sensitivity, picked: dict[str, float], options: argparse.Namespace) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "baseline": found.baseline,
        "unit": options.unit,
        "score": options.score,
        "rows": [row._asdict() for row in found.rows],
        "max_drop": options.max_drop,
        "picked": picked,
    }
    (folder / "sensitivity.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    files = ["sensitivity.json"]
    try:
        viz.sensitivity(found).savefig(folder / "sensitivity.png", dpi=120, facecolor="white")
        files.append("sensitivity.png")
    except ImportError as error:
        print(f"minicnn: no picture: {error}", file=sys.stderr)
    print(f"\nin {folder}: {', '.join(files)}")
