"""What is pruned as a whole: single weights, filters, or input channels of a layer."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import minicnn_kernels as kernels
from minicnn.compress.select import TRANSPOSED
from minicnn.nn.module import Module
from minicnn.nn.transform import raw

UNITS = ("weight", "filter", "channel")


@dataclass(frozen=True)
class Units:
    """How the weight of a layer divides into units; groups and axis as in the kernels' selection.py."""

    shape: tuple[int, ...]
    groups: int
    axis: int | None

    @classmethod
    def of(cls, layer: Module, unit: str) -> Units:
        """Those of a convolution or a dense layer. unit: one of UNITS."""
        transposed = isinstance(layer, TRANSPOSED)
        axis = None if unit == "weight" else int((unit == "channel") != transposed)
        return cls(raw(layer, "weight").shape, getattr(layer, "groups", 1), axis)

    @property
    def count(self) -> int:
        """How many units there are."""
        if self.axis is None:
            return math.prod(self.shape)
        return self.shape[0] if self.axis == 0 else self.groups * self.shape[1]

    @property
    def size(self) -> int:
        """Weights in one unit."""
        return math.prod(self.shape) // self.count

    def sums(self, values: Any) -> Any:
        """Sum of `values`, shaped like the weight, over every unit: float64 (units,)."""
        return kernels.of(values).unit_sums(values, self.groups, self.axis)

    def spread(self, flags: Any) -> Any:
        """A flag per unit as a flag per weight."""
        return kernels.of(flags).spread_units(flags, self.shape, self.groups, self.axis)


def parse_unit(unit: str) -> tuple[str, tuple[int, int] | None]:
    """'filter' as ('filter', None), '2:4' as ('weight', (2, 4)). Raises ValueError for what is neither."""
    if unit in UNITS:
        return unit, None
    pattern = re.fullmatch(r"(\d+):(\d+)", unit) if isinstance(unit, str) else None
    if pattern is not None:
        n, m = int(pattern[1]), int(pattern[2])
        if 0 < n < m:
            return "weight", (n, m)
    raise ValueError(f"prune: unknown unit {unit!r}; expected {', '.join(UNITS)} or n:m such as '2:4', n < m")
