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
from minicnn.compress.report.markdown import markdown_table
from minicnn.deploy.inspect import contents
from minicnn.deploy.report import point, save_with_report
from minicnn.deploy.report.tables import comparison
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
    sample = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    if not (options.no_report or options.no_stopwatch):
        graph, notes = deploy.choose(deploy.lower(model, sample), sample)
        route = deploy.choose_route(graph, sample)
        about["stopwatch"] = notes = notes + ([] if route is None else [route])
        print(*(note["words"] for note in notes), sep="\n", end="\n\n" if notes else "")
    if options.no_report:
        deploy.save(model, output, sample, about=about, huffman=not options.no_huffman)
    else:
        _save_with_report(model, output, about, configuration, options)
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


def _save_with_report(
    model: Any,
    output: Path,
    about: dict[str, Any],
    configuration: dict[str, Any],
    options: argparse.Namespace,
) -> None:
    """Write the file with its report, measured on the test images."""
    test = limited(_images(configuration, options, train=False), options.limit)
    before = None
    if options.before is not None:
        before, theirs = load_trained(options.before)
        for key in ("image_shape", "class_names", "normalize"):
            if theirs[key] != configuration[key]:
                raise ValueError(
                    f"--before {options.before}: expected a model of the same images, but its {key} is "
                    f"{theirs[key]}, not {configuration[key]}"
                )
    numbers = save_with_report(
        model,
        output,
        data.DataLoader(test, 250),
        about=about,
        huffman=not options.no_huffman,
        before=before,
    )
    table = comparison({str(output): point(numbers)}, "")
    print(markdown_table(table.header[:-1], [row[:-1] for row in table.rows]), end="\n\n")


def _images(configuration: dict[str, Any], options: argparse.Namespace, *, train: bool) -> Any:
    """The images that the model was trained on, or is tested on. Raises ValueError for those of another."""
    normalize = data.Normalize(**configuration["normalize"])
    images = load_data(options.data or configuration["data"], train=train, normalize=normalize)
    if list(images.image_shape) != configuration["image_shape"]:
        raise ValueError(
            f"--data: expected images {tuple(configuration['image_shape'])} as the model was trained on, "
            f"got {images.image_shape}"
        )
    return images


def _quantize(model: Any, configuration: dict[str, Any], options: argparse.Namespace) -> None:
    """Put a model of floats on lattices, by images that it was trained on."""
    if is_quantized(model):
        raise ValueError(
            f"--bits {options.bits}: {options.checkpoint} holds a quantized model already; leave --bits out"
        )
    images = _images(configuration, options, train=True)
    quantize(model, data.DataLoader(limited(images, options.calibration), 250), bits=options.bits)
    model.eval()
