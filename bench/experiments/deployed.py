"""Rows of experiments as files: a row's model is deployed, and what the file answers is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.experiments.rows import Options, Row, folder_of, model_of
from minicnn import data, deploy
from minicnn.compress.model_file import load_trained
from minicnn.training.options import Images, load_images

_BATCH = 250


def images_of(configuration: dict[str, Any], options: Options) -> Images:
    """The data that a row was trained and is tested on. configuration: of its model file."""
    where = options.data or configuration["data"]
    return load_images(configuration | {"data": where, "validation_fraction": options.held_out})


def deploy_row(row: Row, seed: int, known: dict[str, Row], record: Any, options: Options) -> dict[str, int]:
    """Write `deployed.mcnn` beside the row's model: {"bytes": of the file, "errors", "images"}.

    Errors are those of the loaded file, on test images or with `held_out` on held-out ones.
    """
    model, configuration = load_trained(model_of(row, seed, known, record, options))
    watched = images_of(configuration, options).watched
    loader = data.DataLoader(watched, _BATCH)
    path: Path = folder_of(row, seed, options) / "deployed.mcnn"
    size = deploy.save(model, path, next(iter(loader))[0][:2])
    artefact = deploy.load(path)
    wrong = sum(
        int(np.count_nonzero(artefact(images).argmax(axis=1) != targets.numpy()))
        for images, targets in loader
    )
    return {"bytes": size, "errors": wrong, "images": len(watched)}
