"""The register-blocked core of every convolution and matrix product: where it comes from.

`vectors.py` emits it as LLVM vector code, `plain.py` says the same in ordinary loops, with the same names and
signatures; `lanes.py` decides which of the two this process uses. `blocks.py` calls it.
"""

# ruff: noqa: F401  (names for others)
from minicnn_kernels.cpu.lanes import PLAIN
from minicnn_kernels.cpu.pointers import FLOAT_BYTES, INT_BYTES

if PLAIN:
    from minicnn_kernels.cpu.plain import (
        copy_floats,
        load_float,
        make_tile,
        make_transpose,
        store_float,
        zero_floats,
    )
else:
    from minicnn_kernels.cpu.vectors import (
        copy_floats,
        load_float,
        make_tile,
        make_transpose,
        store_float,
        zero_floats,
    )
