"""Artefact: one file that holds a model, and runs it.

Graph, weights, what an image has to go through before, names of classes: nothing of the Python that trained
it is needed. `save` writes a model, `load` gives something to call.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

import numpy as np

from minicnn.deploy.container import FileError, read, write
from minicnn.deploy.lower import lower
from minicnn.deploy.program import ProgramError, from_plain, of_batch, to_plain
from minicnn.grad_mode import no_grad
from minicnn.graph.fuse import fuse
from minicnn.graph.ir import Graph
from minicnn.graph.plan import Plan
from minicnn.tensor import Tensor

FORMAT = "minicnn artefact 1"
_PLANS = 8  # kept, the most recently used


class Artefact:
    """A loaded file: call it with images, or ask what is in it.

    graph: what is computed. about: what `save` was given (class names, preprocessing, a report).
    """

    def __init__(self, graph: Graph, about: dict[str, Any]) -> None:
        self.graph, self.about = graph, about
        self._plans: OrderedDict[int, Plan] = OrderedDict()  # by the size of the batch

    def __call__(self, images: Any) -> np.ndarray:
        """The model's result for (N, *image_shape) float32, as an array.

        Raises ValueError for images of another shape.
        """
        (expected,) = self.graph.inputs
        array = np.asarray(images.data if isinstance(images, Tensor) else images, expected.dtype)
        if array.shape[1:] != expected.shape[1:]:
            shape = ", ".join(map(str, expected.shape[1:]))
            raise ValueError(f"artefact: expected images (N, {shape}), got shape {array.shape}")
        with no_grad():
            return self._plan(len(array))(Tensor(array))[0].numpy()

    def _plan(self, batch: int) -> Plan:
        if batch not in self._plans:
            self._plans[batch] = Plan(fuse(of_batch(self.graph, batch)), None)
            if len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(batch)
        return self._plans[batch]


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
    meta, arrays = read(path)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise FileError(f"{os.fspath(path)}: expected a file of format '{FORMAT}', got something else")
    try:
        return Artefact(from_plain(meta.get("program"), arrays), dict(meta.get("about") or {}))
    except ProgramError as problem:
        raise FileError(f"{os.fspath(path)} is no intact .mcnn file: {problem}; copy it anew") from problem
