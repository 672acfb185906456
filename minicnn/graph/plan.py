"""Plan: a Graph made ready to run again and again.

Every value has a slot; a slot is emptied after its last reader, so that its memory is back in the pool when
the next result asks for some. Parameters and buffers are looked up in the model at every run: what was
replaced, loaded or changed in between is seen. Each step runs through `Function.apply`, so that gradients,
hooks on parameters and version checks are those of any other tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minicnn import scope
from minicnn.grad_mode import is_grad_enabled, set_grad_enabled
from minicnn.graph.ir import Graph, Node, Value
from minicnn.tensor import Tensor


@dataclass(slots=True)
class _Step:
    """One node: slots it reads (or a plain argument), slots it fills, slots that nobody reads after it."""

    node: Node
    arguments: tuple[tuple[bool, Any], ...]  # (True, slot) or (False, plain value)
    results: tuple[int, ...]
    done: tuple[int, ...]


class Plan:
    """Runs `graph`, which was traced from `model`, on inputs of the shapes that it was traced with."""

    def __init__(self, graph: Graph, model: Any) -> None:
        self.graph = graph
        slots: dict[Value, int] = {}
        for value in graph.inputs:
            slots[value] = len(slots)
        self._state: list[tuple[int, Callable[[], Tensor]]] = []
        for node in graph.nodes:
            for value in node.values:
                if value not in slots and value.kind != "result":
                    slots[value] = len(slots)
                    self._state.append((slots[value], _lookup(value, model)))
            for value in node.outputs:
                slots[value] = len(slots)
        for value in graph.outputs:
            if value not in slots:  # the model returned a parameter or a constant as it is
                slots[value] = len(slots)
                self._state.append((slots[value], _lookup(value, model)))
        self._size = len(slots)
        self._inputs = tuple(slots[value] for value in graph.inputs)
        self._outputs = tuple(slots[value] for value in graph.outputs)
        self._steps = [_step(node, slots) for node in graph.nodes]
        self._empty_after_last_use()

    def _empty_after_last_use(self) -> None:
        seen = set(self._outputs)
        for step in reversed(self._steps):
            touched = {slot for is_slot, slot in step.arguments if is_slot} | set(step.results)
            step.done = tuple(sorted(touched - seen))
            seen |= touched

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The results for these inputs, in the order of graph.outputs."""
        values: list[Any] = [None] * self._size
        for slot, tensor in zip(self._inputs, inputs, strict=True):
            values[slot] = tensor
        for slot, lookup in self._state:
            values[slot] = lookup()
        recording = is_grad_enabled()
        for step in self._steps:
            node = step.node
            arguments = [values[x] if is_slot else x for is_slot, x in step.arguments]
            scope.push(node.name, node.layer)
            try:
                if recording and not node.differentiated:
                    with set_grad_enabled(False):
                        result = node.op.apply(*arguments, **node.options)
                else:
                    result = node.op.apply(*arguments, **node.options)
            finally:
                scope.pop()
            del arguments
            if len(step.results) == 1:
                values[step.results[0]] = result
            else:
                for slot, part in zip(step.results, result, strict=True):
                    values[slot] = part
            del result
            for slot in step.done:
                values[slot] = None
        return tuple(values[slot] for slot in self._outputs)


def _step(node: Node, slots: dict[Value, int]) -> _Step:
    arguments = tuple((True, slots[x]) if isinstance(x, Value) else (False, x) for x in node.inputs)
    return _Step(node, arguments, tuple(slots[value] for value in node.outputs), ())


def _lookup(value: Value, model: Any) -> Callable[[], Tensor]:
    """How to find the present tensor of a parameter, buffer or constant."""
    if value.kind in ("parameter", "buffer"):
        path, _, name = value.name.rpartition(".")
        owner = model.get_submodule(path)
        registered = owner._parameters if value.kind == "parameter" else owner._buffers
        return lambda: registered[name]
    tensor = value.tensor
    assert tensor is not None
    return lambda: tensor
