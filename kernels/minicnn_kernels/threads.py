"""One number of threads for everything that computes: Numba's pool and the BLAS inside NumPy and SciPy.

`OMP_NUM_THREADS=1` does not bind Numba and `NUMBA_NUM_THREADS` does not bind BLAS; `set_threads`
sets both. Kernels split their work into a number of tasks that depends on shapes alone, so results
do not depend on this number.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_threads: int | None = None
changes = 0  # calls of `set_threads` so far: Numba keeps a number for each Python thread, see cpu/compiler.py


def available_cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity call
        return os.cpu_count() or 1


def get_threads() -> int:
    """Threads that kernels use: what `set_threads` said, else MINICNN_NUM_THREADS, else all cores."""
    if _threads is not None:
        return _threads
    return _parse(os.environ.get("MINICNN_NUM_THREADS")) or available_cores()


def set_threads(n: int) -> None:
    """Use `n` threads in Numba kernels and in BLAS.

    Raises ValueError if `n` is not a positive integer or exceeds what Numba was started with.
    """
    global _threads, changes
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"set_threads: expected a positive integer, got {n!r}")
    limit = _numba_limit()
    if n > limit:
        raise ValueError(
            f"set_threads: {n} threads asked for, but at most {limit} can be had; raise NUMBA_NUM_THREADS"
        )
    _threads = n
    changes += 1
    apply_threads()


def apply_threads() -> None:
    """Tell Numba (if loaded) and BLAS what `get_threads` says. The cpu back end calls this when it loads."""
    n = min(get_threads(), _numba_limit())
    numba = sys.modules.get("numba")
    if numba is not None and hasattr(numba, "set_num_threads"):
        numba.set_num_threads(n)
    for library in _openblas_libraries():
        for prefix in ("scipy_openblas", "openblas"):
            for suffix in ("64_", "", "_64"):
                setter = getattr(library, f"{prefix}_set_num_threads{suffix}", None)
                if setter is not None:
                    setter(ctypes.c_int(n))


def _parse(text: str | None) -> int | None:
    if not text:
        return None
    try:
        n = int(text)
    except ValueError:
        n = 0
    if n < 1:
        raise ValueError(f"MINICNN_NUM_THREADS: expected a positive integer, got {text!r}")
    return n


def _numba_limit() -> int:
    numba = sys.modules.get("numba")
    if numba is not None and hasattr(numba, "config"):
        return numba.config.NUMBA_NUM_THREADS
    return _parse(os.environ.get("NUMBA_NUM_THREADS")) or available_cores()


def _openblas_libraries() -> list[ctypes.CDLL]:
    """The OpenBLAS copies that NumPy's and SciPy's wheels bring; none for other builds."""
    libraries = []
    for package in ("numpy", "scipy"):
        module = sys.modules.get(package)
        if module is None or module.__file__ is None:
            continue
        root = Path(module.__file__).parent
        for folder in (root.parent / f"{package}.libs", root / ".dylibs"):
            for path in sorted(folder.glob("*openblas*")):
                try:
                    libraries.append(ctypes.CDLL(str(path)))
                except OSError:
                    continue
    return libraries
