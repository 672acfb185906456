"""Arrays in, arrays out: the numerical kernels under minicnn, useful without it.

Each back end is a flat namespace of functions with the same names and signatures: `reference` (plain NumPy,
the specification, any dtype), `cpu` (Numba, float32, parallel) and `cuda` (numba.cuda, for arrays on a GPU).
`of(array)` picks the back end that answers for an array; nothing here knows about gradients. Look next into
`reference/` for what every kernel means and into `cpu/` for how it is made fast.
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
from minicnn_kernels.device_array import DeviceArray, HostOnlyError, NoDeviceError
from minicnn_kernels.threads import get_threads, set_threads

__all__ = [
    "ALGORITHMS",
    "DEVICES",
    "DeviceArray",
    "HostOnlyError",
    "NoDeviceError",
    "algorithm",
    "available_backends",
    "backend",
    "device_of",
    "devices",
    "empty_like",
    "get_threads",
    "memory",
    "of",
    "require",
    "set_algorithm",
    "set_threads",
    "share_memory",
    "to_device",
    "to_host",
    "use",
]

DEVICES = ("cpu", "cuda")  # names of devices, whether this machine has them or not
_NAMES = ("reference", "cpu")
_forced = threading.local()
_loaded: dict[str, ModuleType] = {}


def available_backends() -> tuple[str, ...]:
    """Names of the back ends for arrays in host memory, each of which `backend` and `use` accept."""
    return _NAMES


def backend(name: str) -> ModuleType:
    """The back end called `name`. Numba is imported when `cpu` or `cuda` is first asked for, not before.

    Raises ValueError for an unknown name.
    """
    module = _loaded.get(name)
    if module is None:
        if name not in (*_NAMES, "cuda"):
            raise ValueError(f"unknown back end {name!r}: expected one of {', '.join(_NAMES)}, cuda")
        module = _loaded[name] = import_module(f"minicnn_kernels.{name}")
    return module


def of(*arrays: Any) -> Any:
    """The back end for these arrays: `cuda` for arrays there, `cpu` if all floating ones are float32, or
    `reference`.

    float64 is answered by the reference, so that gradient checks run in double precision through
    the very formulas that the fast kernels are compared with, and no kernel is compiled twice.
    """
    forced = getattr(_forced, "name", None)
    if forced is not None:
        return backend(forced)
    fast = False
    for array in arrays:
        if type(array) is DeviceArray:
            return backend("cuda")
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


def require(device: str) -> None:
    """Raises ValueError for an unknown device, NoDeviceError if this machine has not got it, ImportError if a
    package for it is missing."""
    if device not in DEVICES:
        raise ValueError(f"unknown device {device!r}: expected one of {', '.join(DEVICES)}")
    if device == "cuda":
        import_module("minicnn_kernels.cuda.driver").require_device()


def devices() -> tuple[str, ...]:
    """Devices that arrays can live on here. Looking for a GPU takes a moment: Numba is imported."""
    try:
        require("cuda")
    except (ImportError, NoDeviceError):
        return ("cpu",)
    return DEVICES


def device_of(array: Any) -> str:
    """The device that an array lives on."""
    return array.device if isinstance(array, DeviceArray) else "cpu"


def to_device(array: Any, device: str) -> Any:
    """`array` on `device`: itself if it is there, else a copy. Raises as `require` does."""
    if device == device_of(array):
        return array
    require(device)
    return to_host(array) if device == "cpu" else backend(device).to_device(array)


def to_host(array: Any) -> np.ndarray:
    """`array` as a NumPy array in host memory; the same array if it is there already."""
    return backend("cuda").to_host(array) if isinstance(array, DeviceArray) else np.asarray(array)


def empty_like(array: Any, dtype: Any = None) -> Any:
    """Uninitialised array of this one's shape, on its device, in its order of axes in memory if that is the
    host's."""
    if isinstance(array, DeviceArray):
        return backend("cuda").empty(array.shape, array.dtype if dtype is None else dtype)
    return memory.empty_like(array, dtype)


def share_memory(a: Any, b: Any) -> bool:
    """Whether a change to one array may show in the other."""
    if isinstance(a, DeviceArray):
        return a.shares_memory(b)
    return not isinstance(b, DeviceArray) and np.may_share_memory(a, b)
