"""A machine without AVX-512, as far as this one can play it: `python -m bench narrow`.

minicnn compiles for a processor of 2013 with AVX2 (tiles of 8 lanes), PyTorch and its oneDNN are held to
AVX2 by their own switches. What this cannot show is another machine's caches and clock. minicnn with the
vectors that the machine has runs beside them, which says what narrower ones cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.steps import compare
from bench.worker import Worker

ENGINES = ("minicnn", "torch", "torch-channels-last")
FULL = "minicnn, all vectors"
AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt",
    "OPENBLAS_CORETYPE": "Haswell",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}


def measure(
    nets: Sequence[str],
    engines: Sequence[str],
    *,
    threads: Sequence[int],
    batch: int,
    rounds: int,
    burst_seconds: float,
) -> list[dict[str, Any]]:
    """Entries like those of `steps.measure`; the last engine is minicnn without the restriction."""
    results = []
    for net in nets:
        for count in threads:
            options: dict[str, Any] = {"net": net, "batch": batch, "threads": count}
            workers = {
                name: Worker("bench.engines:make", environment=AVX2, name=name, **options) for name in engines
            }
            workers[FULL] = Worker("bench.engines:make", name="minicnn", **options)
            what = f"{net}, {count} threads, AVX2"
            found = compare(workers, ["step"], what, rounds=rounds, burst_seconds=burst_seconds)
            results += [{"net": net, "threads": count, "batch": batch, **entry} for entry in found]
    return results
