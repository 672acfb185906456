"""Where in a model we are, and who is watching: the stack of running modules and the recorder, per thread.

`Module.__call__` pushes and pops; errors, NaN reports and tracing read. So a message can say
"Conv2d 'features.3'" although functions know nothing of modules. A recorder (`minicnn.graph.trace` sets
one) is told of every op, and of every value that leaves the engine for Python.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Recorder(Protocol):
    """What `recording` accepts."""

    def op(self, function: type, inputs: tuple, options: dict, results: tuple) -> None:
        """`function.apply(*inputs, **options)` gave the tensors `results`."""

    def read(self, tensor: Any, how: str) -> None:
        """Python reads the values of `tensor` through the method `how`."""

    def detach(self, tensor: Any, result: Any) -> None:
        """`result` is `tensor` cut off from the tape."""

    def draw(self, size: int) -> None:
        """`size` random numbers are drawn outside of any op."""


class _Recording(threading.local):
    recorder: Recorder | None = None


watch = _Recording()


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Within the block `recorder` sees what this thread computes."""
    previous, watch.recorder = watch.recorder, recorder
    try:
        yield
    finally:
        watch.recorder = previous


class _Stack(threading.local):
    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []  # (class name, name inside the parent)


_stack = _Stack()


def push(kind: str, name: str) -> None:
    """Enter a module of class `kind`, called `name` by its parent ('' for the root)."""
    _stack.entries.append((kind, name))


def pop() -> None:
    """Leave the module entered last."""
    _stack.entries.pop()


def path() -> str:
    """Dotted path of the running module below the root, '' outside of any."""
    return ".".join(name for _, name in _stack.entries if name)


def where(op: str) -> str:
    """How an error names its place: "Conv2d 'features.3'" inside a named module, else the op's name."""
    if not _stack.entries:
        return op
    kind, _ = _stack.entries[-1]
    dotted = path()
    return f"{kind} '{dotted}'" if dotted else f"{kind} ({op})"
