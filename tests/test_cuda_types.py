"""What kernels are launched with has the types that they declare, which are those that `code.py` compiles.

The simulator knows no types: there a kernel of 32-bit indices runs as well with 64-bit ones.
"""

from __future__ import annotations

from pathlib import Path

from simulated import in_simulator

ROOT = Path(__file__).parent.parent


def test_launches_give_the_types_that_kernels_declare():
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})"
        + """
import numba
from numba.core import sigutils
from bench.gpu import shared_memory
from minicnn_kernels import algorithms, cuda
from minicnn_kernels.cuda import driver
wrong, launched, run = {}, set(), driver.Kernel.run

def noted(kernel, grid, block, arguments):
    declared, _ = sigutils.normalize_signature(f"void({kernel.signature})")
    for place, (want, given) in enumerate(zip(declared, arguments, strict=True)):
        if not isinstance(given, driver.Elements) and numba.typeof(given) != want:
            wrong[kernel.name, place] = f"{numba.typeof(given)}, declared {want}"
    launched.add(kernel.name)
    run(kernel, grid, block, arguments)

driver.Kernel.run = noted
for launch in ("products", "convolutions", "reductions", "normalizations", "lattices", "compression"):
    getattr(shared_memory, launch)()
normal = shared_memory.normal
cuda.matmul(normal(3, 301), normal(301, 5))
cuda.linear_relu_forward(normal(3, 4), normal(5, 4), normal(5))
window = ((2, 1), (1, 1), (1, 1), 1)
for name in ("implicit", "explicit"):
    with algorithms.using("conv2d", name):
        x, weight = normal(1, 30, 4, 4), normal(3, 30, 3, 3)
        y, _ = cuda.conv2d_block_forward(x, weight, normal(3), *window, True, None)
        cuda.conv2d_backward_input(y, weight, x.shape, *window, onto=x)
        cuda.conv2d_backward_weight(y, x, weight.shape, *window)
assert not wrong, wrong
assert len(launched) >= 40, launched
"""
    )
    in_simulator("-c", program)
