"""A kernel made ready: all that depends on shapes and weights is worked out, arrays are still to come.

Convolutions and dense layers prepare a `Call` and run it, every time in training, where weights change with
every step. A compiled model in evaluation keeps its calls (`chain.py`), and then pays for the kernels alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minicnn_kernels import memory
from minicnn_kernels.cpu.layout import address


class Call(NamedTuple):
    """`kernel(x, y, winners, scratch, *constants)`, the first four addresses, computes y from x.

    scratch: how many floats it needs, from a 64-byte boundary on. alive: the arrays whose addresses are among
    the constants.
    """

    kernel: Callable[..., None]
    constants: tuple[Any, ...]
    scratch: int
    alive: tuple[np.ndarray, ...]

    def run(self, x: np.ndarray, y: np.ndarray, winners: np.ndarray | None = None) -> None:
        """With arrays in the layout that the call was prepared for."""
        scratch = memory.empty(self.scratch + memory.ALIGNMENT // 4)
        self.kernel(
            address(x), address(y), 0 if winners is None else address(winners), aligned(address(scratch)),
            *self.constants,
        )  # fmt: skip


def aligned(place: int) -> int:
    """The first 64-byte boundary from an address on: vectors that straddle cache lines cost twice."""
    return -(-place // memory.ALIGNMENT) * memory.ALIGNMENT
