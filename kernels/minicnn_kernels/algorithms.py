"""Which of several algorithms a kernel uses, selectable by name.

A kernel with a choice asks `algorithm("conv2d")`; people choose with `set_algorithm` or, for one
block, set it back after. Every choice computes the same function.
"""

from __future__ import annotations

ALGORITHMS: dict[str, tuple[str, ...]] = {
    # auto: the kernel decides. implicit: im2col never written to memory. explicit: im2col matrix, then GEMM.
    # winograd: 3x3 kernels of stride 1 by transformed tiles of 2x2 outputs, the rest as implicit; winograd4:
    # by tiles of 4x4, 1.2 to 1.6 times as fast as those, with 2 to 8 times the error of implicit.
    "conv2d": ("auto", "implicit", "explicit", "winograd", "winograd4"),
}
_chosen = {kernel: choices[0] for kernel, choices in ALGORITHMS.items()}


def algorithm(kernel: str) -> str:
    """The algorithm in force for `kernel`."""
    return _chosen[kernel]


def set_algorithm(kernel: str, name: str) -> str:
    """Choose `name` for `kernel` in the whole process; returns the previous choice.

    Raises ValueError if there is no such kernel or algorithm.
    """
    if kernel not in ALGORITHMS:
        raise ValueError(
            f"no kernel {kernel!r} with a choice of algorithms: expected one of {', '.join(ALGORITHMS)}"
        )
    if name not in ALGORITHMS[kernel]:
        raise ValueError(
            f"{kernel}: unknown algorithm {name!r}: expected one of {', '.join(ALGORITHMS[kernel])}"
        )
    previous, _chosen[kernel] = _chosen[kernel], name
    return previous
