"""An array in the memory of a device: shape, type and strides here, the elements there.

Only views are made here (reshape, permute, slices): they need no kernel, so this module needs no Numba.
Copies and arithmetic are kernels of the device's back end. A DeviceArray knows no `+` and is no NumPy array:
nothing moves between host and device unless `to_device` or `to_host` is called.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np


class NoDeviceError(RuntimeError):
    """This machine has not got the device; the message says what is missing."""


class HostOnlyError(NotImplementedError):
    """A kernel that works in host memory only was asked of a device; the message says what to do."""


class Flags(NamedTuple):
    """The two questions that the engine asks of an array's memory."""

    c_contiguous: bool
    writeable: bool


class DeviceArray:
    """A view of elements in device memory.

    memory: whatever the back end has allocated, one-dimensional, of elements of `dtype`; the last view that
    dies gives it back. offset and strides count elements, not bytes.
    """

    __slots__ = ("_dense", "device", "dtype", "memory", "offset", "shape", "strides")

    def __init__(
        self, memory: Any, dtype: Any, shape: tuple[int, ...], strides: Any = None, offset: int = 0
    ) -> None:
        self.memory, self.dtype, self.shape, self.offset = memory, np.dtype(dtype), tuple(shape), offset
        self.strides = c_strides(self.shape) if strides is None else tuple(strides)
        self.device = "cuda"
        self._dense = True if strides is None else None  # None: not asked yet

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.dtype.itemsize

    @property
    def flags(self) -> Flags:
        """Whether elements lie in C order, and whether each has a place of its own."""
        repeated = any(size > 1 and step == 0 for size, step in zip(self.shape, self.strides, strict=True))
        return Flags(self.is_dense, not repeated)

    @property
    def is_dense(self) -> bool:
        """Whether the elements lie in C order without gaps. Asked at every launch, so it is remembered."""
        if self._dense is None:
            self._dense = self._lies_in_c_order()
        return self._dense

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-dimensional array")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device={self.device!r})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError(
            f"an array of shape {self.shape} lives on {self.device!r}, where NumPy cannot reach it: "
            f"move it first, tensor.cpu() or minicnn_kernels.to_host(array)"
        )

    def shares_memory(self, other: Any) -> bool:
        """Whether `other` is a view of the same memory."""
        return isinstance(other, DeviceArray) and other.memory is self.memory

    def view(self, shape: Any, strides: Any, offset: int = 0) -> DeviceArray:
        """The same memory seen in another way; `offset` is added to this one's."""
        return DeviceArray(self.memory, self.dtype, tuple(shape), strides, self.offset + offset)

    def reshaped(self, shape: tuple[int, ...]) -> DeviceArray | None:
        """A view in another shape, of which one entry may be -1; None where only a copy can have it.

        Raises ValueError if the number of elements differs.
        """
        known = math.prod(size for size in shape if size != -1)
        shape = tuple((self.size // known if known else 0) if size == -1 else size for size in shape)
        if math.prod(shape) != self.size:
            raise ValueError(f"cannot reshape {self.shape} into {shape}")
        return self.view(shape, None) if self.is_dense else None

    def permuted(self, dims: tuple[int, ...]) -> DeviceArray:
        """A view with dimension i taken from dims[i]."""
        return self.view([self.shape[d] for d in dims], [self.strides[d] for d in dims])

    def broadcast(self, shape: tuple[int, ...]) -> DeviceArray:
        """A view with repeated elements, of stride 0. Raises ValueError if `shape` does not fit."""
        shape, extra = tuple(shape), len(shape) - self.ndim
        if np.broadcast_shapes(self.shape, shape) != shape:
            raise ValueError(f"cannot broadcast {self.shape} to {shape}")
        strides = [0 if old == 1 else step for old, step in zip(self.shape, self.strides, strict=True)]
        return self.view(shape, [0] * extra + strides)

    def sliced(self, index: tuple[Any, ...]) -> DeviceArray:
        """x[index] for integers, slices, None and `...`, as NumPy has it. Raises IndexError."""
        index = _without_ellipsis(index, self.ndim)
        shape: list[int] = []
        strides: list[int] = []
        offset, axis = 0, 0
        for part in index:
            if part is None:
                shape.append(1)
                strides.append(0)
                continue
            size, step = self.shape[axis], self.strides[axis]
            if isinstance(part, slice):
                positions = range(size)[part]
                shape.append(len(positions))
                strides.append(step * positions.step)
                offset += step * positions.start if len(positions) else 0
            else:
                offset += step * range(size)[part]
            axis += 1
        return self.view(shape, strides, offset)

    def _lies_in_c_order(self) -> bool:
        expected = 1
        for size, step in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and step != expected:
                return self.size == 0
            expected *= size
        return True


def c_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Steps, in elements, of an array of this shape in C order."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _without_ellipsis(index: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    """`index` with one entry for each dimension, beside those that are None."""
    given = sum(part is not None and part is not Ellipsis for part in index)
    if given > ndim:
        raise IndexError(f"too many indices: {given} for {ndim} dimensions")
    rest = (slice(None),) * (ndim - given)
    for place, part in enumerate(index):
        if part is Ellipsis:
            return (*index[:place], *rest, *index[place + 1 :])
    return (*index, *rest)
