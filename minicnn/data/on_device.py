"""Batches of any loader on a device, each sent while the model computes with the one before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import minicnn_kernels as kernels
from minicnn.tensor import Tensor


def on_device(loader: Any, device: str) -> Any:
    """`loader`, whose batches are tuples of tensors, with these on `device`.

    Raises ValueError for an unknown device, ImportError or RuntimeError, which says what is missing, for one
    that is not here.
    """
    kernels.require(device)
    if device == "cpu" or isinstance(loader, DeviceLoader):
        return loader
    return (_Positioned if hasattr(loader, "load_state_dict") else DeviceLoader)(loader)


class DeviceLoader:
    """Reads one batch ahead of the one that is given out, and sends it on its way to the GPU."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["loader"], name)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        conveyor = kernels.backend("cuda").Conveyor()
        sent = None
        for batch in self.loader:
            following = _Sent(conveyor, batch), self._position_read()
            if sent is not None:
                yield self._given_out(*sent)
            sent = following
        if sent is not None:
            yield self._given_out(*sent)

    def _position_read(self) -> Any:
        """What `_given_out` will get for the batch that was just read."""

    def _given_out(self, batch: _Sent, position: Any) -> tuple[Tensor, ...]:
        return batch.open()


class _Positioned(DeviceLoader):
    """A loader that knows its place: it is that of the batch given out, not of the one read ahead."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self._position: Any = None

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        yield from super().__iter__()
        self._position = None  # the loader's own, which is the end of the epoch

    def _position_read(self) -> Any:
        return self.loader.state_dict()

    def _given_out(self, batch: _Sent, position: Any) -> tuple[Tensor, ...]:
        self._position = position
        return super()._given_out(batch, position)

    def state_dict(self) -> Any:
        """The position after the batch at hand."""
        return self.loader.state_dict() if self._position is None else self._position

    def load_state_dict(self, state: Any) -> None:
        """Continue from a position, as the loader does."""
        self.loader.load_state_dict(state)
        self._position = None


class _Sent:
    """A batch on its way. Tensors that are on a device already stay where they are."""

    def __init__(self, conveyor: Any, batch: tuple[Tensor, ...]) -> None:
        self.batch = batch
        self.parcel = conveyor.send([x.data for x in batch if x.device == "cpu"])

    def open(self) -> tuple[Tensor, ...]:
        arrived = iter(self.parcel.open())
        return tuple(Tensor(next(arrived)) if x.device == "cpu" else x for x in self.batch)
