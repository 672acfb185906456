"""`minicnn deploy --checkpoint MODEL.npz`: one file that holds the model and runs without training code."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import minicnn
from minicnn import data, deploy
from minicnn.compress.model_file import load_trained, save_trained
from minicnn.compress.quantize import is_quantized, quantize
from minicnn.deploy.inspect import contents
from minicnn.training.options import limited, load_data

_ABOUT = ("model", "data", "image_shape", "class_names", "normalize")


def run(options: argparse.Namespace) -> int:
    """Write the file. Gives the exit status."""
    if options.threads is not None:
        minicnn.set_num_threads(options.threads)
    model, configuration = load_trained(options.checkpoint)
    output = Path(options.output or Path(options.checkpoint).with_suffix(".mcnn"))
    shape = tuple(configuration["image_shape"])
    if options.bits is not None:
        _quantize(model, configuration, options)
        trained = output.with_suffix(".npz")
        if trained.exists() and trained.samefile(options.checkpoint):
            trained = output.with_suffix(f".{options.bits}-bits.npz")
        save_trained(model, trained, configuration)
    about = {key: configuration.get(key) for key in _ABOUT}
    sample = np.zeros((2, *shape), np.float32)
    deploy.save(model, output, sample, about=about, huffman=not options.no_huffman)
    found = contents(output)
    runs = [layer["runs"] for layer in found["layers"]]
    weights = sum(p.numel() for p in model.parameters())
    print(
        f"{output}: {found['bytes']:,} bytes, {4 * weights / found['bytes']:.1f} times smaller than the "
        f"model in float32; {sum('uint8' in form for form in runs)} of {len(runs)} steps on integers"
    )
    if options.bits is not None:
        print(f"{trained}: the model on lattices, as `minicnn verify --checkpoint` takes it")
    return 0


def _quantize(model: Any, configuration: dict[str, Any], options: argparse.Namespace) -> None:
    """Put a model of floats on lattices, by images that it was trained on."""
    if is_quantized(model):
        raise ValueError(
            f"--bits {options.bits}: {options.checkpoint} holds a quantized model already; leave --bits out"
        )
    normalize = data.Normalize(**configuration["normalize"])
    images = load_data(options.data or configuration["data"], train=True, normalize=normalize)
    if list(images.image_shape) != configuration["image_shape"]:
        raise ValueError(
            f"--data: expected images {tuple(configuration['image_shape'])} as the model was trained on, "
            f"got {images.image_shape}"
        )
    quantize(model, data.DataLoader(limited(images, options.calibration), 250), bits=options.bits)
    model.eval()
