"""Whether operations are recorded on the tape: one switch per thread, set for a block or a function."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from typing import Any, TypeVar

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


class _GradMode(threading.local):
    enabled = True


_grad_mode = _GradMode()


def is_grad_enabled() -> bool:
    """Whether operations are being recorded on the tape in this thread."""
    return _grad_mode.enabled


class _Block(ContextDecorator):
    """Sets the switch on entry and puts it back on exit."""

    def __init__(self, mode: bool) -> None:
        self.mode = bool(mode)
        self.previous = _grad_mode.enabled

    def _recreate_cm(self) -> _Block:  # a decorated function may call itself, or run in several threads
        return _Block(self.mode)

    def __enter__(self) -> None:
        _grad_mode.enabled = self.mode

    def __exit__(self, *exception: Any) -> None:
        _grad_mode.enabled = self.previous


class set_grad_enabled(_Block):
    """Record operations (True) or not (False): from now on, or with `with` and as a decorator for a while."""

    def __init__(self, mode: bool) -> None:
        super().__init__(mode)
        _grad_mode.enabled = self.mode

    def __call__(self, function: _Decorated) -> _Decorated:
        _grad_mode.enabled = self.previous  # as a decorator it is for the function's calls alone
        return super().__call__(function)


def no_grad(function: Callable | None = None) -> Any:
    """Context manager and decorator (with or without parentheses): nothing inside is recorded on the tape."""
    return _Block(False) if function is None else _Block(False)(function)


def enable_grad(function: Callable | None = None) -> Any:
    """Context manager and decorator (with or without parentheses): record again inside `no_grad`."""
    return _Block(True) if function is None else _Block(True)(function)
