"""What a model is, in plain numbers: parameters, zeros, bits, computed bytes, MACs, accuracy, histograms.

Bytes are computed, not those of a file: what the cheapest of a few plain codings of the weights would take,
its tables included, without entropy coding. What a file really takes is known when it is written.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np

import minicnn
from minicnn.compress.select import WEIGHTED
from minicnn.graph import cost, trace
from minicnn.nn.module import TRANSFORMS, Module
from minicnn.nn.transform import Transform, find
from minicnn.training.evaluate import device_of, evaluate, inference

BINS = 41  # of a histogram; odd, so that zero has a bin of its own
_FLOAT = 32
_GAPS = range(2, 9)  # bits of the distance from one weight that is not zero to the next


class Storage(NamedTuple):
    """A coding of a layer's weights and the bytes that it takes."""

    form: str
    nbytes: int


def measure(model: Module, loader: Any, *, class_names: Any = None) -> dict[str, Any]:
    """Plain numbers of `model` with its transforms in force, tested on `loader`, batches (images, targets).

    {"accuracy", "loss", "images", "per_class": {name: accuracy or None}, "layers": [{"name", "kind",
    "shape", "parameters", "nonzeros", "bits", "form", "bytes", "macs", "macs_nonzero", "histogram"}],
    "total": the same sums}. parameters: weights (factors, where a layer is low-rank), biases and the like.
    bits: of one stored weight. macs: of one image, of the dense layer; macs_nonzero: those that do not
    multiply by a zero, through the factors of low-rank layers. histogram: {"low", "high", "counts"} of the
    weight, zeros included. The model is left as it was.
    """
    evaluation = evaluate(minicnn.compile(model), loader)
    images, _ = next(iter(loader))
    numbers: dict[str, Any] = {"images": evaluation.images, "loss": evaluation.loss}
    if evaluation.confusion is not None:
        numbers["accuracy"] = evaluation.accuracy
        numbers["per_class"] = evaluation.by_class(class_names)
    if device_of(model) != "cpu":
        model = copy.deepcopy(model).cpu()  # weights are looked at one by one
    with inference(model):
        macs = _macs(model, images[:1])
        numbers["layers"] = [_layer(name, layer, macs.get(name, 0)) for name, layer in _owners(model)]
    keys = ("parameters", "nonzeros", "bytes", "macs", "macs_nonzero")
    numbers["total"] = {key: sum(layer[key] for layer in numbers["layers"]) for key in keys}
    return numbers


def _owners(model: Module) -> Iterator[tuple[str, Module]]:
    """Every module with parameters of its own, transforms apart: they are counted with what they change."""
    for name, module in model.named_modules():
        is_transform = any(part.endswith(TRANSFORMS) for part in name.split("."))
        if not is_transform and any(p is not None for p in module._parameters.values()):
            yield name, module


def _macs(model: Module, sample: Any) -> dict[str, int]:
    """Multiply-accumulates of each layer for one image; those that compute a weight are not counted."""
    found: dict[str, int] = {}
    for entry in cost(trace(model, sample)):
        found[entry.node.layer] = found.get(entry.node.layer, 0) + entry.macs
    return found


def _layer(name: str, layer: Module, macs: int) -> dict[str, Any]:
    own = {key: p for key, p in layer._parameters.items() if p is not None}
    numbers: dict[str, Any] = {"name": name, "kind": type(layer).__name__}
    numbers |= {"macs": macs, "macs_nonzero": macs}
    if isinstance(layer, WEIGHTED):
        numbers |= _weight(layer, macs)
        del own["weight"]
    else:
        numbers |= {"shape": [], "bits": _FLOAT, "form": "dense", "histogram": None}
        numbers |= dict.fromkeys(("parameters", "nonzeros", "bytes"), 0)
    # Biases, and what batch norm keeps, are stored as they are: four bytes each.
    rest = sum(p.numel() for p in own.values())
    buffers = sum(b.numel() for b in layer._buffers.values() if b is not None and b.ndim)
    numbers["parameters"] += rest
    numbers["nonzeros"] += sum(int(np.count_nonzero(p.detach().numpy())) for p in own.values())
    numbers["bytes"] += 4 * (rest + buffers)
    return numbers


def _weight(layer: Module, macs: int) -> dict[str, Any]:
    """The numbers of a layer's weight."""
    value = layer.weight.detach().numpy()
    size, nonzeros = value.size, int(np.count_nonzero(value))
    quantizer, book = find(layer, "weight", "quantize"), find(layer, "weight", "codebook")
    factors = _factors(find(layer, "weight", "low_rank"))
    tables, bits, codes = 0, _FLOAT, _FLOAT
    if quantizer is not None and quantizer.enabled:
        bits = codes = quantizer.bits
        tables += 4 * quantizer.scale.numel()
    if book is not None:
        used = len(np.unique(value[value != 0]))
        tables += ceil(used * bits / 8)
        bits = max((used - 1).bit_length(), 1)
        codes = max((used - (nonzeros == size)).bit_length(), 1)  # a dense coding needs one for zero, too
    dense = Storage("dense" if bits == _FLOAT else f"dense {codes}-bit", ceil(size * codes / 8))
    ways = [dense, *_sparse(value, bits)]
    parameters, macs_nonzero = size, round(macs * nonzeros / size)
    if factors and nonzeros == size and bits == _FLOAT:  # else the product is kept, and not its factors
        parameters = nonzeros = sum(prod(shape) for shape in factors)
        macs_nonzero = round(macs / size * parameters)
        ways.append(Storage("factors", 4 * parameters))
    best = min(ways, key=lambda way: way.nbytes)
    return {
        "shape": list(value.shape),
        "parameters": parameters,
        "nonzeros": nonzeros,
        "bits": bits,
        "form": best.form,
        "bytes": best.nbytes + tables,
        "macs_nonzero": macs_nonzero,
        "histogram": _histogram(value),
    }


def _factors(form: Transform | None) -> list[tuple[int, ...]]:
    """Shapes of the factors of a low-rank form."""
    return [] if form is None else [p.shape for p in form.parameters()]


def _sparse(value: np.ndarray, bits: int) -> Iterator[Storage]:
    """Codings that leave out zeros: a bit for every weight, or the distances between those that stay.

    Distances have a fixed number of bits; a longer way is gone by fillers, zeros that are stored (Han et al.
    2016, section 2).
    """
    positions = np.flatnonzero(value)
    if len(positions) == value.size:
        return
    yield Storage(f"bitmap, {bits}-bit", ceil(value.size / 8) + ceil(len(positions) * bits / 8))
    gaps = np.diff(positions, prepend=-1)
    for width in _GAPS:
        entries = len(positions) + int(((gaps - 1) >> width).sum())
        yield Storage(f"{width}-bit gaps, {bits}-bit", ceil(entries * (width + bits) / 8))


def _histogram(value: np.ndarray) -> dict[str, Any]:
    reach = float(np.abs(value).max(initial=0.0)) or 1.0
    counts, _ = np.histogram(value, BINS, (-reach, reach))
    return {"low": -reach, "high": reach, "counts": counts.tolist()}
