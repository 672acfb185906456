"""Arrays in, arrays out: the numerical kernels under minicnn, useful without it.

Each back end is a flat namespace of functions with the same names and signatures:
`reference` (plain NumPy, the specification, any dtype) and `cpu` (Numba, float32, parallel).
`of(array)` picks the back end that answers for an array; nothing here knows about gradients.
Look next into `reference/` for what every kernel means and into `cpu/` for how it is made fast.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from minicnn_kernels import memory
from minicnn_kernels.algorithms import ALGORITHMS, algorithm, set_algorithm
from minicnn_kernels.threads import get_threads, set_threads

__all__ = [
    "ALGORITHMS",
    "algorithm",
    "available_backends",
    "backend",
    "devices",
    "get_threads",
    "memory",
    "of",
    "set_algorithm",
    "set_threads",
    "to_device",
    "to_host",
    "use",
]

_NAMES = ("reference", "cpu")
_forced = threading.local()
_loaded: dict[str, ModuleType] = {}


def available_backends() -> tuple[str, ...]:
    """Names that `backend` and `use` accept."""
    return _NAMES


def backend(name: str) -> ModuleType:
    """The back end called `name`. Numba is imported when `cpu` is first asked for, not before.

    Raises ValueError for an unknown name.
    """
    module = _loaded.get(name)
    if module is None:
        if name not in _NAMES:
            raise ValueError(f"unknown back end {name!r}: expected one of {', '.join(_NAMES)}")
        module = _loaded[name] = import_module(f"minicnn_kernels.{name}")
    return module


def of(*arrays: Any) -> Any:
    """The back end for these arrays: `cpu` if all floating ones are float32, else `reference`.

    float64 is answered by the reference, so that gradient checks run in double precision through
    the very formulas that the fast kernels are compared with, and no kernel is compiled twice.
    """
    forced = getattr(_forced, "name", None)
    if forced is not None:
        return backend(forced)
    fast = False
    for array in arrays:
        dtype = getattr(array, "dtype", None)
        if dtype == np.float32:
            fast = True
        elif dtype == np.float64:
            return backend("reference")
    return backend("cpu" if fast else "reference")


@contextmanager
def use(name: str) -> Iterator[ModuleType]:
    """Within this block `of` answers with back end `name` for every array of this thread."""
    previous = getattr(_forced, "name", None)
    _forced.name = name
    try:
        yield backend(name)
    finally:
        _forced.name = previous


def devices() -> tuple[str, ...]:
    """Devices that arrays can live on."""
    return ("cpu",)


def to_device(array: np.ndarray, device: str) -> np.ndarray:
    """`array` on `device`. Raises ValueError for a device that this installation has not."""
    if device != "cpu":
        raise ValueError(f"unknown device {device!r}: expected one of {', '.join(devices())}")
    return array


def to_host(array: Any) -> np.ndarray:
    """`array` as a NumPy array in host memory; the same array if it is there already."""
    return np.asarray(array)
