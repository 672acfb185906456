"""Integer kernels and programs of deployed models: what to call, and by which way it is computed.

A program becomes a table of steps (`integers/plan.py`) that one compiled loop walks, a group of images at a
time (`integers/run.py`); a kernel called alone is a program of one call. Where the instruction for it is
missing, products are made by the float32 kernels, cut so that every sum is exact. All ways give the bits of
`reference/integer.py`, which also serves calls that no step was written for.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minicnn_kernels import memory, threads
from minicnn_kernels.algorithms import using
from minicnn_kernels.cpu.calls import aligned
from minicnn_kernels.cpu.compiler import THREAD_SLOTS, kernel
from minicnn_kernels.cpu.conv import conv2d_forward
from minicnn_kernels.cpu.integers.multiply import Multiply
from minicnn_kernels.cpu.integers.plan import Output, Plan, make_plan
from minicnn_kernels.cpu.integers.routes import VNNI, route
from minicnn_kernels.cpu.integers.run import (
    OUTSIDE,
    first_byte,
    multiply_plainly,
    run_groups,
    run_steps,
    share_product,
    table,
)
from minicnn_kernels.cpu.layout import address, contiguous
from minicnn_kernels.cpu.linear import linear_forward
from minicnn_kernels.cpu.quantization import exact_product
from minicnn_kernels.integer_calls import IntegerCall, Slot, check_calls, count_images, run_calls
from minicnn_kernels.reference import integer as reference
from minicnn_kernels.reference.quantization import dequantize, quantize
from minicnn_kernels.reference.shape import cat

__all__ = [
    "IntegerProgram",
    "integer_add_forward",
    "integer_avg_pool2d_forward",
    "integer_conv2d_forward",
    "integer_linear_forward",
    "integer_lookup",
    "integer_max_pool2d_forward",
]

_PLANS_KEPT = 8  # of a program: for so many shapes of inputs


class IntegerProgram:
    """A row of calls as one compiled loop over groups of images; see the reference for the arguments.

    The first run for images of a new size packs the weights for it. Threads may run a program at the same
    time. Where `algorithm("integer")` is float, and for calls without a step, kernels run one by one.
    """

    def __init__(self, calls, inputs, outputs):
        self.calls = tuple(IntegerCall(*call) for call in calls)
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        check_calls(self.calls, self.inputs, self.outputs)
        self._prepared: dict[Any, _Prepared | None] = {}
        self._lock = threading.Lock()

    def __call__(self, *arrays):
        """The outputs, a tuple. Raises ValueError if the number of arrays is not that of the inputs."""
        prepared = self.prepare(*arrays)
        if prepared is None:
            return run_calls(_KERNELS, self.calls, self.inputs, self.outputs, arrays)
        return prepared.run(arrays)

    def prepare(self, *arrays):
        """The compiled loop's table for arrays like these; None if kernels are to run one by one."""
        if route() == "float" or len(arrays) != len(self.inputs):
            return None
        key = tuple([(array.shape[1:], array.dtype.char) for array in arrays])
        if key not in self._prepared:
            plan = make_plan(self.calls, self.inputs, self.outputs, arrays)
            with self._lock:
                if len(self._prepared) >= _PLANS_KEPT:
                    del self._prepared[next(iter(self._prepared))]
                self._prepared[key] = None if plan is None else _Prepared(plan)
        return self._prepared.get(key)


class _Prepared:
    """A plan in the form that `integers/run.py` reads."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._table = table(plan.steps)
        self._program = address(self._table), len(self._table)
        self._scratch = aligned(plan.scratch)  # bytes of a thread, whole cache lines
        self._results = [
            (shape[2:] if flat and shape[:2] == (1, 1) else shape, dtype)
            for shape, flat, dtype in plan.outputs
        ]
        self._lines = [
            (address(line), isinstance(step, Multiply), bool(getattr(step, "shared", False)))
            for line, (step, _) in zip(self._table, plan.steps, strict=True)
        ]
        self._shared = any(is_shared for _, _, is_shared in self._lines)
        self._free: list[_Workspace] = []

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """The outputs for arrays of the shapes that the plan was made for.

        For one image of a small net the arithmetic takes 30 us; all that is said here takes 4.
        """
        images = count_images(arrays)
        results = [memory.empty((images, *shape), dtype) for shape, dtype in self._results]
        try:
            workspace = self._free.pop()  # nobody else has it
        except IndexError:
            workspace = _Workspace(self._scratch * THREAD_SLOTS, len(arrays) + len(results))
        if images:
            workspace.outside[:] = [number for array in (*arrays, *results) for number in _outside(array)]
            self._run(workspace, images)
        self._free.append(workspace)
        return tuple(map(_as_asked, results, self.plan.outputs))

    def _run(self, workspace: _Workspace, images: int) -> None:
        outside, scratch = workspace.outside_address, workspace.scratch
        workers = threads.get_threads()
        if route() == "plain" and VNNI:
            for first in range(0, images, self.plan.group):
                count = min(self.plan.group, images - first)
                for line, is_product, _ in self._lines:
                    if is_product:
                        multiply_plainly(line, scratch, count)
                    else:
                        run_steps(line, 1, outside, scratch, first, count)
        elif images < workers and self._shared:
            for line, _, is_shared in self._lines:
                if is_shared:
                    share_product(line, scratch, images, workers)
                else:
                    run_steps(line, 1, outside, scratch, 0, images)
        elif images == 1 or (workers == 1 and images <= self.plan.group):
            run_steps(*self._program, outside, scratch, 0, images)
        else:
            tasks = -(-images // self.plan.group)
            group = -(-images // (-(-tasks // workers) * workers))  # every thread gets as many
            run_groups(*self._program, outside, scratch, self._scratch, images, group)


class _Workspace:
    """What one run needs for itself, kept from run to run."""

    def __init__(self, scratch: int, arrays: int) -> None:
        self._memory = np.empty(scratch + memory.ALIGNMENT, np.uint8)
        self.scratch = aligned(address(self._memory))
        self.outside = np.zeros(arrays * OUTSIDE, np.int64)
        self.outside_address = address(self.outside)


def _outside(array: np.ndarray) -> tuple[int, ...]:
    """Its address, and bytes between images, channels, rows and columns; numbers of a row are channels."""
    if array.ndim == 4:
        return (first_byte(array), *array.strides)
    of_image, of_channel = array.strides
    return first_byte(array), of_image, of_channel, 0, of_channel * array.shape[1]


def _as_asked(result: np.ndarray, output: Output) -> np.ndarray:
    """Images (N, H, W, C) in memory as the images, or the rows, that they stand for; rows as they are."""
    if result.ndim == 2:
        return result
    images = result.transpose(0, 3, 1, 2)
    return images.reshape(len(result), math.prod(output.shape)) if output.flat else images


def integer_conv2d_forward(
    x, weight, bias, factor, x_zero, y_zero, qmin, qmax, stride, padding, dilation, groups, pool
):
    """Convolution of x (N, C, H, W) uint8 with weight (O, C/groups, kh, kw) int8; see the reference."""
    constants = weight, bias, factor, x_zero, y_zero, qmin, qmax, stride, padding, dilation, groups, pool
    if route() != "float":
        return _alone("integer_conv2d_forward", x, *constants)

    def product(x, weight):
        with using("conv2d", "implicit"):  # sums of products: Winograd's transforms leave the whole numbers
            return conv2d_forward(x, weight, None, stride, padding, dilation, groups)

    y = None
    if weight.shape[1] * groups == x.shape[1]:
        y = _by_floats(product, x, weight, bias, factor, x_zero, y_zero, qmin, qmax)
    if y is None:
        return reference.integer_conv2d_forward(x, *constants)
    if pool is None:
        return y
    if y_zero is None:
        return reference.max_pool2d_forward(y, *pool, (0, 0), (1, 1), False)[0]
    return integer_max_pool2d_forward(y, *pool, (0, 0), (1, 1), False)


def integer_linear_forward(x, weight, bias, factor, x_zero, y_zero, qmin, qmax):
    """x (N, K) uint8 times the transpose of weight (O, K) int8; see the reference."""
    constants = weight, bias, factor, x_zero, y_zero, qmin, qmax
    if route() != "float":
        return _alone("integer_linear_forward", x, *constants)
    y = None
    if weight.shape[1] == x.shape[1]:
        y = _by_floats(lambda x, weight: linear_forward(x, weight, None), x, *constants)
    return reference.integer_linear_forward(x, *constants) if y is None else y


def integer_avg_pool2d_forward(x, factor, x_zero, y_zero, qmin, qmax, kernel_size, stride, padding):
    """Sums over windows of x uint8 times the factor; see the reference."""
    constants = factor, x_zero, y_zero, qmin, qmax, kernel_size, stride, padding
    return _alone("integer_avg_pool2d_forward", x, *constants)


def integer_max_pool2d_forward(x, kernel_size, stride, padding, dilation, ceil_mode):
    """Maximum over windows of x uint8, padding never."""
    return _alone("integer_max_pool2d_forward", x, kernel_size, stride, padding, dilation, ceil_mode)


def integer_add_forward(a, b, a_scale, a_zero, b_scale, b_zero, y_scale, y_zero, qmin, qmax):
    """The sum of two lattices, uint8 of one shape, on a third."""
    if a.ndim not in (2, 4) or a.shape != b.shape:
        return reference.integer_add_forward(
            a, b, a_scale, a_zero, b_scale, b_zero, y_scale, y_zero, qmin, qmax
        )
    constants = a_scale, a_zero, b_scale, b_zero, y_scale, y_zero, qmin, qmax
    call = IntegerCall("integer_add_forward", (Slot(0), Slot(1), *constants), 2)
    return _run_alone(call, a, b)


def integer_lookup(x, table):
    """table[x], for x uint8: every function of one number. table (256,), uint8 or float32."""
    if x.ndim not in (2, 4):
        return reference.integer_lookup(x, table)
    return _alone("integer_lookup", x, table)


def _alone(name: str, x: np.ndarray, *constants: Any) -> np.ndarray:
    """One kernel as a program."""
    return _run_alone(IntegerCall(name, (Slot(0), *constants), 1), x)


def _run_alone(call: IntegerCall, *arrays: np.ndarray) -> np.ndarray:
    plan = make_plan([call], range(len(arrays)), [call.result], arrays)
    if plan is None:
        (y,) = reference.IntegerProgram([call], range(len(arrays)), [call.result])(*arrays)
        return y
    return _Prepared(plan).run(arrays)[0]


def _by_floats(
    product: Callable[..., np.ndarray], x, weight, bias, factor, x_zero, y_zero, qmin, qmax
) -> np.ndarray | None:
    """Sums by a float32 kernel, where they are exact, and what follows them; None where they are not."""
    one = np.float32(1)
    steps = x.astype(np.float32) - np.float32(x_zero)
    acc = exact_product(product, steps, one, weight.astype(np.float32), one)
    if acc is None:
        return None
    outputs = len(weight)
    channels_last = acc.transpose(0, 2, 3, 1) if acc.ndim == 4 else acc
    sums = contiguous(channels_last) if acc.dtype == np.float32 else np.ascontiguousarray(channels_last)
    y = memory.empty(sums.shape, np.float32 if y_zero is None else np.uint8)
    offsets = np.zeros(outputs) if bias is None else bias.astype(np.float64)
    factors = np.ascontiguousarray(np.broadcast_to(factor, (outputs,)), np.float32)
    rows = y.reshape(-1, outputs), sums.reshape(-1, outputs)
    if y_zero is None:
        _scale_rows(*rows, offsets, factors)
    else:
        zero = np.int32(y_zero)
        _requantize_rows(*rows, offsets, factors, np.float32(qmin - zero), np.float32(qmax - zero), zero)
    return y.transpose(0, 3, 1, 2) if acc.ndim == 4 else y


@kernel
def _scale_rows(y, acc, bias, factor):
    for row in range(y.shape[0]):
        for c in range(y.shape[1]):
            y[row, c] = np.float32(np.float64(acc[row, c]) + bias[c]) * factor[c]


@kernel
def _requantize_rows(y, acc, bias, factor, low, high, zero):
    for row in range(y.shape[0]):
        for c in range(y.shape[1]):
            step = np.rint(np.float32(np.float64(acc[row, c]) + bias[c]) * factor[c])
            step = low if step < low else step
            y[row, c] = np.int32(high if step > high else step) + zero


_KERNELS: dict[str, Callable[..., Any]] = {
    "concatenate": cat,
    "dequantize": dequantize,
    "flatten": reference.flatten,
    "integer_add_forward": integer_add_forward,
    "integer_avg_pool2d_forward": integer_avg_pool2d_forward,
    "integer_conv2d_forward": integer_conv2d_forward,
    "integer_linear_forward": integer_linear_forward,
    "integer_lookup": integer_lookup,
    "integer_max_pool2d_forward": integer_max_pool2d_forward,
    "quantize": quantize,
}
