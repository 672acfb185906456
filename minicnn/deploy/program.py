"""A Graph as plain data and back: what stands in a file beside the arrays.

Ops are known by name, from a fixed list: a file can ask for nothing else. Weights that lie on a lattice are
written as whole numbers and the scale that they are multiplied by when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

import minicnn_kernels as kernels
from minicnn.creation import zeros
from minicnn.deploy.rule_checks import LARGEST
from minicnn.deploy.rules import OPS, RULES, Cost, ProgramError, check
from minicnn.functions.quantization import QuantizedConv2d, QuantizedLinear
from minicnn.grad_mode import no_grad
from minicnn.graph.constants import constant, host_array, run
from minicnn.graph.ir import Graph, Node, Value
from minicnn.tensor import Tensor

_MOST_NODES = 20_000


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

    Every node is checked (`rules.py`) and then run once, on zeros and by the reference, which tells the shape
    of its results. Raises ProgramError if that does not go.
    """
    try:
        with kernels.use("reference"), np.errstate(all="ignore"):
            return of_batch(_from_plain(program, arrays), 1)
    except ProgramError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as problem:
        raise ProgramError(f"program: {type(problem).__name__}: {problem}") from problem


def _from_plain(program: Any, arrays: Mapping[str, np.ndarray]) -> Graph:
    values = [_input(i, entry) for i, entry in enumerate(program["inputs"])]
    inputs = list(values)
    constants: dict[str, Value] = {}

    def read(x: Any) -> Any:
        if not isinstance(x, dict):
            return x
        if "value" in x:
            return values[_whole(x["value"], len(values) - 1, "the number of a value")]
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
    if not program["outputs"] or len(program["nodes"]) > _MOST_NODES:
        raise ProgramError(f"program: expected outputs and at most {_MOST_NODES} nodes")
    for entry in program["nodes"]:
        if entry["op"] not in OPS:
            raise ProgramError(f"program: unknown op {entry['op']!r}")
        operands = tuple(read(x) for x in entry["inputs"])
        options = {key: _read_option(value) for key, value in entry["options"].items()}
        count = _whole(entry["results"], 2, "the number of results")
        results = tuple(
            Value(f"%{len(values) + i}", "result", (), np.dtype(np.float32)) for i in range(count)
        )
        values.extend(results)
        nodes.append(Node(OPS[entry["op"]], operands, options, results, str(entry.get("layer", "")), False))
    outputs = [read(x) for x in program["outputs"]]
    if not all(isinstance(value, Value) for value in outputs):
        raise ProgramError("program: expected values as outputs")
    return Graph(inputs, outputs, nodes)


def _input(number: int, entry: Any) -> Value:
    shape = tuple(_whole(size, LARGEST, "a size") for size in entry["shape"])
    if entry["dtype"] not in ("float32", "float64") or len(shape) > 7 or not 0 < prod(shape) <= LARGEST:
        raise ProgramError(f"program: expected images of floats, got {shape} of {entry['dtype']!r}")
    return Value(f"input{number}", "input", (1, *shape), np.dtype(entry["dtype"]))


def _whole(value: Any, most: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ProgramError(f"program: {what} is {value!r}")
    return value


def of_batch(graph: Graph, size: int) -> Graph:
    """`graph` for batches of `size`: the same constants, and shapes as a run on zeros shows them.

    Raises ProgramError for a node that breaks a rule of its op.
    """
    new = {v: Value(v.name, v.kind, (size, *v.shape[1:]), v.dtype) for v in graph.inputs}
    inputs = list(new.values())
    known = {value: zeros(value.shape, dtype=value.dtype) for value in inputs}
    nodes: list[Node] = []
    cost = Cost()
    with no_grad():
        for before in graph.nodes:
            node = replace(
                before, inputs=tuple(new.get(x, x) if isinstance(x, Value) else x for x in before.inputs)
            )
            if node.op in RULES:
                cost = cost.plus(check(node))
                cost.limit(size)
            elif any(new[x].shape[1:] != x.shape[1:] for x in before.values if x in new):
                raise ProgramError(f"program: {node.name} of '{node.layer}' serves one image, not {size}")
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
    if steps.dtype.kind != "i" or scale.dtype.kind != "f" or scale.shape not in ((), steps.shape[:1]):
        raise ProgramError(
            f"program: steps {steps.dtype} {steps.shape} of scales {scale.dtype} {scale.shape}"
        )
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
