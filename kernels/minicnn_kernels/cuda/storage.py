"""Memory of the device: a pool, copies to and from the host, and dense copies of views.

cudaMalloc waits for all work that is in flight, so freed memory is kept by type and size class and handed out
again. All kernels run on one stream: what reuses memory runs after what used it. Kernels read flat arrays in
C order; `dense` makes them, copying by one strided kernel where a view has another order.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import Elements, cuda, kernel, launch, listening, require_device, stream
from minicnn_kernels.device_array import DeviceArray

__all__ = [
    "Lease", "Pool", "cast", "clear", "computed_in", "copy_strided", "dense", "empty", "flat", "on_device",
    "shared_pool", "to_device", "to_host", "upload",
]  # fmt: skip

_NAMES = "float32", "bool", "uint8", "int8", "int16", "int32", "int64", "uint32", "uint64"
_TYPES = frozenset(np.dtype(name) for name in _NAMES)
_AXES = 6  # dimensions that a strided copy can have after neighbours were merged


class Pool:
    """Device memory that nobody views, by type and size class."""

    def __init__(self) -> None:
        self.unused: dict[tuple[np.dtype, int], deque] = {}
        self._lock = threading.Lock()

    def take(self, dtype: np.dtype, size: int) -> Lease:
        """Memory for `size` elements: what came back, or new."""
        step = 1 << max(size.bit_length() - 3, 6)  # at most an eighth is wasted
        length = max(-(-size // step), 1) * step
        with self._lock:
            waiting = self.unused.setdefault((dtype, length), deque())
        try:
            return Lease(waiting.pop(), waiting, self)
        except IndexError:
            require_device()
            return Lease(cuda.device_array(length, dtype), waiting, self)

    def clear(self) -> None:
        """Give it all back to the driver."""
        for waiting in list(self.unused.values()):
            waiting.clear()


class Lease:
    """One piece of device memory while arrays view it; when it dies, it is appended to `home`."""

    __slots__ = ("_elements", "home", "owner")

    def __init__(self, elements: Any, home: deque, owner: Any) -> None:
        self._elements, self.home, self.owner = elements, home, owner

    @property
    def elements(self) -> Any:
        """The memory, for a launch or a copy. A recording that will use it again keeps it."""
        if listening.recording is not None:
            listening.recording.hold(self)
        return self._elements

    def __del__(self) -> None:
        # No lock here: this may run inside the garbage collector. deque.append is atomic.
        self.home.append(self._elements)


_pool = Pool()


def shared_pool() -> Pool:
    """The pool of all that is no recording's own."""
    return _pool


def clear() -> None:
    """Give all unused device memory back to the driver."""
    _pool.clear()


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> DeviceArray:
    """An uninitialised array in C order. Raises TypeError for types that this back end does not compute
    in."""
    dtype = computed_in(dtype)
    recording = listening.recording
    pool = _pool if recording is None else recording.pool
    return DeviceArray(pool.take(dtype, math.prod(shape)), dtype, tuple(shape))


def computed_in(dtype: Any) -> np.dtype:
    """`dtype`, if this back end computes in it; else raises TypeError."""
    dtype = np.dtype(dtype)
    if dtype not in _TYPES:
        known = ", ".join(sorted(str(known) for known in _TYPES))
        raise TypeError(
            f"cuda: dtype {dtype} is not supported, expected one of {known}; convert with .float()"
        )
    return dtype


def flat(x: DeviceArray) -> Elements:
    """The elements of an array in C order, one-dimensional, as a launch takes them."""
    return Elements(x.memory, x.offset, x.offset + x.size)


def to_device(array: np.ndarray) -> DeviceArray:
    """A copy of a NumPy array on the device. Raises TypeError for types that it does not compute in."""
    if listening.recording is not None:
        listening.recording.refuse(f"an array of shape {array.shape} is copied from the host")
    return upload(array)


def upload(array: np.ndarray) -> DeviceArray:
    """`to_device` for a constant: its memory is outside of any recording, which will find it unchanged."""
    require_device()
    dtype = computed_in(array.dtype)
    result = DeviceArray(_pool.take(dtype, array.size), dtype, array.shape)
    if array.size:
        flat(result).cut().copy_to_device(np.ascontiguousarray(array).reshape(-1), stream=stream())
        stream().synchronize()  # the host's array may change or vanish after this
    return result


def to_host(x: DeviceArray) -> np.ndarray:
    """A copy of a device array in host memory, after all kernels that write it."""
    if listening.recording is not None:
        listening.recording.refuse(f"an array of shape {x.shape} is read by the host")
    if not x.size:
        return np.empty(x.shape, x.dtype)
    result = flat(dense(x)).cut().copy_to_host(stream=stream())
    stream().synchronize()
    return result.reshape(x.shape)


def on_device(op: str, *arrays: Any) -> None:
    """Raises TypeError if one of the arrays (None and numbers pass) is in host memory."""
    for array in arrays:
        if isinstance(array, np.ndarray):
            raise TypeError(
                f"{op}: expected all arrays on device 'cuda', got one of shape {array.shape} on the cpu; "
                f"move it with tensor.to('cuda')"
            )


def dense(x: DeviceArray) -> DeviceArray:
    """x in C order: itself if it is so already, else a copy."""
    on_device("cuda", x)
    return x if x.is_dense else cast(x, x.dtype)


def cast(x: DeviceArray, dtype: Any) -> DeviceArray:
    """x as `dtype`, a copy in C order; fractions are cut off."""
    result = empty(x.shape, dtype)
    copy_strided(result, x)
    return result


def copy_strided(result: DeviceArray, x: DeviceArray) -> None:
    """Write x, of one shape with `result`, into it; both may be any views, and types are converted."""
    shape, ours, theirs = _merged(result, x)
    launch(
        _copy_strided,
        result.size,
        _all(result),
        result.offset,
        ours,
        _all(x),
        x.offset,
        theirs,
        shape,
        result.size,
    )


def _all(x: DeviceArray) -> Elements:
    """All of the memory that x is a view of."""
    return Elements(x.memory, 0, x.memory.elements.size)


def _merged(result: DeviceArray, x: DeviceArray) -> tuple[tuple[int, ...], ...]:
    """(shape, strides of result, strides of x) with neighbours merged that both walk through as one."""
    axes: list[tuple[int, int, int]] = []
    for size, ours, theirs in zip(result.shape, result.strides, x.strides, strict=True):
        if size == 1:
            continue
        if axes and axes[-1][1] == ours * size and axes[-1][2] == theirs * size:
            axes[-1] = (axes[-1][0] * size, ours, theirs)
        else:
            axes.append((size, ours, theirs))
    if len(axes) > _AXES:
        raise ValueError(
            f"cuda: a view of {result.ndim} dimensions cannot be copied: more than {_AXES} remain"
        )
    axes = [(1, 0, 0)] * (_AXES - len(axes)) + axes
    shape, ours_all, theirs_all = zip(*axes, strict=True)
    return shape, ours_all, theirs_all


_COPY = ", ".join(["float32[::1], int64, UniTuple(int64, 6)"] * 2 + ["UniTuple(int64, 6), int64"])


@kernel(_COPY)
def _copy_strided(result, result_offset, result_strides, x, x_offset, x_strides, shape, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        rest, target, source = i, result_offset, x_offset
        for axis in range(5, -1, -1):
            place = rest % shape[axis]
            rest //= shape[axis]
            target += place * result_strides[axis]
            source += place * x_strides[axis]
        result[target] = x[source]
