"""Random numbers: a Generator counts blocks of numbers that were drawn, kernels compute them from the count.

So the state is two integers, drawing is the same on every back end and thread count, and a restored state
continues exactly. Everything in minicnn draws from `default_generator` unless told otherwise; it starts with
seed 0.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import minicnn_kernels as kernels
from minicnn import scope
from minicnn.tensor import as_dtype, float32

__all__ = [
    "Generator",
    "default_generator",
    "get_rng_state",
    "initial_seed",
    "manual_seed",
    "seed",
    "set_rng_state",
]

_WORD = 1 << 64


class _Heard(threading.local):
    draws: list[tuple[Generator, int, tuple[int, int]]] | None = None


_heard = _Heard()


@contextmanager
def drawn() -> Iterator[list[tuple[Generator, int, tuple[int, int]]]]:
    """(generator, size, what it gave) of every `reserve` of this thread within the block, in order."""
    previous, _heard.draws = _heard.draws, []
    try:
        yield _heard.draws
    finally:
        _heard.draws = previous


class Generator:
    """A stream of random numbers, determined by its seed. Its methods give arrays; threads may share it."""

    def __init__(self, seed: int = 0) -> None:
        self._lock = threading.Lock()
        self._seed, self._offset = 0, 0
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of `seed`, any integer (modulo 2**64), from its beginning."""
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise TypeError(f"manual_seed: expected an integer, got {seed!r}")
        with self._lock:
            self._seed, self._offset = int(seed) % _WORD, 0
        return self

    def seed(self) -> int:
        """Start a stream that nobody can predict; returns its seed."""
        self.manual_seed(int.from_bytes(os.urandom(8), "little"))
        return self._seed

    def initial_seed(self) -> int:
        """The seed that this stream started with."""
        return self._seed

    def get_state(self) -> dict[str, int]:
        """{"seed", "offset"}: all there is to continue from here."""
        with self._lock:
            return {"seed": self._seed, "offset": self._offset}

    def set_state(self, state: dict[str, int]) -> Generator:
        """Continue where `get_state` was called. Raises ValueError for anything else."""
        try:
            seed, offset = int(state["seed"]), int(state["offset"])
        except (TypeError, KeyError, ValueError):
            raise ValueError(f"set_state: expected what get_state gave, got {state!r}") from None
        if not (0 <= seed < _WORD and 0 <= offset < _WORD):
            raise ValueError(f"set_state: seed and offset must lie in [0, 2**64), got {state!r}")
        with self._lock:
            self._seed, self._offset = seed, offset
        return self

    def reserve(self, size: int) -> tuple[int, int]:
        """(seed, offset) for a random kernel that draws `size` elements; nobody else gets these numbers."""
        blocks = kernels.backend("reference").random_blocks(size)
        with self._lock:
            offset = self._offset
            self._offset = (offset + blocks) % _WORD
            place = self._seed, offset
        if _heard.draws is not None:
            _heard.draws.append((self, size, place))
        return place

    def _draw(self, size: int) -> tuple[int, int]:
        """`reserve` for numbers that leave as a plain array: a recorder hears of it, for no op makes them."""
        if scope.watch.recorder is not None:
            scope.watch.recorder.draw(size)
        return self.reserve(size)

    def uniform(self, shape: Any, low: float = 0.0, high: float = 1.0, dtype: Any = float32) -> Any:
        """An array of numbers in [low, high)."""
        shape, dtype = _shape(shape), as_dtype(dtype)
        seed, offset = self._draw(math.prod(shape))
        return _kernels(dtype).random_uniform(shape, low, high, dtype, seed, offset)

    def normal(self, shape: Any, mean: float = 0.0, std: float = 1.0, dtype: Any = float32) -> Any:
        """An array of normally distributed numbers."""
        shape, dtype = _shape(shape), as_dtype(dtype)
        seed, offset = self._draw(math.prod(shape))
        return _kernels(dtype).random_normal(shape, mean, std, dtype, seed, offset)

    def integers(self, shape: Any, low: int, high: int) -> Any:
        """An int64 array of numbers in [low, high). Raises ValueError unless 0 < high - low <= 2**32."""
        if not 0 < high - low <= 1 << 32:
            raise ValueError(f"integers: expected 0 < high - low <= 2**32, got low={low}, high={high}")
        shape = _shape(shape)
        seed, offset = self._draw(math.prod(shape))
        return _kernels(float32).random_integers(shape, low, high, seed, offset)

    def permutation(self, n: int) -> Any:
        """The numbers 0 to n - 1 in random order, int64."""
        seed, offset = self._draw(n)
        return _kernels(float32).random_permutation(n, seed, offset)

    def __repr__(self) -> str:
        return f"Generator(seed={self._seed}, offset={self._offset})"


def _kernels(dtype: np.dtype) -> Any:
    """The back end that makes arrays of `dtype`."""
    return kernels.of(np.empty(0, dtype))


def _shape(shape: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in shape) if isinstance(shape, (tuple, list)) else (int(shape),)


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Start the default generator's stream of `seed`; returns the generator."""
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Start the default generator with a seed that nobody can predict; returns it."""
    return default_generator.seed()


def initial_seed() -> int:
    """The seed that the default generator started with."""
    return default_generator.initial_seed()


def get_rng_state() -> dict[str, int]:
    """State of the default generator: two integers under "seed" and "offset"."""
    return default_generator.get_state()


def set_rng_state(state: dict[str, int]) -> None:
    """Let the default generator continue where `get_rng_state` was called."""
    default_generator.set_state(state)
