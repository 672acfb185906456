"""Artefact: one file that holds a model, and runs it.

Graph, weights, what an image has to go through before, names of classes: nothing of the Python that trained
it is needed. `save` writes a model, `load` gives something to call. What lies on lattices is computed with
integers (`integers.py`), to the bits of the model in eval mode.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from contextlib import nullcontext
from typing import Any

import numpy as np

from minicnn.deploy.candidates import with_choices
from minicnn.deploy.container import FileError, read, write
from minicnn.deploy.engine import Program, RunProgram, with_programs
from minicnn.deploy.integers import to_integers
from minicnn.deploy.lower import lower
from minicnn.deploy.program import from_plain, of_batch, to_plain
from minicnn.deploy.routes import AUTO, route_of
from minicnn.deploy.rules import ProgramError
from minicnn.deploy.stopwatch import choices
from minicnn.grad_mode import no_grad
from minicnn.graph.fuse import fuse
from minicnn.graph.ir import Graph
from minicnn.graph.plan import Plan
from minicnn.tensor import Tensor
from minicnn_kernels.algorithms import using

FORMAT = "minicnn artefact 1"
_PLANS = 8  # kept, the most recently used


class Artefact:
    """A loaded file: call it with images, or ask what is in it.

    graph: what is computed, as the model in eval mode does, for one image. engine: the same on integers, as
    it is run. about: what `save` was given (class names, preprocessing, a report); notes of `choose` among
    it, under "stopwatch", say by which kernels.
    """

    def __init__(self, graph: Graph, about: dict[str, Any]) -> None:
        self.graph, self.about = graph, about
        self.engine = with_programs(to_integers(with_choices(graph, choices(about.get("stopwatch")))).graph)
        self._route = route_of(about.get("stopwatch"))
        self._whole = _whole_program(self.engine)
        self._plans: OrderedDict[int, Plan] = OrderedDict()  # by the size of the batch
        self._lock = threading.Lock()

    def __call__(self, images: Any) -> np.ndarray:
        """The model's result for (N, *image_shape) float32, as an array.

        Raises ValueError for images of another shape, or that hold NaN.
        """
        (expected,) = self.graph.inputs
        array = np.asarray(images.data if isinstance(images, Tensor) else images, expected.dtype)
        if array.shape[1:] != expected.shape[1:] or array.ndim != len(expected.shape):
            shape = ", ".join(map(str, expected.shape[1:]))
            raise ValueError(f"artefact: expected images (N, {shape}), got shape {array.shape}")
        if array.size and np.isnan(array.min()):
            raise ValueError("artefact: expected images of numbers, got NaN in them")
        with nullcontext() if self._route == AUTO else using("integer", self._route):
            return self._computed(array)

    def _computed(self, array: np.ndarray) -> np.ndarray:
        if self._whole is not None:
            return np.asarray(self._whole(array)[0])
        with no_grad():
            return self._plan(len(array))(Tensor(array))[0].numpy()

    def _plan(self, batch: int) -> Plan:
        with self._lock:
            if batch not in self._plans:
                self._plans[batch] = Plan(fuse(of_batch(self.engine, batch)), None)
                if len(self._plans) > _PLANS:
                    self._plans.popitem(last=False)
            self._plans.move_to_end(batch)
            return self._plans[batch]


def _whole_program(graph: Graph) -> Program | None:
    """The program that is all of `graph`, from images to the first result; None if there is more."""
    if len(graph.nodes) != 1 or graph.nodes[0].op is not RunProgram:
        return None
    (node,) = graph.nodes
    return node.options["program"] if node.outputs[0] is graph.outputs[0] else None


def save(
    model: Any,
    path: str | os.PathLike[str],
    sample: Any,
    *,
    about: dict[str, Any] | None = None,
    huffman: bool = True,
) -> int:
    """Lower `model` and write it; returns the bytes of the file. sample: inputs (N, ...) to trace it with.

    about: plain values that go along. Raises TraceError or ProgramError for models that no file can hold.
    """
    program, arrays = to_plain(lower(model, sample))
    meta = {"format": FORMAT, "program": program, "about": about or {}}
    return write(path, meta, arrays, huffman=huffman)


def load(path: str | os.PathLike[str]) -> Artefact:
    """The artefact in a file. Raises FileError if it is damaged or something else, OSError if unreadable."""
    return from_parts(*read(path), os.fspath(path))


def from_parts(meta: Any, arrays: dict[str, np.ndarray], name: str = "data") -> Artefact:
    """The artefact of what `container.read` gave. Raises FileError if that is none."""
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise FileError(f"{name}: expected a file of format '{FORMAT}', got something else")
    about = meta.get("about")
    try:
        if not isinstance(about, dict):
            raise ProgramError(f"program: expected a table of facts about it, got {type(about).__name__}")
        graph = from_plain(meta.get("program"), arrays)
        if len(graph.inputs) != 1:
            raise ProgramError(f"program: expected one input, got {len(graph.inputs)}")
        return Artefact(graph, about)
    except ProgramError as problem:
        raise FileError(f"{name} is no intact .mcnn file: {problem}; copy it anew") from problem
