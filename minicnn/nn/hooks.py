"""Hooks: functions that a module calls before or after its forward, until their handle takes them away."""

from __future__ import annotations

import itertools
from collections.abc import Callable


class RemovableHandle:
    """Takes a registered hook away again: `remove()`, or at the end of a with block."""

    _ids = itertools.count()

    def __init__(self, hooks: dict[int, Callable], hook: Callable) -> None:
        self._hooks, self._id = hooks, next(self._ids)
        hooks[self._id] = hook

    def remove(self) -> None:
        """Forget the hook; doing so twice is harmless."""
        self._hooks.pop(self._id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
