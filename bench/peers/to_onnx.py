"""A portable network as an ONNX model: what ONNX Runtime and OpenVINO read. Needs the package onnx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from bench.peers.portable import Layer

_OPSET, _IR_VERSION = 17, 8  # old enough for every runtime of the last years


def to_onnx(layers: Sequence[Layer], image_shape: Sequence[int], batch: int) -> bytes:
    """A model of a fixed batch, from 'input' (N, C, H, W) to 'output' (N, classes)."""
    nodes, constants = [], []

    def constant(name: str, array: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    for layer in layers:
        output = layer.output + ("/sum" if layer.relu else "")
        inputs, size = list(layer.inputs), layer.options
        options: dict[str, Any] = {}
        match layer.kind:
            case "conv" | "dense":
                assert layer.weight is not None
                assert layer.bias is not None
                inputs += [constant(f"{layer.output}/weight", layer.weight)]
                inputs += [constant(f"{layer.output}/bias", layer.bias)]
                op, options = "Gemm", {"transB": 1}
                if layer.kind == "conv":
                    op, options = "Conv", {"strides": [size["stride"]] * 2, "pads": [size["padding"]] * 4}
            case "max_pool":
                op = "MaxPool"
                options = {"kernel_shape": [size["size"]] * 2, "strides": [size["stride"]] * 2}
            case "add":
                op = "Add"
            case "mean":
                op = "GlobalAveragePool"
            case "flatten":
                op = "Flatten"
            case "subsample":
                op, far = "Slice", np.iinfo(np.int64).max
                bounds = ([0, 0], [far, far], [2, 3], [size["stride"]] * 2)
                for name, values in zip(("starts", "ends", "axes", "steps"), bounds, strict=True):
                    inputs.append(constant(f"{layer.output}/{name}", np.array(values, np.int64)))
            case "pad_channels":
                op = "Pad"
                pads = np.array([0, size["before"], 0, 0, 0, size["after"], 0, 0], np.int64)
                inputs.append(constant(f"{layer.output}/pads", pads))
            case _:
                raise ValueError(f"to_onnx: unknown layer {layer.kind!r}")
        nodes.append(helper.make_node(op, inputs, [output], **options))
        if layer.relu:
            nodes.append(helper.make_node("Relu", [output], [layer.output]))

    def images(name: str, shape: Sequence[int]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])

    last = layers[-1]
    nodes.append(helper.make_node("Identity", [last.output], ["output"]))
    graph = helper.make_graph(
        nodes, "net", [images("input", image_shape)], [images("output", last.shape)], constants
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString()
