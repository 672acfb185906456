"""Batches on their way to the device, while kernels compute with the batch before.

A copy runs beside kernels only from pinned host memory and on a stream of its own. Two things can then go
wrong, and each is prevented by an event: kernels must not read a batch before it has arrived (`Parcel.open`
lets their stream wait), and a copy must not overwrite a batch that kernels still read (a place is used again
only after kernels that were launched while it had readers). So the memory is not the pool's, whose rule is
that one stream does all the work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minicnn_kernels.cuda.driver import cuda, event, require_device, stream
from minicnn_kernels.cuda.storage import Lease, computed_in, empty
from minicnn_kernels.device_array import DeviceArray

__all__ = ["Conveyor", "Parcel"]


class _Place:
    """Memory for one array, pinned on the host and on the device.

    arrived: the newest copy between the two. readers_done: kernels that may have read the device's side
    before it was given back.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.pinned = cuda.pinned_array(shape, dtype)
        self.elements = cuda.device_array(self.pinned.size, dtype)
        self.arrived, self.readers_done = event(), event()


class Parcel(NamedTuple):
    """Arrays that were sent together."""

    arrays: list[DeviceArray]
    arrived: Any

    def open(self) -> list[DeviceArray]:
        """The arrays, for kernels that are launched after this call."""
        self.arrived.wait(stream())
        return self.arrays


class Conveyor:
    """Sends NumPy arrays to the device without waiting for them to arrive."""

    def __init__(self) -> None:
        require_device()
        self._stream = cuda.stream()
        self._returned: deque = deque()  # places whose arrays have died, as Leases append them
        self._usable: dict[tuple, deque[_Place]] = {}  # those of them that a copy may wait for

    def send(self, arrays: Sequence[np.ndarray]) -> Parcel:
        """Begin to copy. The host's arrays may change as soon as this returns."""
        parcel = Parcel([self._send(array) for array in arrays], event())
        parcel.arrived.record(self._stream)
        self._stamp()
        return parcel

    def _send(self, array: np.ndarray) -> DeviceArray:
        dtype = computed_in(array.dtype)
        if not array.size:
            return empty(array.shape, dtype)
        waiting = self._usable.setdefault((array.shape, dtype), deque())
        place = waiting.popleft() if waiting else _Place(array.shape, dtype)
        place.arrived.synchronize()  # its pinned side may still be being read: hardly ever, steps ago
        place.pinned[...] = array
        place.readers_done.wait(self._stream)
        place.elements.copy_to_device(place.pinned.reshape(-1), stream=self._stream)
        place.arrived.record(self._stream)
        return DeviceArray(_Loan(place, self._returned), dtype, array.shape)

    def _stamp(self) -> None:
        """Note what places that came back must wait for: all kernels launched until now.

        They are used by the next `send`, not by this one, so that its copy waits for the step before
        the one that is being computed, and runs beside that.
        """
        while self._returned:
            place = self._returned.popleft()
            place.readers_done.record(stream())
            self._usable[place.pinned.shape, place.pinned.dtype].append(place)


class _Loan(Lease):
    """A place while arrays view it; when it dies, the place is appended to `home`."""

    __slots__ = ("place",)

    def __init__(self, place: _Place, home: deque) -> None:
        super().__init__(place.elements, home, None)
        self.place = place

    def __del__(self) -> None:
        self.home.append(self.place)
