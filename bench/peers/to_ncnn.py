"""A portable network in ncnn's two files: a text of layers, and their weights one after the other.

See 'param and model file structure' in ncnn's documentation. ncnn runs one image at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.peers.portable import Layer

_MAGIC = "7767517"


def to_ncnn(layers: Sequence[Layer], folder: Path) -> tuple[Path, Path]:
    """Write the files into `folder`; blobs 'input' and 'output'. Returns their paths, text and weights."""
    lines: list[list[str]] = []
    blobs: set[str] = set()
    weights: list[np.ndarray] = []
    readers = Counter(name for layer in layers for name in layer.inputs)
    taken: Counter[str] = Counter()

    def line(kind: str, name: str, inputs: Sequence[str], outputs: Sequence[str], *options: str) -> None:
        blobs.update(outputs)
        lines.append([kind, name, str(len(inputs)), str(len(outputs)), *inputs, *outputs, *options])

    def split(name: str) -> None:
        """Every blob has one reader: one that several want is split."""
        if readers[name] > 1:
            line("Split", f"{name}/split", [name], [f"{name}/{i}" for i in range(readers[name])])

    def take(name: str) -> str:
        if readers[name] == 1:
            return name
        taken[name] += 1
        return f"{name}/{taken[name] - 1}"

    first = layers[0].inputs[0]
    line("Input", "images", [], [first])
    split(first)
    for layer in layers:
        inputs, size = [take(name) for name in layer.inputs], layer.options
        relu = "9=1" if layer.relu else "9=0"
        output = "output" if layer is layers[-1] else layer.output
        if layer.weight is not None and layer.bias is not None:
            count = layer.weight.size
            weights += [np.zeros(1, np.float32), layer.weight, layer.bias]  # zero: plain float32 follows
        match layer.kind:
            case "conv":
                assert layer.weight is not None
                outputs, _, height, width = layer.weight.shape
                options = [f"0={outputs}", f"1={width}", f"11={height}", f"3={size['stride']}"]
                options += [f"4={size['padding']}", "5=1", f"6={count}", relu]
                line("Convolution", layer.output, inputs, [output], *options)
            case "dense":
                options = [f"0={layer.shape[0]}", "1=1", f"2={count}", relu]
                line("InnerProduct", layer.output, inputs, [output], *options)
            case "max_pool":
                options = ["0=0", f"1={size['size']}", f"2={size['stride']}", "5=1"]
                line("Pooling", layer.output, inputs, [output], *options)
            case "subsample":
                line("Pooling", layer.output, inputs, [output], "0=0", "1=1", f"2={size['stride']}", "5=1")
            case "pad_channels":
                options = ["0=0", "1=0", "2=0", "3=0", f"7={size['before']}", f"8={size['after']}"]
                line("Padding", layer.output, inputs, [output], *options)
            case "add":
                between = f"{layer.output}/sum" if layer.relu else output
                line("BinaryOp", f"{layer.output}/add", inputs, [between], "0=0")
                if layer.relu:
                    line("ReLU", layer.output, [between], [output])
            case "mean":
                line("Pooling", layer.output, inputs, [output], "0=1", "4=1")
            case "flatten":
                line("Flatten", layer.output, inputs, [output])
            case _:
                raise ValueError(f"to_ncnn: unknown layer {layer.kind!r}")
        split(layer.output)
    text, binary = folder / "net.param", folder / "net.bin"
    head = [_MAGIC, f"{len(lines)} {len(blobs)}"]
    text.write_text("\n".join([*head, *(" ".join(words) for words in lines)]) + "\n")
    binary.write_bytes(b"".join(np.ascontiguousarray(array).tobytes() for array in weights))
    return text, binary
