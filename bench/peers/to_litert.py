"""A portable network as a LiteRT (TensorFlow Lite) model, written straight into its file format.

The converters from PyTorch and ONNX want many packages, and old ones; the format itself is a table of
tensors and operators, described by the schema that comes with ai-edge-litert. Images are (N, H, W, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from bench.peers.portable import Layer

_NONE, _RELU = schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU
_TYPES = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32}


class _Writer:
    """A model that grows by tensors and operators."""

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [_object("Buffer")]  # the first is empty, for tensors without content
        self.codes: list[Any] = []
        self.operators: list[Any] = []
        self.named: dict[str, int] = {}

    def tensor(self, name: str, shape: Sequence[int], content: np.ndarray | None = None) -> int:
        """A tensor, float32 unless its content says otherwise; returns its index."""
        kind, buffer = schema.TensorType.FLOAT32, 0
        if content is not None:
            kind, buffer = _TYPES[content.dtype.name], len(self.buffers)
            data = np.frombuffer(np.ascontiguousarray(content).tobytes(), np.uint8)
            self.buffers.append(_object("Buffer", data=data))
        self.tensors.append(_object("Tensor", name=name, shape=list(shape), type=kind, buffer=buffer))
        self.named[name] = len(self.tensors) - 1
        return self.named[name]

    def constant(self, name: str, content: np.ndarray) -> int:
        return self.tensor(name, content.shape, content)

    def operator(self, op: str, inputs: list[int], output: int, options: str, **fields: Any) -> None:
        """Add `output = op(*inputs)`; options names the table of the schema that holds `fields`."""
        code = getattr(schema.BuiltinOperator, op)
        self.codes.append(_object("OperatorCode", builtinCode=code, deprecatedBuiltinCode=code, version=1))
        self.operators.append(
            _object(
                "Operator",
                opcodeIndex=len(self.codes) - 1,
                inputs=inputs,
                outputs=[output],
                builtinOptionsType=getattr(schema.BuiltinOptions, options),
                builtinOptions=_object(options, **fields),
            )
        )

    def finish(self, inputs: list[int], outputs: list[int]) -> bytes:
        graph = _object(
            "SubGraph", tensors=self.tensors, operators=self.operators, inputs=inputs, outputs=outputs
        )
        model = _object("Model", version=3, operatorCodes=self.codes, subgraphs=[graph], buffers=self.buffers)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def to_litert(layers: Sequence[Layer], image_shape: Sequence[int], batch: int) -> bytes:
    """A model of a fixed batch, from (N, H, W, C) to (N, classes)."""
    writer = _Writer()
    first = layers[0].inputs[0]
    writer.tensor(first, _channels_last(batch, image_shape))
    shapes = {first: list(image_shape)}
    for layer in layers:
        _write(writer, layer, shapes, batch)
        shapes[layer.output] = layer.shape
    return writer.finish([writer.named[first]], [writer.named[layers[-1].output]])


def _write(writer: _Writer, layer: Layer, shapes: dict[str, list[int]], batch: int) -> None:
    inputs = [writer.named[name] for name in layer.inputs]
    source = shapes[layer.inputs[0]]
    name, size, activation = layer.output, layer.options, _RELU if layer.relu else _NONE
    valid = {"padding": schema.Padding.VALID, "fusedActivationFunction": activation}

    def output() -> int:
        return writer.tensor(name, _channels_last(batch, layer.shape))

    def pad(source: int, amounts: list[tuple[int, int]], target: int) -> None:
        writer.operator(
            "PAD",
            [source, writer.constant(f"{name}/pads", np.array(amounts, np.int32))],
            target,
            "PadOptions",
        )

    match layer.kind:
        case "conv":
            assert layer.weight is not None
            assert layer.bias is not None
            around, stride = size["padding"], size["stride"]
            if around and stride == 1:  # 'same' is symmetric only here
                valid["padding"] = schema.Padding.SAME
            elif around:
                padded = [source[0], *(pixels + 2 * around for pixels in source[1:])]
                target = writer.tensor(f"{name}/padded", _channels_last(batch, padded))
                pad(inputs[0], [(0, 0), (around, around), (around, around), (0, 0)], target)
                inputs = [target]
            inputs.append(writer.constant(f"{name}/weight", layer.weight.transpose(0, 2, 3, 1)))
            inputs.append(writer.constant(f"{name}/bias", layer.bias))
            writer.operator(
                "CONV_2D", inputs, output(), "Conv2DOptions", strideW=stride, strideH=stride, **valid
            )
        case "dense":
            assert layer.weight is not None
            assert layer.bias is not None
            inputs.append(writer.constant(f"{name}/weight", layer.weight))
            inputs.append(writer.constant(f"{name}/bias", layer.bias))
            writer.operator(
                "FULLY_CONNECTED",
                inputs,
                output(),
                "FullyConnectedOptions",
                fusedActivationFunction=activation,
            )
        case "max_pool":
            window, stride = size["size"], size["stride"]
            writer.operator(
                "MAX_POOL_2D",
                inputs,
                output(),
                "Pool2DOptions",
                filterWidth=window,
                filterHeight=window,
                strideW=stride,
                strideH=stride,
                **valid,
            )
        case "add":
            writer.operator("ADD", inputs, output(), "AddOptions", fusedActivationFunction=activation)
        case "mean":
            axes = writer.constant(f"{name}/axes", np.array([1, 2], np.int32))
            writer.operator("MEAN", [*inputs, axes], output(), "ReducerOptions", keepDims=True)
        case "subsample":
            height, width = source[1:]
            bounds = ([0, 0, 0, 0], [batch, height, width, source[0]], [1, size["stride"], size["stride"], 1])
            for part, values in zip(("begin", "end", "strides"), bounds, strict=True):
                inputs.append(writer.constant(f"{name}/{part}", np.array(values, np.int32)))
            writer.operator("STRIDED_SLICE", inputs, output(), "StridedSliceOptions")
        case "pad_channels":
            pad(inputs[0], [(0, 0), (0, 0), (0, 0), (size["before"], size["after"])], output())
        case "flatten":  # channels first, for the dense layer behind it was trained so
            shape = [batch, *layer.shape]
            if source[1:] != [1, 1]:
                turned = writer.tensor(f"{name}/channels first", [batch, *source])
                order = writer.constant(f"{name}/order", np.array([0, 3, 1, 2], np.int32))
                writer.operator("TRANSPOSE", [*inputs, order], turned, "TransposeOptions")
                inputs = [turned]
            writer.operator("RESHAPE", inputs, output(), "ReshapeOptions", newShape=shape)
        case _:
            raise ValueError(f"to_litert: unknown layer {layer.kind!r}")


def _channels_last(batch: int, shape: Sequence[int]) -> list[int]:
    channels, *pixels = shape
    return [batch, *pixels, channels]


def _object(table: str, **fields: Any) -> Any:
    """A table of the schema with some fields set."""
    made = getattr(schema, table + "T")()
    for name, value in fields.items():
        if not hasattr(made, name):
            raise AttributeError(f"the schema's {table} has no field {name!r}")
        setattr(made, name, value)
    return made
