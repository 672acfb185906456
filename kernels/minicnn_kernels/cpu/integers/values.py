"""The values of a program in a task's scratch: how an image lies there, and where.

Images are bytes (results also floats), channels innermost, with a border as wide as the convolutions that
read them want. Places are given for as long as somebody reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from minicnn_kernels import memory

SLACK = 16  # bytes that may be read behind an image


@dataclass(eq=False)
class Value:
    """Images (height, width, channels) of `size` bytes an element.

    border: (rows, columns) of pixels on every side, full of `zero`. born, dies: the first and the last call
    that it is needed in. place: of the first image and its border, in bytes.
    """

    channels: int
    height: int
    width: int
    size: int = 1
    border: tuple[int, int] = (0, 0)
    zero: int = 0
    born: int = 0
    dies: int = 0
    place: int = 0

    @property
    def pixel(self) -> int:
        """Bytes from one pixel to the next."""
        return self.channels * self.size

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's pixels, without the border."""
        return self.width * self.pixel

    @property
    def row(self) -> int:
        """Bytes from one row to the next."""
        return self.row_bytes + 2 * self.border[1] * self.pixel

    @property
    def image(self) -> int:
        """Bytes from one image to the next, whole cache lines."""
        return _lines((self.height + 2 * self.border[0]) * self.row + SLACK)

    @property
    def inside(self) -> int:
        """The place of the first pixel that is no border."""
        return self.place + self.border[0] * self.row + self.border[1] * self.pixel


def place(values: Iterable[Value], images: int) -> int:
    """Give each value the lowest place that is free while it lives; returns the bytes for all.

    images: how many lie behind each other.
    """
    living: list[Value] = []
    end = 0
    for value in sorted(values, key=lambda value: value.born):
        living = [other for other in living if other.dies >= value.born]
        value.place = 0
        for other in sorted(living, key=lambda other: other.place):
            if value.place + images * value.image <= other.place:
                break
            value.place = max(value.place, other.place + images * other.image)
        living.append(value)
        end = max(end, value.place + images * value.image)
    return end


def _lines(size: int) -> int:
    return -(-size // memory.ALIGNMENT) * memory.ALIGNMENT
