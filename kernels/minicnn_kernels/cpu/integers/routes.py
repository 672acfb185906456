"""By which way integers are multiplied here.

vnni: the instruction vpdpbusd (`tile.py`). plain: ordinary loops (`plain.py`). Both serve the same steps of a
program. float: no steps, but float32 kernels call by call (`../integer.py`). People choose with
`algorithms.set_algorithm("integer", ...)`.
"""

from __future__ import annotations

import numba
from numba.core.codegen import get_host_cpu_features

from minicnn_kernels.algorithms import algorithm

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
