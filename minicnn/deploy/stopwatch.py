"""The stopwatch: which kernel computes a layer is measured on the machine that will run it, and written down.

Each candidate (`candidates.py`) is first held against the layer as it is, then timed in turn with it, A B A
B, on the values that reach the layer, together with the ReLU and pooling behind it, which the dense layer
does at once. It is chosen only if it is clearly faster at every size of batch that was asked for.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from minicnn.deploy.candidates import PLAIN, WEIGHTED, Candidate, candidates, with_choices, zeros
from minicnn.deploy.program import of_batch
from minicnn.functions.activation import ReLU
from minicnn.functions.pooling import MaxPool2d
from minicnn.grad_mode import no_grad
from minicnn.graph.constants import run
from minicnn.graph.fuse import fuse
from minicnn.graph.ir import Graph, Node, Value
from minicnn.graph.plan import Plan
from minicnn.tensor import Tensor, as_tensor

MARGIN = 0.05  # a candidate must be this share faster
_ROUNDS = 9
_SECONDS = 0.004  # a burst takes about as long
_ROUNDING = 1e-4  # of the largest element: sums in another order

Run = Callable[[], Any]
Timer = Callable[[Mapping[str, Run]], dict[str, float]]
"""Seconds that each of several runs takes."""


def measure(runs: Mapping[str, Run]) -> dict[str, float]:
    """Seconds of each run, the median of bursts in turn."""
    counts = {}
    for name, once in runs.items():
        once()
        began = time.perf_counter()
        once()
        counts[name] = max(1, int(_SECONDS / max(time.perf_counter() - began, 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_ROUNDS):
        for name, once in runs.items():
            began = time.perf_counter()
            for _ in range(counts[name]):
                once()
            times[name].append((time.perf_counter() - began) / counts[name])
    return {name: median(of) for name, of in times.items()}


def compared(milliseconds: Mapping[str, Mapping[str, float]], plain: str, name: str) -> list[float]:
    """How many times as fast `name` is as `plain`, at every batch."""
    return [times[plain] / times[name] for times in milliseconds.values()]


def choose(
    graph: Graph, sample: Any, *, batches: Sequence[int] = (1, 64), timer: Timer = measure
) -> tuple[Graph, list[dict[str, Any]]]:
    """(graph with the chosen kernels, notes) for a graph as `lower` gives it.

    sample: inputs (N, ...) like the real ones, repeated for larger batches. batches: the sizes that are
    timed. A note is plain data: "layer", "op", "zeros" (the share of its weights), "milliseconds" {batch:
    {candidate: number}}, "chosen" and "words". Layers without a candidate, or without a name, have none.
    Raises ValueError for an empty sample, RuntimeError if a candidate computes something else.
    """
    notes, chosen = [], {}
    names = Counter(node.layer for node in graph.nodes if node.op in WEIGHTED)
    found = [pair for pair in candidates(graph) if pair[0].layer and names[pair[0].layer] == 1]
    parts = [_parts(graph, node, others) for node, others in found]
    wanted = {part.inputs[0] for of_node in parts for part in of_node.values()}
    inputs = _values(graph, as_tensor(sample), max(batches), wanted)
    for (node, others), alternatives in zip(found, parts, strict=True):
        milliseconds = {}
        for batch in batches:
            runs = {name: _ready(part, inputs[part.inputs[0]], batch) for name, part in alternatives.items()}
            _check(node, others, runs)
            milliseconds[str(batch)] = {name: 1e3 * seconds for name, seconds in timer(runs).items()}
        note = _note(node, others, milliseconds)
        notes.append(note)
        if note["chosen"] != PLAIN:
            chosen[node.layer] = note["chosen"]
    return with_choices(graph, chosen), notes


def choices(notes: Any) -> dict[str, str]:
    """{layer: candidate} for `with_choices`, from notes as a file has them; nonsense is left out."""
    return {str(note.get("layer")): str(note.get("chosen")) for note in _tables(notes)}


def words(notes: Any) -> list[str]:
    """The sentences of notes as a file has them."""
    return [str(note.get("words")) for note in _tables(notes)]


def _tables(notes: Any) -> list[dict[str, Any]]:
    return [note for note in notes if isinstance(note, dict)] if isinstance(notes, list) else []


def _values(graph: Graph, sample: Tensor, batch: int, wanted: set[Value]) -> dict[Value, Tensor]:
    """What these values are for `batch` inputs."""
    if not len(sample):
        raise ValueError("choose: expected a sample of at least one input, got none")
    rows = np.resize(np.arange(len(sample)), batch)
    (source,) = graph.inputs
    known = {source: Tensor(np.ascontiguousarray(sample.numpy()[rows]))}
    last_reader = {x: node for node in graph.nodes for x in node.values}
    with no_grad():
        for node in graph.nodes:
            results = run(node, *(known[x] for x in node.values if x.kind != "constant"))
            known.update(zip(node.outputs, results, strict=True))
            for x in set(node.values) & known.keys() - wanted:
                if last_reader[x] is node:
                    del known[x]
    return {value: known[value] for value in wanted}


def _parts(graph: Graph, node: Node, others: Sequence[Candidate]) -> dict[str, Graph]:
    """By name, a Graph of the node or a candidate, with the ReLU and pooling behind it.

    Where candidates take signs themselves, those of the node are taken before it.
    """
    readers, behind, last = graph.consumers(), [], node
    while last.output not in graph.outputs and len(readers.get(last.output, ())) == 1:
        (following,) = readers[last.output]
        if following.op not in (ReLU, MaxPool2d):
            break
        behind.append(following)
        last = following
    parts = {c.name: Graph([c.node.inputs[0]], [last.output], [c.node, *behind]) for c in others}
    start, before = node.inputs[0], []
    if any(c.node.inputs[0] is not start for c in others):
        before = [graph.producers()[start]]
        start = before[0].inputs[0]
    return {PLAIN: Graph([start], [last.output], [*before, node, *behind])} | parts


def _ready(part: Graph, x: Tensor, batch: int) -> Run:
    """A plan for the part, with the first inputs of x."""
    x = x[:batch]
    plan = Plan(fuse(of_batch(part, batch)), None)

    def once() -> Tensor:
        with no_grad():
            return plan(x)[0]

    return once


def _check(node: Node, others: Sequence[Candidate], runs: Mapping[str, Run]) -> None:
    """Raise RuntimeError unless every candidate computes what the node does."""
    expected = runs[PLAIN]().numpy()
    for candidate in others:
        got = runs[candidate.name]().numpy()
        off = float(np.abs(got - expected).max(initial=0)) / (float(np.abs(expected).max(initial=0)) or 1.0)
        if off > (0 if candidate.exact else _ROUNDING):
            raise RuntimeError(
                f"choose: {candidate.name} of layer '{node.layer}' are off by {off:.1e} of the largest "
                f"element; please report this with the model"
            )


def _note(
    node: Node, others: Sequence[Candidate], milliseconds: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """What was measured of a layer, and what follows."""

    gains = {candidate.name: compared(milliseconds, PLAIN, candidate.name) for candidate in others}
    best = max(others, key=lambda candidate: min(gains[candidate.name]))
    chosen = best.name if min(gains[best.name]) >= 1 + MARGIN else PLAIN
    note = {
        "layer": node.layer,
        "op": node.name,
        "zeros": round(zeros(node), 4),
        "milliseconds": {
            batch: {name: float(f"{number:.4g}") for name, number in times.items()}
            for batch, times in milliseconds.items()
        },
        "chosen": chosen,
    }
    return note | {"words": _sentence(note, best, gains[best.name])}


def _sentence(note: Mapping[str, Any], best: Candidate, gains: Sequence[float]) -> str:
    """One sentence a person can read."""
    said = " and ".join(
        f"{_times(gain)} at batch {batch}" for gain, batch in zip(gains, note["milliseconds"], strict=True)
    )
    kept = note["chosen"] == PLAIN
    if best.exact:
        follows = "kept as it was" if kept else f"computed by {best.name}"
        return f"{note['layer']}: signs, {best.name} {said} here: {follows}"
    follows = "kept dense, stored sparse" if kept else f"computed by {best.name}"
    return f"{note['layer']}: {note['zeros']:.0%} zeros, {best.name} {said} here: {follows}"


def _times(gain: float) -> str:
    if gain >= 1:
        return f"{gain:.1f} times faster"
    return f"{1 / gain:.1f} times slower"
