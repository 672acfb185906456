"""Which elements of an image a term of a convolution's sum reads, as a table on the device.

What `implicit.py` gathers by: made on the host once for each geometry, a few numbers for each term.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minicnn_kernels.cuda.gemm import FLOAT32_TILES
from minicnn_kernels.cuda.storage import flat, upload

__all__ = ["NOWHERE", "Geometry", "Pixels", "backward_pixels", "forward_pixels"]

NOWHERE = -(1 << 20)  # a row outside of every image
_AHEAD = (
    160  # entries behind a table's end: of strips that are brought and never used, of columns past the edge
)


class Geometry(NamedTuple):
    """A convolution's sizes. image, out: (H, W) of input and output; the others as everywhere."""

    n: int
    channels: int
    image: tuple[int, int]
    outputs: int
    out: tuple[int, int]
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def terms(self) -> int:
        """Of the sum for one result."""
        return self.channels // self.groups * math.prod(self.kernel_size)


class Pixels(NamedTuple):
    """Pixels of the result that see the same taps: all of them, or with a stride every stride-th.

    table: for each term of their sums four numbers: steps from the window's corner, rows down, columns to the
    right, place in the weight; -1 is the place of those that only fill up. terms: a multiple of a strip's
    depth. shape: (rows, columns) of pixels. first: of the result's pixels, and step. From pixel (u, v) the
    window's corner is (u, v) * source_step + source_first.
    """

    table: Any
    terms: int
    shape: tuple[int, int]
    first: tuple[int, int]
    step: tuple[int, int]
    source_first: tuple[int, int]
    source_step: tuple[int, int]


def _table(entries: Sequence[tuple[int, int, int, int]]) -> tuple[Any, int]:
    """(entries on the device, their number filled up to whole strips)."""
    depth = FLOAT32_TILES[0].depth
    terms = -(-len(entries) // depth) * depth
    filling = [(0, NOWHERE, 0, -1)] * (terms - len(entries) + _AHEAD)
    return flat(upload(np.array([*entries, *filling], np.int32).reshape(-1))), terms


@functools.lru_cache(maxsize=512)
def forward_pixels(g: Geometry) -> Pixels:
    """For the result, and for the gradient of the weight, which reads the same windows."""
    (h, w), (kh, kw), (dh, dw) = g.image, g.kernel_size, g.dilation
    taps = itertools.product(range(g.channels // g.groups), range(kh), range(kw))
    table, terms = _table(
        [((c * h + p * dh) * w + q * dw, p * dh, q * dw, place) for place, (c, p, q) in enumerate(taps)]
    )
    corner = (-g.padding[0], -g.padding[1])
    return Pixels(table, terms, g.out, (0, 0), (1, 1), corner, g.stride)


@functools.lru_cache(maxsize=512)
def backward_pixels(g: Geometry) -> tuple[Pixels, ...]:
    """For the gradient of the input: a pixel i gets from window (i + padding - tap dilation) / stride,
    where that is whole. So pixels whose row and column leave the same rest see the same taps, one window
    apart; a lattice for each rest multiplies no zeros that a stride would put between windows."""
    found = []
    for rests in itertools.product(*(range(min(s, size)) for s, size in zip(g.stride, g.image, strict=True))):
        steps = [
            [(p, (rest + pad - p * d) // s) for p in range(k) if (rest + pad - p * d) % s == 0]
            for rest, pad, k, s, d in zip(rests, g.padding, g.kernel_size, g.stride, g.dilation, strict=True)
        ]
        (out_h, out_w), (kh, kw) = g.out, g.kernel_size
        per_group, taps = g.outputs // g.groups, math.prod((g.channels // g.groups, kh, kw))
        table, terms = _table(
            [
                ((o * out_h + down) * out_w + right, down, right, o * taps + p * kw + q)
                for o in range(per_group)
                for p, down in steps[0]
                for q, right in steps[1]
            ]
        )
        rows, columns = (
            -(-(size - rest) // s) for size, rest, s in zip(g.image, rests, g.stride, strict=True)
        )
        first = (rests[0], rests[1])
        found.append(Pixels(table, terms, (rows, columns), first, g.stride, (0, 0), (1, 1)))
    return tuple(found)
