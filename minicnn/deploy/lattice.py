"""Lattices as they are stored: at most 256 points, numbered by uint8; and layers counted in whole steps.

A point is (q - zero_point) * scale. Where numbers below 0 are used, 128 is added to them and to the zero
point, so that every stored activation is unsigned and every stored weight signed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

import minicnn_kernels as kernels
from minicnn.graph.constants import host_array
from minicnn.graph.ir import Value
from minicnn_kernels.reference.quantization import along, counted_in_steps

_SIGNED = 128  # what is added to signed numbers


@dataclass(frozen=True)
class Lattice:
    """The points (q - zero_point) * scale, in float32, for q from `low` to `high`, all in 0 ... 255."""

    scale: np.float32
    zero_point: int
    low: int
    high: int

    def same_points(self, other: Lattice) -> bool:
        """Whether equal numbers stand for equal points."""
        return self.scale == other.scale and self.zero_point == other.zero_point

    def has_scale(self, scale: Value) -> bool:
        """Whether the constant `scale` (0-d) is that of this lattice."""
        array = host_array(scale) if scale.kind == "constant" else None
        return array is not None and array.shape == () and array.dtype == np.float32 and array == self.scale

    def clipped(self, low: int, high: int) -> Lattice:
        """The same points from `low` to `high`."""
        return replace(self, low=low, high=high)

    def points(self) -> np.ndarray:
        """(256,) float32: what every uint8 stands for."""
        k = kernels.backend("reference")
        return k.dequantize(np.arange(256, dtype=np.uint8), self.scale, np.int32(self.zero_point), None)

    def floats(self, stored: np.ndarray) -> np.ndarray:
        """What the numbers `stored`, uint8, stand for, float32."""
        return self.points()[stored]

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """The numbers, uint8, of the nearest points."""
        k = kernels.backend("reference")
        return k.quantize(x, self.scale, np.int32(self.zero_point), self.low, self.high, None, np.uint8)


def lattice_of(scale: Value, zero_point: Value, qmin: int, qmax: int) -> Lattice | None:
    """The stored lattice of a quantizer; None if it is no constant one of float32 or has too many points."""
    if scale.kind != "constant" or zero_point.kind != "constant" or not qmin < qmax <= qmin + 255:
        return None
    step, zero = host_array(scale), host_array(zero_point)
    if step.shape or zero.shape or step.dtype != np.float32 or not 0 < step < np.inf:
        return None
    shift = 0 if qmin >= 0 and qmax <= 255 else _SIGNED if qmin >= -128 and qmax <= 127 else -qmin
    if not qmin <= zero <= qmax:
        return None
    return Lattice(np.float32(step), int(zero) + shift, qmin + shift, qmax + shift)


def whole_weights(weight: Value, scale: Value) -> np.ndarray | None:
    """Weights in steps of their scale (0-d or per output channel), int8; None if they do not fit into it."""
    if weight.kind != "constant" or scale.kind != "constant":
        return None
    steps = np.rint(host_array(weight) / along(host_array(scale), host_array(weight), 0))
    return steps.astype(np.int8) if (np.abs(steps + 0.5) < 128).all() else None


def counts(
    bias: Value | None, x_scale: Value, w_scale: np.ndarray, y_scale: Value | None, outputs: int | None
) -> tuple[np.ndarray | None, np.ndarray]:
    """(bias, int32, in steps of x_scale * w_scale; what one such step is in steps of y_scale, float32).

    Both (outputs,), or the second 0-d if outputs is None.
    """
    steps, factor = counted_in_steps(
        None if bias is None else host_array(bias),
        host_array(x_scale),
        w_scale,
        None if y_scale is None else host_array(y_scale),
    )
    factor = np.asarray(factor, np.float32)
    if outputs is not None:
        factor = np.ascontiguousarray(np.broadcast_to(factor, (outputs,)))
    return None if steps is None else steps.astype(np.int32), factor


def sums_fit(lattice: Lattice, weight: np.ndarray, bias: np.ndarray | None) -> bool:
    """Whether no sum of products with whole weights (O, ...), with its bias, leaves int32."""
    farthest = max(lattice.high - lattice.zero_point, lattice.zero_point - lattice.low)
    largest = np.abs(weight.reshape(len(weight), -1).astype(np.int64)).sum(axis=1) * farthest
    return bool((largest + (0 if bias is None else np.abs(bias.astype(np.int64))) < 2**31).all())
