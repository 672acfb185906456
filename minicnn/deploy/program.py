"""A Graph as plain data and back: what stands in a file beside the arrays.

Ops are known by name, from a fixed list: a file can ask for nothing else. Weights that lie on a lattice are
written as whole numbers and the scale that they are multiplied by when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

import minicnn_kernels as kernels
from minicnn.creation import zeros
from minicnn.function import Function
from minicnn.functions import (
    activation,
    arithmetic,
    conv,
    elementwise,
    indexing,
    joining,
    linear,
    moving,
    normalization,
    pooling,
    quantization,
    reduction,
    shape,
)
from minicnn.functions.quantization import QuantizedConv2d, QuantizedLinear
from minicnn.grad_mode import no_grad
from minicnn.graph.constants import constant, host_array, run
from minicnn.graph.ir import Graph, Node, Value
from minicnn.tensor import Tensor

OPS: dict[str, type[Function]] = {
    name: value
    for family in (
        activation, arithmetic, conv, elementwise, indexing, joining, linear, moving, normalization, pooling,
        quantization, reduction, shape,
    )
    for name, value in vars(family).items()
    if isinstance(value, type) and issubclass(value, Function) and not value.changes and value is not Function
}  # fmt: skip
"""Every op that a program may have, by name."""


class ProgramError(ValueError):
    """Plain data that is no program, or a Graph that cannot be written as one."""


def to_plain(graph: Graph) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(program, arrays) for a Graph whose weights are constants (see `minicnn.graph.fold_constants`).

    Raises ProgramError for ops and options that files do not hold.
    """
    numbers: dict[Value, int] = {value: i for i, value in enumerate(graph.inputs)}
    arrays: dict[str, np.ndarray] = {}
    names: dict[Value, str] = {}

    def name_of(value: Value) -> str:
        if value not in names:
            name, i = value.name, 1
            while name in arrays:
                name, i = f"{value.name}.{i}", i + 1
            names[value], arrays[name] = name, host_array(value)
        return names[value]

    def written(x: Any) -> Any:
        if not isinstance(x, Value):
            return _plain(x)
        if x.kind == "constant":
            return {"array": name_of(x)}
        if x not in numbers:
            raise ProgramError(f"program: {x} is no constant; fold_constants comes first")
        return {"value": numbers[x]}

    nodes = []
    for node in graph.nodes:
        if OPS.get(node.name) is not node.op:
            raise ProgramError(f"program: files do not hold the op {node.name} of layer '{node.layer}'")
        inputs = [written(x) for x in node.inputs]
        if node.op in (QuantizedConv2d, QuantizedLinear):
            inputs[1] |= {"steps_of": inputs[4]["array"]}
            arrays[inputs[1]["array"]] = _steps(host_array(node.inputs[1]), host_array(node.inputs[4]))
        for value in node.outputs:
            numbers[value] = len(numbers)
        options = {key: _plain(value) for key, value in node.options.items()}
        entry = {"op": node.name, "inputs": inputs, "options": options, "results": len(node.outputs)}
        nodes.append(entry | ({"layer": node.layer} if node.layer else {}))
    inputs = [{"shape": list(value.shape[1:]), "dtype": value.dtype.name} for value in graph.inputs]
    return {"inputs": inputs, "nodes": nodes, "outputs": [written(v) for v in graph.outputs]}, arrays


def from_plain(program: Any, arrays: Mapping[str, np.ndarray]) -> Graph:
    """The Graph that `to_plain` wrote; the size of the batch is written as 1.

    It is run once, on zeros, which tells the shapes of all results. Raises ProgramError if that does not go.
    """
    try:
        return of_batch(_from_plain(program, arrays), 1)
    except ProgramError:
        raise
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, RuntimeError) as problem:
        raise ProgramError(f"program: {type(problem).__name__}: {problem}") from problem


def _from_plain(program: Any, arrays: Mapping[str, np.ndarray]) -> Graph:
    values: list[Value] = []
    for i, entry in enumerate(program["inputs"]):
        values.append(Value(f"input{i}", "input", (1, *map(int, entry["shape"])), np.dtype(entry["dtype"])))
    inputs = list(values)
    constants: dict[str, Value] = {}

    def read(x: Any) -> Any:
        if not isinstance(x, dict):
            return x
        if "value" in x:
            return values[x["value"]]
        if "array" in x:
            name = x["array"]
            if name not in constants:
                array = arrays[name]
                if "steps_of" in x:
                    array = _from_steps(array, arrays[x["steps_of"]])
                constants[name] = constant(name, Tensor(array))
            return constants[name]
        return _read_option(x)

    nodes = []
    for entry in program["nodes"]:
        if entry["op"] not in OPS:
            raise ProgramError(f"program: unknown op {entry['op']!r}")
        operands = tuple(read(x) for x in entry["inputs"])
        options = {key: _read_option(value) for key, value in entry["options"].items()}
        results = tuple(
            Value(f"%{len(values) + i}", "result", (), np.dtype(np.float32)) for i in range(entry["results"])
        )
        values.extend(results)
        nodes.append(Node(OPS[entry["op"]], operands, options, results, str(entry.get("layer", "")), False))
    return Graph(inputs, [read(x) for x in program["outputs"]], nodes)


def of_batch(graph: Graph, size: int) -> Graph:
    """`graph` for batches of `size`: the same constants, and shapes as a run on zeros shows them."""
    new = {v: Value(v.name, v.kind, (size, *v.shape[1:]), v.dtype) for v in graph.inputs}
    inputs = list(new.values())
    known = {value: zeros(value.shape, dtype=value.dtype) for value in inputs}
    nodes = []
    with no_grad():
        for node in graph.nodes:
            node = replace(
                node, inputs=tuple(new.get(x, x) if isinstance(x, Value) else x for x in node.inputs)
            )
            results = run(node, *(known[x] for x in node.values if x.kind != "constant"))
            for old, tensor in zip(node.outputs, results, strict=True):
                new[old] = Value(old.name, old.kind, tensor.shape, tensor.dtype)
                known[new[old]] = tensor
            nodes.append(replace(node, outputs=tuple(new[old] for old in node.outputs)))
    return Graph(inputs, [new.get(value, value) for value in graph.outputs], nodes)


def _steps(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Weights on a lattice as whole numbers of the smallest type that holds them."""
    k = kernels.backend("reference")
    axis = None if scale.ndim == 0 else 0
    limit = 2**15 - 1
    zero = np.zeros(scale.shape, np.int32)
    steps = k.quantize(weight, scale, zero, -limit, limit, axis, np.int16)
    if not np.array_equal(_from_steps(steps, scale), weight):
        raise ProgramError("program: weights are not on the lattice of their scale; is the model quantized?")
    return steps.astype(np.int8) if not steps.size or np.abs(steps).max() < 128 else steps


def _from_steps(steps: np.ndarray, scale: np.ndarray) -> np.ndarray:
    zero = np.zeros(scale.shape, np.int32)
    return kernels.backend("reference").dequantize(steps, scale, zero, None if scale.ndim == 0 else 0)


def _plain(value: Any) -> Any:
    """Options as JSON: numbers, words and None as they are, tuples and slices marked."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return {"tuple": [_plain(entry) for entry in value]}
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    if value is Ellipsis:
        return {"ellipsis": True}
    raise ProgramError(f"program: files do not hold options like {value!r}")


def _read_option(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_read_option(entry) for entry in value["tuple"])
    if "slice" in value:
        return slice(*value["slice"])
    if "ellipsis" in value:
        return Ellipsis
    raise ProgramError(f"program: an option that makes no sense: {value!r}")
