"""`minicnn predict CHECKPOINT FILE...`: what a trained model sees in pictures. Needs Pillow."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import minicnn
from minicnn import data
from minicnn.compress.model_file import load_trained
from minicnn.training.evaluate import predict

_TOP = 3


def run(options: argparse.Namespace) -> int:
    """Print the most probable classes of every picture. Gives the exit status."""
    if options.threads is not None:
        minicnn.set_num_threads(options.threads)
    model, configuration = load_trained(options.checkpoint)
    names, shape = configuration["class_names"], tuple(configuration["image_shape"])
    pixels = np.stack([read_picture(path, shape, options.invert) for path in options.pictures])
    normalize = data.Normalize(**configuration["normalize"])
    labels = np.zeros(len(pixels), np.int64)
    dataset = data.ArrayDataset(pixels, labels, class_names=names, transform=normalize)
    probabilities = predict(model.to(options.device), data.DataLoader(dataset, 64))
    print_classes(options.pictures, probabilities, names, as_json=options.json)
    return 0


def print_classes(
    pictures: Iterable[str], probabilities: np.ndarray, names: Sequence[str], *, as_json: bool
) -> None:
    """The most probable classes of every picture, a line each. probabilities: (N, C)."""
    for path, row in zip(pictures, probabilities.tolist(), strict=True):
        best = sorted(range(len(row)), key=row.__getitem__, reverse=True)[:_TOP]
        if as_json:
            print(json.dumps({"file": path, "classes": {names[i]: row[i] for i in best}}))
        else:
            print(f"{path}: " + ", ".join(f"{names[i]} {row[i]:.1%}" for i in best))


def read_picture(path: str, shape: tuple[int, ...], invert: str = "auto") -> np.ndarray:
    """The picture as uint8 (C, H, W) of the given shape, its proportions kept.

    One channel: grey, and inverted if `invert` is "yes", or is "auto" and the border is mostly bright (with
    a warning). Transparent parts count as white. Raises ValueError if the file is no picture or the shape has
    neither 1 nor 3 channels, ImportError without Pillow, OSError if it cannot be opened.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise ImportError(
            "predict reads pictures with Pillow, which is not installed; fix: pip install 'minicnn[image]'"
        ) from None
    channels, height, width = shape
    if channels not in (1, 3):
        raise ValueError(
            f"predict: expected a model of grey or colour images, this one takes {channels} channels"
        )
    try:
        with Image.open(path) as file:
            picture: Any = ImageOps.exif_transpose(file).convert("RGBA")
    except UnidentifiedImageError:
        raise ValueError(
            f"{path}: expected a picture (PNG, JPEG, ...), but its format is not known"
        ) from None
    except (Image.DecompressionBombError, SyntaxError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path}: the picture cannot be read ({error}); is the file cut off?") from error
    paper = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(paper, picture).convert("L" if channels == 1 else "RGB")
    if channels == 1:
        border = _border(np.asarray(picture))
        if invert == "auto" and border > 127:
            warnings.warn(
                f"{path}: inverted, because its background is bright and the model knows bright things on "
                f"black; --invert no keeps it as it is",
                stacklevel=2,
            )
        if invert == "yes" or (invert == "auto" and border > 127):
            picture = ImageOps.invert(picture)
    fill = _border(np.asarray(picture)) if channels == 1 else (0, 0, 0)
    picture = ImageOps.pad(picture, (width, height), Image.Resampling.LANCZOS, color=fill)
    return np.asarray(picture, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _border(grey: np.ndarray) -> int:
    """The median of the outermost pixels (H, W): the background, if the thing is in the middle."""
    return int(np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))
