"""`minicnn run FILE.mcnn PICTURE...`: what a deployed model sees in pictures. Needs Pillow."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import minicnn
from minicnn import data, deploy
from minicnn.cli.predict import print_classes, read_picture


def run(options: argparse.Namespace) -> int:
    """Print the most probable classes of every picture. Gives the exit status."""
    if options.threads is not None:
        minicnn.set_num_threads(options.threads)
    artefact = deploy.load(options.file)
    names, normalize = facts(artefact, options.file)
    shape = artefact.graph.inputs[0].shape[1:]
    pixels = np.stack([read_picture(path, shape, options.invert) for path in options.pictures])
    dataset = data.ArrayDataset(pixels, np.zeros(len(pixels), np.int64), transform=normalize)
    for i, (images, _) in enumerate(data.DataLoader(dataset, 64)):
        probabilities = minicnn.tensor(artefact(images)).softmax(dim=1).numpy()
        print_classes(options.pictures[64 * i : 64 * (i + 1)], probabilities, names, as_json=options.json)
    return 0


def facts(artefact: deploy.Artefact, path: str) -> tuple[list[str], Any]:
    """(class names, what an image has to go through) as a file says. Raises ValueError if it does not."""
    about = artefact.about
    try:
        names, normalize = [str(name) for name in about["class_names"]], data.Normalize(**about["normalize"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: it does not say its classes and how to normalize images ({type(error).__name__}: "
            f"{error}); make it with `minicnn deploy`, or save it with about="
        ) from error
    shape = artefact.graph.outputs[0].shape
    if len(shape) != 2 or shape[1] != len(names):
        raise ValueError(f"{path}: {len(names)} names of classes, but results {shape[1:]}")
    return names, normalize
