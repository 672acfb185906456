"""Which register tiles this process uses: of 16, 8 or 4 lanes, or none. Decided once, when it is imported.

MINICNN_TILES=16, 8, 4 or plain forces them; else they fit the vectors of the machine that Numba compiles for,
which NUMBA_CPU_NAME and NUMBA_CPU_FEATURES may have changed. `plain.py` stands in where no vectors are known.
"""

from __future__ import annotations

import os
import platform

import numba
from numba.core.codegen import get_host_cpu_features

CHOICES = ("plain", "4", "8", "16")


def _choose() -> str:
    forced = os.environ.get("MINICNN_TILES", "")
    if forced:
        if forced not in CHOICES:
            raise ValueError(f"MINICNN_TILES: expected one of {', '.join(CHOICES)}, got {forced!r}")
        return forced
    named = numba.config.CPU_FEATURES  # type: ignore[attr-defined]  # filled when Numba is imported
    listed = get_host_cpu_features() if named is None else named
    features = {feature[1:] for feature in listed.split(",") if feature.startswith("+")}
    if "avx512f" in features:
        return "16"
    if "avx" in features:
        return "8"
    if named is None and platform.machine() in ("aarch64", "arm64"):
        return "4"  # they all have it, but LLVM does not list it everywhere
    return "4" if features & {"sse", "neon", "altivec", "vsx"} else "plain"


TILES = _choose()
PLAIN = TILES == "plain"
LANES = 16 if PLAIN else int(TILES)  # plain loops walk through memory in blocks of as many floats
