"""By which way integers are multiplied here, and the tiles of each way.

vnni: the instruction vpdpbusd (`integer_tile.py`). plain: ordinary loops (`integer_plain.py`). Both serve the
same steps of a program. float: no steps, but float32 kernels call by call (`integer.py`). People choose with
`algorithms.set_algorithm("integer", ...)`.
"""

from __future__ import annotations

import numba
from numba.core.codegen import get_host_cpu_features

from minicnn_kernels.algorithms import algorithm
from minicnn_kernels.cpu import integer_plain

_named = numba.config.CPU_FEATURES  # type: ignore[attr-defined]  # filled when Numba is imported
_features = (get_host_cpu_features() if _named is None else _named).split(",")
VNNI = {"+avx512vnni", "+avx512bw", "+avx512vl"} <= set(_features)
"""Whether the machine that Numba compiles for multiplies uint8 by int8."""


def route() -> str:
    """'vnni', 'float' or 'plain'. Raises ValueError if vnni was asked for where it cannot be had."""
    chosen = algorithm("integer")
    if chosen == "auto":
        return "vnni" if VNNI else "float"
    if chosen == "vnni" and not VNNI:
        raise ValueError(
            "integer: the algorithm 'vnni' needs a processor with AVX512-VNNI, and this one has none: "
            "choose 'float', 'plain', or leave it at 'auto'"
        )
    return chosen


# (rows, vectors) of the tiles. Seen on 3x3 convolutions of 32 to 128 channels, in products a cycle of the
# 64 that the instruction does: 8x2 61, 4x4 61, 12x2 58, 16x1 55; 8x1 59. With 9 or 27 products in a sum, as
# in a first layer: 8x2 0.6 and 0.7 of the peak, 12x2 0.4 and 0.7.
ROWS = 8
WIDE, NARROW = 2 * integer_plain.LANES, integer_plain.LANES


def _make_tile(*sizes):
    if not VNNI:
        return integer_plain.make_tile(*sizes)
    from minicnn_kernels.cpu.integer_tile import make_tile

    return make_tile(*sizes)


wide_tile, narrow_tile = _make_tile(ROWS, 2, 1, False), _make_tile(ROWS, 1, 1, False)
wide_pool_tile, narrow_pool_tile = _make_tile(ROWS, 2, 4, False), _make_tile(ROWS, 1, 4, False)
float_tile = _make_tile(ROWS, 1, 1, True)
row_tile = _make_tile(1, 2, 1, False)
