"""Which of several algorithms a kernel uses, selectable by name.

A kernel with a choice asks `algorithm("conv2d")`; people choose with `set_algorithm` or, for one
block, with `using`. Every choice computes the same function, but for rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

ALGORITHMS: dict[str, tuple[str, ...]] = {
    # auto: the kernel decides. implicit: im2col never written to memory. explicit: im2col matrix, then GEMM.
    # winograd: 3x3 kernels of stride 1 by transformed tiles of 2x2 outputs, the rest as implicit; winograd4:
    # by tiles of 4x4, 1.2 to 1.6 times as fast as those, with 2 to 8 times the error of implicit.
    "conv2d": ("auto", "implicit", "explicit", "winograd", "winograd4"),
    # Arithmetic of products of float32 on a GPU, convolution's too. tf32: factors rounded to 10 bits after
    # the leading one, on tensor cores; the cpu has no such unit and computes in float32, which is more
    # exact.
    "matmul": ("float32", "tf32"),
    # Products of uint8 and int8. vnni: by the instruction vpdpbusd. float: by the tiles of float32, cut so
    # that every sum is exact. plain: ordinary loops. auto: the first of them that the machine has.
    "integer": ("auto", "vnni", "float", "plain"),
}
_chosen = {kernel: choices[0] for kernel, choices in ALGORITHMS.items()}


class _Here(threading.local):
    def __init__(self) -> None:
        self.chosen: dict[str, str] = {}


_here = _Here()


def algorithm(kernel: str) -> str:
    """The algorithm in force for `kernel` in this thread."""
    return _here.chosen.get(kernel) or _chosen[kernel]


def set_algorithm(kernel: str, name: str) -> str:
    """Choose `name` for `kernel` in the whole process; returns the previous choice.

    Raises ValueError if there is no such kernel or algorithm.
    """
    _check(kernel, name)
    previous, _chosen[kernel] = _chosen[kernel], name
    return previous


@contextmanager
def using(kernel: str, name: str) -> Iterator[None]:
    """Within the block this thread uses `name` for `kernel`, whatever the process has chosen."""
    _check(kernel, name)
    before = dict(_here.chosen)
    _here.chosen[kernel] = name
    try:
        yield
    finally:
        _here.chosen = before


def _check(kernel: str, name: str) -> None:
    if kernel not in ALGORITHMS:
        raise ValueError(
            f"no kernel {kernel!r} with a choice of algorithms: expected one of {', '.join(ALGORITHMS)}"
        )
    if name not in ALGORITHMS[kernel]:
        raise ValueError(
            f"{kernel}: unknown algorithm {name!r}: expected one of {', '.join(ALGORITHMS[kernel])}"
        )
