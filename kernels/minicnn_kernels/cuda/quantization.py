"""Masks and fake quantization, with the very bits of the cpu: no product here meets a sum that could fuse.

The arithmetic is written down in `reference/quantization.py`; division is rounded as IEEE has it, and rint to
even. scale and zero_point are 0-d arrays or numbers, or (C,) along `axis`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import Kernel, cuda, device_function, kernel, launch, rint
from minicnn_kernels.cuda.elementwise import where
from minicnn_kernels.cuda.maps import typed
from minicnn_kernels.cuda.reduction import sum as total
from minicnn_kernels.cuda.shape import copy_into
from minicnn_kernels.cuda.storage import cast, dense, empty, flat, on_device
from minicnn_kernels.device_array import DeviceArray

__all__ = [
    "apply_mask",
    "apply_mask_",
    "dequantize",
    "fake_quantize_backward",
    "fake_quantize_backward_scale",
    "fake_quantize_forward",
    "quantize",
]

_ZERO = np.float32(0)


def apply_mask(x: Any, keep: Any) -> DeviceArray:
    """x where `keep` (bool, the shape of x) holds, and +0 elsewhere."""
    return where(keep, x, 0)


def apply_mask_(x: Any, keep: Any) -> None:
    """Write 0 into x, in place, wherever `keep` does not hold."""
    copy_into(x, where(keep, x, 0))


def fake_quantize_forward(
    x: Any, scale: Any, zero_point: Any, qmin: int, qmax: int, axis: Any
) -> DeviceArray:
    """The nearest point of the lattice: (saturate(rint(x / scale) + zero_point) - zero_point) * scale."""
    return _on_lattice(_nearest, empty(x.shape), (x,), scale, zero_point, (qmin, qmax), axis)


def fake_quantize_backward(
    grad: Any, x: Any, scale: Any, zero_point: Any, qmin: int, qmax: int, axis: Any
) -> DeviceArray:
    """Gradient by x, straight through: grad inside the range, 0 outside."""
    return _on_lattice(_inside, empty(x.shape), (x, grad), scale, zero_point, (qmin, qmax), axis)


def fake_quantize_backward_scale(
    grad: Any, x: Any, scale: Any, zero_point: Any, qmin: int, qmax: int, axis: Any
) -> DeviceArray:
    """Gradient by the scale, shaped like it."""
    products = _on_lattice(_by_scale, empty(x.shape), (x, grad), scale, zero_point, (qmin, qmax), axis)
    others = None if scale.ndim == 0 else tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    return total(products, others, False)


def quantize(x: Any, scale: Any, zero_point: Any, qmin: int, qmax: int, axis: Any, dtype: Any) -> DeviceArray:
    """The whole numbers q of the nearest points of the lattice, as `dtype`."""
    steps = _on_lattice(_steps, empty(x.shape), (x,), scale, zero_point, (qmin, qmax), axis)
    return cast(steps, dtype)


def dequantize(q: Any, scale: Any, zero_point: Any, axis: Any) -> DeviceArray:
    """(q - zero_point) * scale, in the type of scale."""
    return _on_lattice(_values, empty(q.shape), (cast(q, np.float32),), scale, zero_point, (0, 0), axis)


def _on_lattice(
    run: Kernel,
    result: DeviceArray,
    arrays: tuple,
    scale: Any,
    zero_point: Any,
    limits: tuple[int, int],
    axis: Any,
) -> DeviceArray:
    """Run a kernel on arrays of one shape; element i belongs to channel i // after % channels."""
    on_device("quantization", *arrays, scale, zero_point)
    scale, zero_point = typed(scale, np.float32), typed(zero_point, np.int32)
    shape = result.shape
    after = (
        math.prod(shape[axis % len(shape) + 1 :]) if axis is not None and scale.ndim + zero_point.ndim else 1
    )
    launch(
        run,
        result.size,
        flat(result),
        *(flat(dense(x)) for x in arrays),
        flat(dense(scale)),
        scale.size,
        flat(dense(zero_point)),
        zero_point.size,
        *limits,
        max(after, 1),
        result.size,
    )
    return result


_LATTICE = "float32[::1], int64, int32[::1], int64, int64, int64, int64, int64"


@device_function
def _limited(value, low, high):
    """In this order NaN stays NaN."""
    value = low if value < low else value
    return high if value > high else value


@kernel(f"float32[::1], float32[::1], {_LATTICE}", registers=48)
def _nearest(y, x, scale, scales, zero_point, zero_points, qmin, qmax, after, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        step, zero = scale[i // after % scales], zero_point[i // after % zero_points]
        low, high = np.float32(qmin - zero), np.float32(qmax - zero)
        y[i] = _limited(rint(x[i] / step), low, high) * step


@kernel(f"float32[::1], float32[::1], float32[::1], {_LATTICE}", registers=48)
def _inside(dx, x, grad, scale, scales, zero_point, zero_points, qmin, qmax, after, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        zero = zero_point[i // after % zero_points]
        value = x[i] / scale[i // after % scales]
        dx[i] = grad[i] if np.float32(qmin - zero) <= value <= np.float32(qmax - zero) else _ZERO


@kernel(f"float32[::1], float32[::1], float32[::1], {_LATTICE}", registers=48)
def _by_scale(out, x, grad, scale, scales, zero_point, zero_points, qmin, qmax, after, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        zero = zero_point[i // after % zero_points]
        low, high = np.float32(qmin - zero), np.float32(qmax - zero)
        value = x[i] / scale[i // after % scales]
        slope = rint(value) - value
        slope = low if value <= low else slope
        out[i] = grad[i] * (high if value >= high else slope)


@kernel(f"float32[::1], float32[::1], {_LATTICE}", registers=48)
def _steps(out, x, scale, scales, zero_point, zero_points, qmin, qmax, after, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        zero = zero_point[i // after % zero_points]
        low, high = np.float32(qmin - zero), np.float32(qmax - zero)
        out[i] = _limited(rint(x[i] / scale[i // after % scales]), low, high) + np.float32(zero)


@kernel(f"float32[::1], float32[::1], {_LATTICE}", registers=48)
def _values(out, q, scale, scales, zero_point, zero_points, qmin, qmax, after, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        out[i] = (q[i] - np.float32(zero_point[i // after % zero_points])) * scale[i // after % scales]
