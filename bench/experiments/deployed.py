"""Rows of experiments as files: a row's model is deployed, and what the file answers is counted."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.experiments.record import Record
from bench.experiments.rows import Options, Row, folder_of, model_of
from minicnn import data, deploy
from minicnn.compress.model_file import load_trained
from minicnn.training.options import load_images

_BATCH = 250


class Deployed(NamedTuple):
    """The file of a row, and the images that it is tested on: test images, or with `held_out` those."""

    path: Path
    loader: data.DataLoader


def deployed(row: Row, seed: int, known: dict[str, Row], record: Record, options: Options) -> Deployed:
    """Write `deployed.mcnn` beside the row's model, which is trained if it is not there."""
    model, configuration = load_trained(model_of(row, seed, known, record, options))
    source = configuration["data"]
    if source != "fashion-mnist" and options.data:  # a folder may lie elsewhere now
        source = options.data
    where = {"data": source, "validation_fraction": options.held_out}
    loader = data.DataLoader(load_images({"limit": None} | configuration | where).watched, _BATCH)
    path = folder_of(row, seed, options) / "deployed.mcnn"
    deploy.save(model, path, next(iter(loader))[0][:2])
    return Deployed(path, loader)


def count_errors(file: Deployed) -> dict[str, int]:
    """{"bytes": of the file, "errors": that it makes once it is loaded, "images"}."""
    artefact, errors, images = deploy.load(file.path), 0, 0
    for x, targets in file.loader:
        errors += int(np.count_nonzero(artefact(x).argmax(axis=1) != targets.numpy()))
        images += len(targets)
    return {"bytes": file.path.stat().st_size, "errors": errors, "images": images}
