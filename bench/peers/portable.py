"""A network as plain layers with weights, which any inference engine's format can be written from.

`from_minicnn` reads it off the Graph of a minicnn model in evaluation mode: batch norm is folded into the
convolution before it (in float64), ReLU belongs to the layer before it. `prepare` writes one file per net
with those layers, the model's state_dict, images, and the outputs in float64: what every engine starts from.
Run as a program it does that in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.nets import NETS, random_batch

BATCH = 64


@dataclass
class Layer:
    """One step of a network: `output = kind(*inputs)`.

    kind: 'conv' (options stride, padding), 'dense', 'max_pool' (size, stride), 'add', 'subsample' (stride),
    'pad_channels' (before, after), 'mean' over all pixels, 'flatten' (channels first, as in PyTorch).
    shape: of the output for one image, channels first. weight: (O, C, kh, kw) or (out, in); bias: (O,).
    """

    kind: str
    inputs: list[str]
    output: str
    shape: list[int]
    options: dict[str, Any] = field(default_factory=dict)
    relu: bool = False
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None


@dataclass
class Sample:
    """What `prepare` wrote: a network and what it gives.

    images: (64, C, H, W) float32. expected: (64, 10) float64. state: a state_dict of arrays.
    """

    layers: list[Layer]
    images: np.ndarray
    expected: np.ndarray
    state: dict[str, np.ndarray]


def prepare(folder: Path, nets: Sequence[str]) -> None:
    """Write `NET.npz` for every net into `folder`, in a process that ends with it."""
    subprocess.run([sys.executable, "-m", "bench.peers.portable", str(folder), *nets], check=True)


def load(path: Path) -> Sample:
    """Read what `prepare` wrote."""
    with np.load(path) as arrays:
        layers = [Layer(**entry) for entry in json.loads(str(arrays["layers"]))]
        for i, layer in enumerate(layers):
            if f"{i}.weight" in arrays:
                layer.weight, layer.bias = arrays[f"{i}.weight"], arrays[f"{i}.bias"]
        state = {name[6:]: arrays[name] for name in arrays if name.startswith("state/")}
        return Sample(layers, arrays["images"], arrays["expected"], state)


def save(path: Path, sample: Sample) -> None:
    """Write a Sample as npz, without pickle."""
    arrays: dict[str, Any] = {"images": sample.images, "expected": sample.expected}
    arrays |= {f"state/{name}": array for name, array in sample.state.items()}
    entries = []
    for i, layer in enumerate(sample.layers):
        if layer.weight is not None and layer.bias is not None:
            arrays |= {f"{i}.weight": layer.weight, f"{i}.bias": layer.bias}
        entries.append({**asdict(layer), "weight": None, "bias": None})
    np.savez(path, layers=np.array(json.dumps(entries)), **arrays)


def make_sample(net: str) -> Sample:
    """A net with random weights and batch statistics, its layers, and its outputs computed in float64."""
    import minicnn
    from minicnn import nn

    minicnn.manual_seed(0)
    model = NETS[net].build(nn).eval()
    rng = np.random.default_rng(0)
    for name, tensor in model.state_dict().items():  # a fresh batch norm would be folded into nothing
        if name.endswith("running_mean"):
            tensor.data[...] = rng.normal(0, 0.2, tensor.shape)
        elif name.endswith("running_var"):
            tensor.data[...] = rng.uniform(0.5, 2, tensor.shape)
    images, _ = random_batch(net, BATCH)
    layers = from_minicnn(model, images)
    state = {name: np.array(tensor.data) for name, tensor in model.state_dict().items()}
    with minicnn.no_grad():  # float64 always goes to the reference back end
        expected = model.double()(minicnn.from_numpy(images.astype(np.float64))).numpy()
    return Sample(layers, images, expected, state)


def from_minicnn(model: Any, images: np.ndarray) -> list[Layer]:
    """The layers of a model in evaluation mode. Raises ValueError for an op that has no place here."""
    import minicnn
    from minicnn import graph

    with minicnn.no_grad():
        traced = graph.trace(model, minicnn.from_numpy(images))
    readers = traced.consumers()
    layers: dict[str, Layer] = {}
    names: dict[
        Any, str
    ] = {}  # what a value is called here: ops that are absorbed pass their input's name on
    for node in traced.nodes:
        inputs = [names.get(value, value.name) for value in node.values if value.kind in ("input", "result")]
        before = layers.get(inputs[0])
        if node.name in ("ReLU", "BatchNormInference"):
            if before is None or before.relu or len(readers[node.values[0]]) > 1:
                raise ValueError(f"{node.name} at {node.layer!r} does not follow a layer of its own")
            if node.name == "ReLU":
                before.relu = True
            else:
                _fold(before, node.inputs[1:], node.options["eps"])
            names[node.output] = inputs[0]
            continue
        layers[node.output.name] = _layer(node, inputs)
    for layer in layers.values():
        if layer.weight is not None and layer.bias is not None:
            layer.weight, layer.bias = (a.astype(np.float32) for a in (layer.weight, layer.bias))
    return list(layers.values())


def _layer(node: Any, inputs: list[str]) -> Layer:
    """The layer that one op is, with its weights in float64."""
    given, options = node.options, {}
    match node.name:
        case "Conv2d" if given["dilation"] == (1, 1) and given["groups"] == 1:
            kind, options = "conv", {"stride": given["stride"][0], "padding": given["padding"][0]}
        case "Linear":
            kind = "dense"
        case "MaxPool2d":
            kind, options = "max_pool", {"size": given["kernel_size"][0], "stride": given["stride"][0]}
        case "Add":
            kind = "add"
        case "AdaptiveAvgPool2d" if given["output_size"] == (1, 1):
            kind = "mean"
        case "Reshape" | "Flatten":
            kind = "flatten"
        case "GetItem":  # x[:, :, ::2, ::2], the only index in these nets
            kind, options = "subsample", {"stride": given["index"][-1].step}
        case "Pad":
            before, after = given["pad"][1]
            kind, options = "pad_channels", {"before": before, "after": after}
        case _:
            raise ValueError(f"{node.name} at {node.layer!r} has no place among the portable layers")
    layer = Layer(kind, inputs, node.output.name, list(node.output.shape[1:]), options)
    if kind in ("conv", "dense"):
        weight, bias = node.inputs[1:]
        layer.weight = _float64(weight)
        layer.bias = np.zeros(layer.weight.shape[0]) if bias is None else _float64(bias)
    return layer


def _fold(layer: Layer, parameters: Sequence[Any], eps: float) -> None:
    """Batch norm with given statistics becomes part of the convolution before it."""
    assert layer.weight is not None
    assert layer.bias is not None
    gamma, beta, mean, variance = map(_float64, parameters)
    scale = gamma / np.sqrt(variance + eps)
    layer.weight = layer.weight * scale[:, None, None, None]
    layer.bias = (layer.bias - mean) * scale + beta


def _float64(value: Any) -> np.ndarray:
    return np.asarray(value.tensor.data, np.float64)


def main() -> None:
    """`python -m bench.peers.portable FOLDER NET...`"""
    folder, *nets = sys.argv[1:]
    for net in nets:
        save(Path(folder) / f"{net}.npz", make_sample(net))


if __name__ == "__main__":
    main()
