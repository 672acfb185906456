"""What this back end runs on: for `minicnn info` and for reports of speed."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import binding

from minicnn_kernels.cpu.cache import cache_folder
from minicnn_kernels.cpu.integers.routes import VNNI
from minicnn_kernels.cpu.lanes import LANES, TILES


def about() -> dict[str, Any]:
    """The processor as LLVM names it, vectors and tiles, products of 8 bits, Numba's threads, the cache."""
    return {
        "processor": binding.get_host_cpu_name(),
        "vector_bits": 32 * LANES,
        "tiles": TILES,
        "integers": "vnni" if VNNI else "float",
        "threading_layer": numba.threading_layer(),
        "thread_limit": numba.config.NUMBA_NUM_THREADS,  # type: ignore[attr-defined]  # set when imported
        "cache": str(cache_folder()),
    }
