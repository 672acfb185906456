"""By which route the integers of a deployed Graph are multiplied: measured, as kernels are in `stopwatch.py`.

A program of integer ops runs on one route as a whole, so all of it is timed at once. 'auto', what the
machine's instructions suggest, is kept unless another is clearly faster; all give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minicnn.deploy.engine import RunProgram, with_programs
from minicnn.deploy.integers import to_integers
from minicnn.deploy.program import of_batch
from minicnn.deploy.stopwatch import MARGIN, Run, Timer, compared, measure
from minicnn.grad_mode import no_grad
from minicnn.graph.fuse import fuse
from minicnn.graph.ir import Graph
from minicnn.graph.plan import Plan
from minicnn.tensor import Tensor, as_tensor
from minicnn_kernels.algorithms import using

AUTO = "auto"
ROUTES = (AUTO, "float", "plain")  # vnni is what auto takes where it can be had


def choose_route(
    graph: Graph, sample: Any, *, batches: Sequence[int] = (1, 64), timer: Timer = measure
) -> dict[str, Any] | None:
    """A note as those of `choose`, with "route" in the place of "chosen"; None without integers.

    graph: as `lower` or `choose` gives it. Raises RuntimeError if two routes give different numbers.
    """
    engine = with_programs(to_integers(graph).graph)
    if not any(node.op is RunProgram for node in engine.nodes):
        return None
    images = as_tensor(sample).numpy()
    milliseconds: dict[str, dict[str, float]] = {}
    for batch in batches:
        x = Tensor(np.ascontiguousarray(images[np.resize(np.arange(len(images)), batch)]))
        plan = Plan(fuse(of_batch(engine, batch)), None)
        runs = {name: _by(name, plan, x) for name in ROUTES}
        expected = runs[AUTO]().numpy()
        for name, once in runs.items():
            if not np.array_equal(once().numpy(), expected):
                raise RuntimeError(f"choose_route: '{name}' gives other numbers; please report this model")
        milliseconds[str(batch)] = {name: 1e3 * seconds for name, seconds in timer(runs).items()}
    gains = {name: compared(milliseconds, AUTO, name) for name in ROUTES[1:]}
    best = max(gains, key=lambda name: min(gains[name]))
    route = best if min(gains[best]) >= 1 + MARGIN else AUTO
    return {"route": route, "milliseconds": milliseconds, "words": _sentence(milliseconds, route)}


def route_of(notes: Any) -> str:
    """The route that notes of a file name; 'auto' if there is none, or none that is known."""
    found = [note.get("route") for note in notes if isinstance(note, dict)] if isinstance(notes, list) else []
    return next((name for name in ROUTES if name in found), AUTO)


def _by(route: str, plan: Plan, x: Tensor) -> Run:
    def once() -> Tensor:
        with no_grad(), using("integer", route):
            return plan(x)[0]

    return once


def _sentence(milliseconds: Mapping[str, Mapping[str, float]], route: str) -> str:
    said = "; ".join(
        f"batch {batch}: " + ", ".join(f"{name} {number:.3g} ms" for name, number in times.items())
        for batch, times in milliseconds.items()
    )
    return f"integers: {said}: route {route}"
