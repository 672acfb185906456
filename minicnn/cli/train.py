"""`minicnn train`: from options to a checkpoint, metrics, a table and a picture."""

from __future__ import annotations

import argparse
import functools
import os
import time
from pathlib import Path
from typing import Any

import minicnn
import minicnn_kernels as kernels
from minicnn import data, nn
from minicnn.cli.folder import results_folder
from minicnn.cli.report import report
from minicnn.training.checkpoint import Checkpoint, load_checkpoint
from minicnn.training.errors import CheckpointError, TrainingInterrupted
from minicnn.training.options import (
    DEFAULTS,
    load_images,
    make_loader,
    make_model,
    make_optimizer,
    make_scheduler,
)
from minicnn.training.trainer import fit


def run(options: argparse.Namespace) -> int:
    """Train as the options say. Gives the exit status."""
    began = time.perf_counter()
    if options.quiet:
        os.environ["MINICNN_QUIET"] = "1"  # read by the kernels' compiler
    if options.threads is not None:
        minicnn.set_num_threads(options.threads)
    kernels.require(options.device)
    said = {name: getattr(options, name) for name in DEFAULTS if getattr(options, name) is not None}
    if "data" in said and said["data"] != "fashion-mnist":
        said["data"] = os.path.abspath(said["data"])
    chosen = DEFAULTS | said
    folder = results_folder(f"{chosen['model']}-{Path(chosen['data']).name}", options)
    path = folder / "checkpoint.npz"
    if options.resume:
        chosen = _options_of(path) | said
    if chosen["early_stopping"] and not chosen["validation_fraction"]:
        chosen["validation_fraction"] = 1 / 12  # 5,000 images of Fashion-MNIST

    images = load_images(chosen)
    configuration = chosen | images.facts
    minicnn.manual_seed(chosen["seed"])
    model = make_model(configuration)
    optimizer = make_optimizer(chosen, model)
    loader = make_loader(chosen, images.train)
    checkpoint = Checkpoint(
        path,
        every=options.checkpoint_every or "1 epoch",
        keep_best=images.watched is not images.test,  # nothing is chosen by the test images
    )
    try:
        history = fit(
            model,
            loader,
            optimizer=optimizer,
            loss=functools.partial(nn.functional.cross_entropy, label_smoothing=chosen["label_smoothing"]),
            epochs=chosen["epochs"],
            validation=data.DataLoader(images.watched, 250),
            validation_name=images.watched_name,
            scheduler=make_scheduler(chosen, optimizer, len(loader)),
            scheduler_step="batch",
            clip_norm=chosen["clip_norm"],
            max_norm=chosen["max_norm"],
            early_stopping=chosen["early_stopping"],
            checkpoint=checkpoint,
            resume=options.resume,
            metrics=folder / "metrics.jsonl",
            progress=False if options.quiet else None,
            device=options.device,
            configuration=configuration,
        )
    except TrainingInterrupted as error:
        raise TrainingInterrupted(f"{error}: minicnn train --resume --output {folder}") from None
    report(
        folder,
        model,
        history,
        images.test,
        configuration=configuration,
        watched=images.watched_name,
        seconds=time.perf_counter() - began,
        quiet=options.quiet,
    )
    return 0


def _options_of(path: Path) -> dict[str, Any]:
    """The options that a checkpoint was trained with. Raises CheckpointError if they are not in it."""
    configuration = load_checkpoint(path)["configuration"]
    missing = DEFAULTS.keys() - configuration.keys()
    if missing:
        raise CheckpointError(
            f"checkpoint {path}: expected one made by `minicnn train`, but its configuration lacks "
            f"{', '.join(sorted(missing))}; start anew without --resume"
        )
    return {name: configuration[name] for name in DEFAULTS}
