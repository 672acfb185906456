"""A student that learns from a teacher's soft answers (Hinton et al. 2015, section 3) on MNIST.

Teacher: two layers of 1,200 units, dropout, images shifted by up to two pixels. Student: two layers of 800
without regularization, images as they are. The paper: 67 errors, and 146 alone, 74 with its teacher at a
temperature of 20.
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
from minicnn.compress import CachedTeacher, Distillation
from minicnn.training.options import Images, load_images, make_scheduler

TITLE = "MNIST: a student with and without its teacher"
_TEMPERATURE, _ALPHA = 20.0, 0.9


def run(record: Record, options: Options) -> str:
    """Run the seeds that are missing; gives the table."""
    for seed in range(options.seeds):
        if record.get("student with its teacher", seed) is None:
            _seed(seed, record, options)
    return _table(record)


def _seed(seed: int, record: Record, options: Options) -> None:
    images = load_images(
        {
            "data": options.data,
            "limit": 400 if options.quick else None,
            "validation_fraction": options.held_out,
            "seed": seed,
        }
    )
    epochs = 1 if options.quick else options.epochs or 30
    teacher = _teacher(images, seed, record, options, epochs * 4 // 3)
    if record.get("student alone", seed) is None:
        _train("student alone", images, seed, record, epochs)
    plain = data.DataLoader(images.train, 250)
    loss = Distillation(CachedTeacher(teacher, plain), temperature=_TEMPERATURE, alpha=_ALPHA)
    _train("student with its teacher", images, seed, record, epochs, loss=loss)


def _teacher(images: Images, seed: int, record: Record, options: Options, epochs: int) -> Any:
    """The teacher, from its file if it was trained before."""
    path = options.work / f"teacher-{seed}.npz"
    size: dict[str, Any] = {"units": 1200, "dropout": 0.5}
    if path.exists() and record.get("teacher", seed) is not None:
        model = _network(images, **size)
        model.load_state_dict(minicnn.load(path))
        return model
    model = _train("teacher", images, seed, record, epochs, **size, shift=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    minicnn.save(model.state_dict(), path)
    return model


def _network(images: Images, *, units: int, dropout: float) -> Any:
    """Two hidden layers of `units`."""
    pixels = math.prod(images.facts["image_shape"])
    return nn.Sequential(
        nn.Flatten(), nn.Dropout(dropout / 2.5), nn.Linear(pixels, units), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(units, units), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(units, len(images.facts["class_names"])),
    )  # fmt: skip


def _train(
    name: str,
    images: Images,
    seed: int,
    record: Record,
    epochs: int,
    *,
    units: int = 800,
    dropout: float = 0.0,
    shift: int = 0,
    loss: Any = None,
) -> Any:
    """Train a network and record what it gets wrong."""
    began = time.perf_counter()
    minicnn.manual_seed(seed)
    model = _network(images, units=units, dropout=dropout)
    loader = data.DataLoader(
        images.train, 100, shuffle=True, seed=seed, transform=data.RandomShift(shift) if shift else None
    )
    optimizer = optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    schedule = {"epochs": epochs, "warmup": 0, "schedule": "cosine"}
    minicnn.fit(
        model,
        loader,
        optimizer=optimizer,
        loss=loss,
        epochs=epochs,
        scheduler=make_scheduler(schedule, optimizer, len(loader)),
        scheduler_step="batch",
        max_norm=3.5 if dropout else None,  # with dropout the units' weights are bounded, as in the paper
        progress=False,
    )
    result = minicnn.evaluate(minicnn.compile(model), data.DataLoader(images.watched, 250))
    errors = round((1 - (result.accuracy or 0)) * result.images)
    seconds = round(time.perf_counter() - began, 1)
    record.add(name, seed, {"errors": errors, "images": result.images, "seconds": seconds})
    print(f"seed {seed}: {name}: {errors} errors of {result.images}, {seconds:.0f} s", flush=True)
    return model


def _table(record: Record) -> str:
    published = {"teacher": "67", "student alone": "146", "student with its teacher": "74"}
    lines = []
    for name, seeds in record.rows.items():
        mean, deviation = across(seeds, lambda numbers: numbers["errors"])
        seconds, _ = across(seeds, lambda numbers: numbers["seconds"])
        each = ", ".join(str(numbers["errors"]) for numbers in seeds.values())
        lines.append([name, published[name], f"{mean:.0f} ± {deviation:.0f}", each, f"{seconds:.0f}"])
    return markdown(["", "published", "errors", "by seed", "seconds"], lines)
