"""A deployed Graph as an ONNX model of QLinear ops: a witness from outside for the integers in it.

Written from the Graph of fake-quantized ops that a file holds, not from the integer ops that run:
convolutions are QLinearConv with the model's own scales, dense layers QLinearConv of 1x1 images, the last of
them MatMulInteger, additions and concatenations DequantizeLinear, the op in floats, QuantizeLinear. Average
pooling is, by our rule, a depthwise QLinearConv whose weights are 1 and whose scale is 1 / divisor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn.deploy.integers import to_integers
from minicnn.deploy.lattice import Lattice, counts, whole_weights
from minicnn.graph.constants import host_array
from minicnn.graph.ir import Graph, Node, Value


class OnnxModel:
    """The ONNX model of a Graph; `tensors` names the one that stands for each value on a lattice."""

    def __init__(self, onnx: Any, graph: Graph) -> None:
        self.onnx, self.graph = onnx, graph
        self.lattices = {value: lattice for value, (_, lattice) in to_integers(graph).stored.items()}
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.tensors: dict[Value, str] = {}
        self.floats: dict[Value, str] = {graph.inputs[0]: "images"}
        for node in graph.nodes:
            getattr(self, f"_{node.name.lower()}")(node)

    def session(self, runtime: Any) -> Any:
        """An ONNX Runtime session, nothing optimized away."""
        h, types = self.onnx.helper, self.onnx.TensorProto
        shape = ["N", *self.graph.inputs[0].shape[1:]]
        outputs = [
            h.make_tensor_value_info(n, types.UINT8, None) for n in dict.fromkeys(self.tensors.values())
        ]
        result = h.make_tensor_value_info(self.floats[self.graph.outputs[0]], types.FLOAT, None)
        graph = h.make_graph(
            self.nodes, "deployed", [h.make_tensor_value_info("images", types.FLOAT, shape)],
            [result, *outputs],
            [self.onnx.numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )  # fmt: skip
        model = h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8)
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    # -- one method per op of the Graph -----------------------------------------------------------

    def _fakequantize(self, node: Node) -> None:
        x, y = node.inputs[0], node.output
        lattice = self.lattices[y]
        if x in self.tensors and self.lattices[x].same_points(lattice):
            self.tensors[y] = self.tensors[x]
            return
        self.tensors[y] = self._quantized(self._float(x), lattice, y.name)

    def _quantizedconv2d(self, node: Node) -> None:
        x, weight, bias, _, w_scale, y_scale, _ = node.inputs
        steps = whole_weights(weight, w_scale)
        assert steps is not None
        assert y_scale is not None, "an integer convolution whose result is float32"
        bias_steps, _ = counts(bias, node.inputs[3], host_array(w_scale), y_scale, len(steps))
        options = node.options
        self.tensors[node.output] = self._qlinearconv(
            self.tensors[x], x, steps, host_array(w_scale), bias_steps, node.output,
            strides=options["stride"], pads=(*options["padding"], *options["padding"]),
            dilations=options["dilation"], group=options["groups"],
        )  # fmt: skip

    def _quantizedlinear(self, node: Node) -> None:
        x, weight, bias, x_scale, w_scale, y_scale, _ = node.inputs
        steps = whole_weights(weight, w_scale)
        assert steps is not None
        bias_steps, unit = counts(bias, x_scale, host_array(w_scale), y_scale, len(steps))
        if y_scale is None:
            zero = self._constant(np.uint8(self.lattices[x].zero_point), node.output.name)
            transposed = self._constant(np.ascontiguousarray(steps.T), node.output.name)
            acc = self._node("MatMulInteger", [self.tensors[x], transposed, zero], node.output.name)
            if bias_steps is not None:
                acc = self._node("Add", [acc, self._constant(bias_steps, node.output.name)], node.output.name)
            acc = self._node("Cast", [acc], node.output.name, to=self.onnx.TensorProto.FLOAT)
            self.floats[node.output] = self._node(
                "Mul", [acc, self._constant(unit, "unit")], node.output.name
            )
            return
        images = self._reshape_to(self.tensors[x], (-1, steps.shape[1], 1, 1), node.output.name)
        y = self._qlinearconv(
            images, x, steps[:, :, None, None], host_array(w_scale), bias_steps, node.output
        )
        self.tensors[node.output] = self._reshape_to(y, (-1, len(steps)), node.output.name)

    def _quantizedavgpool2d(self, node: Node) -> None:
        x, options = node.inputs[0], node.options
        channels = x.shape[1]
        ones = np.ones((channels, 1, *options["kernel_size"]), np.int8)
        share = np.float32(1) / np.float32(options["divisor"])
        self.tensors[node.output] = self._qlinearconv(
            self.tensors[x], x, ones, np.asarray(share), None, node.output, group=channels,
            strides=options["stride"], pads=(*options["padding"], *options["padding"]),
        )  # fmt: skip

    def _relu(self, node: Node) -> None:
        x = node.inputs[0]
        if x in self.tensors:
            zero = self._constant(np.uint8(self.lattices[x].zero_point), node.output.name)
            self.tensors[node.output] = self._node("Clip", [self.tensors[x], zero], node.output.name)
        else:
            self.floats[node.output] = self._node("Relu", [self._float(x)], node.output.name)

    def _maxpool2d(self, node: Node) -> None:
        options = node.options
        self.tensors[node.output] = self._node(
            "MaxPool", [self.tensors[node.inputs[0]]], node.output.name, kernel_shape=options["kernel_size"],
            strides=options["stride"], pads=(*options["padding"], *options["padding"]),
        )  # fmt: skip

    def _reshape(self, node: Node) -> None:
        shape = (-1, *node.output.shape[1:])
        self.tensors[node.output] = self._reshape_to(self.tensors[node.inputs[0]], shape, node.output.name)

    def _add(self, node: Node) -> None:
        self.floats[node.output] = self._node("Add", list(map(self._float, node.inputs)), node.output.name)

    def _cat(self, node: Node) -> None:
        parts = list(map(self._float, node.inputs))
        self.floats[node.output] = self._node("Concat", parts, node.output.name, axis=node.options["dim"])

    # -- pieces -----------------------------------------------------------------------------------

    def _float(self, value: Value) -> str:
        if value not in self.floats:
            lattice = self.lattices[value]
            inputs = [self.tensors[value], *self._lattice(lattice, value.name)]
            self.floats[value] = self._node("DequantizeLinear", inputs, value.name)
        return self.floats[value]

    def _quantized(self, x: str, lattice: Lattice, name: str) -> str:
        q = self._node("QuantizeLinear", [x, *self._lattice(lattice, name)], name)
        return self._within(q, lattice, name)

    def _within(self, q: str, lattice: Lattice, name: str) -> str:
        """uint8 saturates at 0 and 255 by itself."""
        if (lattice.low, lattice.high) == (0, 255):
            return q
        bounds = [self._constant(np.uint8(bound), name) for bound in (lattice.low, lattice.high)]
        return self._node("Clip", [q, *bounds], name)

    def _qlinearconv(
        self,
        x: str,
        value: Value,
        steps: np.ndarray,
        w_scale: np.ndarray,
        bias: Any,
        result: Value,
        **options: Any,
    ) -> str:
        name = result.name
        weight = [self._constant(array, name) for array in (steps, w_scale, np.zeros(w_scale.shape, np.int8))]
        inputs = [x, *self._lattice(self.lattices[value], name), *weight]
        inputs += self._lattice(self.lattices[result], name)
        inputs += [] if bias is None else [self._constant(bias, name)]
        return self._within(self._node("QLinearConv", inputs, name, **options), self.lattices[result], name)

    def _lattice(self, lattice: Lattice, name: str) -> list[str]:
        return [self._constant(lattice.scale, name), self._constant(np.uint8(lattice.zero_point), name)]

    def _reshape_to(self, x: str, shape: tuple[int, ...], name: str) -> str:
        return self._node("Reshape", [x, self._constant(np.array(shape, np.int64), name)], name)

    def _constant(self, array: Any, name: str) -> str:
        label = f"{name} constant {len(self.constants)}"
        self.constants[label] = np.asarray(array)
        return label

    def _node(self, op: str, inputs: list[str], name: str, **options: Any) -> str:
        result = f"{name} {op} {len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [result], **options))
        return result
