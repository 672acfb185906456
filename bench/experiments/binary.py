"""A binary network on MNIST: three hidden layers whose weights and inputs are signs.

Courbariaux et al. 2016 reach 0.96% errors with 4,096 units a layer after 1,000 epochs, with binary weights
and activations. Ours has fewer units and epochs; batch norm between and clipped weights as theirs. Beside it
the same network with ternary weights, and in float32 with ReLU.
"""

from __future__ import annotations

import math
import time
from typing import Any

import minicnn
from bench.experiments.record import Record, across
from bench.experiments.rows import Options
from bench.record import markdown
from minicnn import data, nn, optim
from minicnn.compress import ClipWeights, binarize
from minicnn.training.options import Images, load_images, make_scheduler

TITLE = "MNIST: a network of signs"
_UNITS, _EPOCHS, _BATCH, _DROPOUT = 1024, 20, 100, 0.1
_ROWS = {"binary": "0.96", "ternary weights": "", "float32": ""}


def run(record: Record, options: Options) -> str:
    """Run the rows and seeds that are missing; gives the table."""
    for seed in range(options.seeds):
        images = load_images(
            {
                "data": options.data,
                "limit": 400 if options.quick else None,
                "validation_fraction": options.held_out,
                "seed": seed,
            }
        )
        for name in options.rows or _ROWS:
            if record.get(name, seed) is None:
                _train(name, images, seed, record, 1 if options.quick else options.epochs or _EPOCHS)
    return _table(record)


def _network(images: Images, name: str) -> Any:
    """Three hidden layers of _UNITS without biases, batch norm behind each, and the last one too."""
    width, layers = math.prod(images.facts["image_shape"]), [nn.Flatten(), nn.Dropout(_DROPOUT)]
    for _ in range(3):
        layers += [nn.Linear(width, _UNITS, bias=False), nn.BatchNorm1d(_UNITS)]
        layers += [nn.ReLU()] if name == "float32" else []
        layers.append(nn.Dropout(_DROPOUT))
        width = _UNITS
    classes = len(images.facts["class_names"])
    return nn.Sequential(*layers, nn.Linear(width, classes, bias=False), nn.BatchNorm1d(classes))


def _train(name: str, images: Images, seed: int, record: Record, epochs: int) -> None:
    """Train one network and record what it gets wrong."""
    began = time.perf_counter()
    minicnn.manual_seed(seed)
    model = _network(images, name)
    loader = data.DataLoader(images.train, _BATCH, shuffle=True, seed=seed)
    callbacks = []
    if name != "float32":
        sample = next(iter(loader))[0]
        binarize(model, sample, activations=True, ternary=name == "ternary weights")
        callbacks.append(ClipWeights(model))
    optimizer = optim.Adam(model.parameters(), lr=0.001)
    schedule = {"epochs": epochs, "warmup": 0, "schedule": "cosine"}
    minicnn.fit(
        model,
        loader,
        optimizer=optimizer,
        epochs=epochs,
        scheduler=make_scheduler(schedule, optimizer, len(loader)),
        scheduler_step="batch",
        callbacks=callbacks,
        progress=False,
    )
    result = minicnn.evaluate(minicnn.compile(model), data.DataLoader(images.watched, 250))
    error = 100 * (1 - (result.accuracy or 0))
    seconds = round(time.perf_counter() - began, 1)
    record.add(name, seed, {"error": round(error, 3), "images": result.images, "seconds": seconds})
    print(f"seed {seed}: {name}: {error:.2f}% of {result.images}, {seconds:.0f} s", flush=True)


def _table(record: Record) -> str:
    lines = []
    for name, seeds in record.rows.items():
        mean, deviation = across(seeds, lambda numbers: numbers["error"])
        seconds, _ = across(seeds, lambda numbers: numbers["seconds"])
        each = ", ".join(f"{numbers['error']:.2f}" for numbers in seeds.values())
        lines.append([name, _ROWS[name], f"{mean:.2f} ± {deviation:.2f}", each, f"{seconds:.0f}"])
    return markdown([f"3 x {_UNITS:,} units", "published", "error %", "by seed", "seconds"], lines)
