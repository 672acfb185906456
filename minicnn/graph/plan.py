"""Plan: a Graph made ready to run again and again.

Every value has a slot; a slot is emptied after its last reader, so that its memory is back in the pool when
the next result asks for some. Parameters and buffers are looked up in the model at every run: what was
replaced, loaded or changed in between is seen. Each step runs through `Function.apply`, so that gradients,
hooks on parameters and version checks are those of any other tensor. Where no gradients are recorded, nodes
in a row run as one, see `chains.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from minicnn import scope
from minicnn.function import is_anomaly_detected
from minicnn.grad_mode import is_grad_enabled, set_grad_enabled
from minicnn.graph.chains import Chain, find_chains
from minicnn.graph.ir import Graph, Node, Value
from minicnn.tensor import Tensor


@dataclass(slots=True)
class _Step:
    """One node: slots it reads (or a plain argument), slots it fills, slots that nobody reads after it."""

    node: Node
    arguments: tuple[tuple[bool, Any], ...]  # (True, slot) or (False, plain value)
    results: tuple[int, ...]
    done: tuple[int, ...]


class _Group(NamedTuple):
    """Steps that belong together: a chain, whose parameters lie in the slots `tensors`, or a single one."""

    steps: list[_Step]
    chain: Chain | None
    tensors: list[int]


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
        self._groups = self._grouped(slots)
        self._empty_after_last_use()

    def _grouped(self, slots: dict[Value, int]) -> list[_Group]:
        """Chains where their first node stands, and every other node by itself."""
        chains = find_chains(self.graph)
        starts = {chain[0]: chain for chain in chains}
        inside = {node for chain in chains for node in chain[1:]}
        groups = []
        for node in self.graph.nodes:
            if node in starts:
                chain = Chain(starts[node])
                steps = [_step(part, slots) for part in chain.nodes]
                groups.append(_Group(steps, chain, [slots[value] for value in chain.values]))
            elif node not in inside:
                groups.append(_Group([_step(node, slots)], None, []))
        return groups

    def _empty_after_last_use(self) -> None:
        seen = set(self._outputs)
        for group in reversed(self._groups):
            for step in reversed(group.steps):
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
        chained = not recording and not is_anomaly_detected()
        for group in self._groups:
            if not (chained and group.chain is not None and _run_chain(group, values)):
                for step in group.steps:
                    _run_step(step, values, recording)
        return tuple(values[slot] for slot in self._outputs)


def _run_chain(group: _Group, values: list[Any]) -> bool:
    """Fill the slot of the last result, if the chain can run as one, and empty those that nobody reads."""
    assert group.chain is not None
    _, source = group.steps[0].arguments[0]
    result = group.chain.run(values[source].data, [values[slot] for slot in group.tensors])
    if result is None:
        return False
    values[group.steps[-1].results[0]] = Tensor(result)
    for step in group.steps:
        for slot in step.done:
            values[slot] = None
    return True


def _run_step(step: _Step, values: list[Any], recording: bool) -> None:
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
