"""How long every result of a Graph lives, and which results lie in the same memory, one after the other.

This is what a plan needs when it runs node by node without recording gradients: a result dies with its last
reader, and its memory serves the next of its size. When gradients are recorded, ops also keep what their
backward reads; what a kernel needs while it runs comes on top.
"""

from __future__ import annotations

from dataclasses import dataclass

from minicnn.graph.ir import Graph, Value


@dataclass(frozen=True)
class Life:
    """Of one result: the positions of the node that computes it, and of the last that reads it or its view.

    last is the number of nodes for what the caller gets. buffer: which memory it lies in, numbered from 0.
    """

    value: Value
    first: int
    last: int
    buffer: int


def lifetimes(graph: Graph) -> list[Life]:
    """The lives of all results that have memory of their own, in the order in which they begin."""
    owners: dict[Value, Value] = {}  # of results that have memory, or look into a result's
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for i, node in enumerate(graph.nodes):
        for value in node.values:
            if value in owners:
                last[owners[value]] = i
        for value in node.outputs:
            if value.view_of is None:
                owners[value], first[value], last[value] = value, i, i
            elif value.view_of in owners:
                owners[value] = owners[value.view_of]
    for value in graph.outputs:
        if value in owners:
            last[owners[value]] = len(graph.nodes)

    ending: dict[int, list[Value]] = {}
    for value, i in last.items():
        ending.setdefault(i, []).append(value)
    free: dict[int, list[int]] = {}  # by size
    buffers: dict[Value, int] = {}
    count = 0
    for i, node in enumerate(graph.nodes):
        for value in node.outputs:
            if value in first:
                waiting = free.get(value.nbytes)
                buffers[value] = waiting.pop() if waiting else count
                count += buffers[value] == count
        for value in ending.get(i, ()):  # only now: a node reads its inputs while it writes its results
            free.setdefault(value.nbytes, []).append(buffers[value])
    return [Life(value, first[value], last[value], buffers[value]) for value in first]


def peak_bytes(graph: Graph) -> int:
    """The most that results take at any time; inputs, parameters and buffers of the model are not counted."""
    lives = lifetimes(graph)

    def held(i: int) -> int:
        return sum(life.value.nbytes for life in lives if life.first <= i <= life.last)

    return max(map(held, range(len(graph.nodes))), default=0)


def memory_table(graph: Graph) -> str:
    """The lives as a table, and below it what they add up to."""
    lives = lifetimes(graph)
    lines = [f"{'result':<8}{'op':<20}{'KiB':>10}{'from':>6}{'to':>6}{'buffer':>8}  layer"]
    for life in lives:
        node = graph.nodes[life.first]
        size = life.value.nbytes / 1024
        place = f"{life.first:>6}{life.last:>6}{life.buffer:>8}"
        lines.append(f"{life.value.name:<8}{node.name:<20}{size:>10.1f}{place}  {node.layer}".rstrip())
    total = sum(life.value.nbytes for life in lives)
    largest = {life.buffer: life.value.nbytes for life in lives}
    lines.append(
        f"{len(lives)} results of {total / 1024:.1f} KiB in {len(largest)} buffers of "
        f"{sum(largest.values()) / 1024:.1f} KiB; at most {peak_bytes(graph) / 1024:.1f} KiB at once"
    )
    return "\n".join(lines)
