"""Depthwise convolution: each channel meets a kernel of its own, so there is no matrix to multiply by.

Little is computed per number read (9 multiplications for a 3x3 kernel), so what counts is to read memory once
and in its order. Rows of an image pass, padded with zeros, through a ring of lines that stays in the
first-level cache: as many lines as a window is high. Vectors hold channels, a tile of registers neighbouring
pixels. Grouped convolutions of more channels are products, see `implicit.py`.

Seen against tiles that read padded images in the second-level cache through tables, batch 64, one core:
forward 1.2 to 1.4 times as fast, the gradients 1.3 to 1.5, the input's with stride 2.4. A large layer
(64 channels of 32x32) takes 1.3 times as long as to copy its image.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import get_thread_id, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from minicnn_kernels import memory
from minicnn_kernels.cpu.blocks import INT_BYTES, LANES
from minicnn_kernels.cpu.calls import Call, aligned
from minicnn_kernels.cpu.compiler import THREAD_SLOTS, kernel
from minicnn_kernels.cpu.finish import pool_rows, relu_pixels
from minicnn_kernels.cpu.implicit import add_parts, pad_rows
from minicnn_kernels.cpu.lanes import PLAIN
from minicnn_kernels.cpu.layout import address
from minicnn_kernels.cpu.microkernel import FLOAT_BYTES, zero_floats
from minicnn_kernels.cpu.strided import windows
from minicnn_kernels.windows import conv_output_size

_TASKS = 16  # wanted where there are fewer images, if each has
_ROWS_PER_TASK = 4
_LINE = memory.ALIGNMENT // FLOAT_BYTES  # floats in a cache line
_PARTS = 8  # of the weight's gradient: sums of their own, added at the end


def make_pixels(pixels):
    """One vector of channels of `pixels` neighbours in a row of the result, as a Numba intrinsic:

    tile(x, step, taps, weight, bias, y, y_step, columns)

        count, (place, tap), (place, tap), ... = taps
        for i in range(pixels):
            y[i * y_step] = bias + sum(x[i * step + place] * weight[tap] for place, tap in taps)

    taps is the address of int64, the others of float32; places, taps and steps count floats. Everything is
    read in whole vectors; `columns` channels are written, at most a vector.
    """

    @intrinsic
    def tile(typingctx, x, step, taps, weight, bias, y, y_step, columns):
        def codegen(context, builder, signature, args):
            x, step, taps, weight, bias, y, y_step, columns = args
            emit = _Emitter(builder)
            sources = [emit.moved(x, builder.mul(step, _INT(i))) for i in range(pixels)]
            targets = [emit.moved(y, builder.mul(y_step, _INT(i))) for i in range(pixels)]
            first = emit.load(bias)
            sums = [cgutils.alloca_once_value(builder, first) for _ in range(pixels)]
            table = builder.inttoptr(taps, _INT.as_pointer())
            with cgutils.for_range(builder, builder.load(table)) as loop:
                entry = builder.add(builder.shl(loop.index, _INT(1)), _INT(1))
                place = builder.load(builder.gep(table, [entry]))
                tap = builder.load(builder.gep(table, [builder.add(entry, _INT(1))]))
                factor = emit.load(emit.moved(weight, tap))
                for source, total in zip(sources, sums, strict=True):
                    emit.add_product(emit.load(emit.moved(source, place)), factor, total)
            with builder.if_else(builder.icmp_signed(">=", columns, _INT(LANES))) as (whole, part):
                with whole:
                    for target, total in zip(targets, sums, strict=True):
                        emit.store(builder.load(total), target)
                with part:
                    for target, total in zip(targets, sums, strict=True):
                        emit.store_some(builder.load(total), target, columns)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 8), codegen

    return tile


@intrinsic
def _add_products(typingctx, grad_a, grad_b, grad_c, sum_a, sum_b, sum_c, x, step, grad_step, count,
                  second, third, second_sum, third_sum):  # fmt: skip
    """Nine taps of the weight's gradient, one vector of channels of each; all arguments as in `make_pixels`:

    for j in range(count):
        for grad, sums in (grad_a, sum_a), (grad_b, sum_b), (grad_c, sum_c):
            for tap, at in (0, 0), (second, second_sum), (third, third_sum):
                sums[at] += grad[j * grad_step] * x[j * step + tap]

    Where there are fewer, a place repeats: it is read and written alike several times.
    """

    def codegen(context, builder, signature, args):
        x, step, grad_step, count, second, third, second_sum, third_sum = args[6:]
        emit = _Emitter(builder)
        grads = [cgutils.alloca_once_value(builder, grad) for grad in args[:3]]
        line = cgutils.alloca_once_value(builder, x)
        places = [[emit.moved(start, at) for at in (_INT(0), second_sum, third_sum)] for start in args[3:6]]
        sums = [[cgutils.alloca_once_value(builder, emit.load(place)) for place in row] for row in places]
        with cgutils.for_range(builder, count):
            pixel = builder.load(line)
            inputs = [emit.load(emit.moved(pixel, tap)) for tap in (_INT(0), second, third)]
            for grad, row in zip(grads, sums, strict=True):
                factor = emit.load(builder.load(grad))
                for value, total in zip(inputs, row, strict=True):
                    emit.add_product(value, factor, total)
                builder.store(emit.moved(builder.load(grad), grad_step), grad)
            builder.store(emit.moved(pixel, step), line)
        for row, totals in zip(places, sums, strict=True):
            for place, total in zip(row, totals, strict=True):
                emit.store(builder.load(total), place)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 14), codegen


class _Emitter:
    """Vector operations on addresses (integers), at the builder's position."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def moved(self, address, floats):
        return self.builder.add(address, self.builder.shl(floats, _INT(2)))

    def load(self, address):
        return self.builder.load(self.builder.inttoptr(address, _VECTOR.as_pointer()), align=FLOAT_BYTES)

    def store(self, value, address):
        self.builder.store(value, self.builder.inttoptr(address, _VECTOR.as_pointer()), align=FLOAT_BYTES)

    def store_some(self, value, address, count):
        """The first `count` lanes alone, one by one: few nets have such channels."""
        for lane in range(LANES):
            with self.builder.if_then(self.builder.icmp_signed(">", count, _INT(lane))):
                place = self.builder.add(address, _INT(lane * FLOAT_BYTES))
                number = self.builder.extract_element(value, ir.Constant(ir.IntType(32), lane))
                pointer = self.builder.inttoptr(place, ir.FloatType().as_pointer())
                self.builder.store(number, pointer, align=FLOAT_BYTES)

    def add_product(self, a, b, total):
        """total += a * b, for a variable `total`."""
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32"
        )
        value = self.builder.call(function, [a, b, self.builder.load(total)])
        self.builder.store(value, total)


_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_INT = ir.IntType(64)
# Eight pixels: eight multiplications for each vector of weights that is loaded.
if PLAIN:
    from minicnn_kernels.cpu.plain import add_products as _nine_taps
    from minicnn_kernels.cpu.plain import make_pixels as _make_pixels
else:
    _make_pixels, _nine_taps = make_pixels, _add_products
_eight_pixels, _four_pixels, _one_pixel = _make_pixels(8), _make_pixels(4), _make_pixels(1)


def prepare(x_shape, taps, bias, y_shape, stride, margin, dilation, *, relu=False, pool=False) -> Call:
    """y = bias + x * taps: x (N, H, W, C), taps (kh, kw, 1, C), y (N, C, H', W'); see `conv.prepare`."""
    out_size = y_shape[2:]
    if pool:
        out_size = conv_output_size(x_shape[1:3], taps.shape[:2], stride, margin, dilation)
    geometry = tuple(stride), tuple(margin), tuple(dilation)
    return _prepare(x_shape, taps, bias, out_size, *geometry, gradient=False, relu=relu, pool=pool)


def backward_input(grad, taps, dx, stride, padding, dilation) -> None:
    """dx (N, C, H, W) from grad (N, H', W', C) and taps (kh, kw, 1, C)."""
    zeros = np.zeros(grad.shape[3], np.float32)
    geometry = tuple(stride), tuple(padding), tuple(dilation)
    _prepare(grad.shape, taps, zeros, dx.shape[2:], *geometry, gradient=True).run(grad, dx)


class _Plan(NamedTuple):
    """How windows lie: see `_plan`."""

    top: int
    left: int
    pitch: int
    slots: int
    row_phases: int
    row_step: int
    column_phases: int
    column_step: int
    table: np.ndarray


@functools.lru_cache(maxsize=256)
def _plan(kernel, stride, padding, dilation, out_width, channels, gradient) -> _Plan:
    """Which pixels and taps make up each pixel of the result.

    The result's rows i repeat after `row_phases` of them, `row_step` rows of the padded source further on.
    A window is `slots` rows high: row r of the source is line r % slots of the ring. Columns likewise.
    The table holds a list of taps, as `make_pixels` wants it, for each (phase of the row, line where the
    window starts, phase of the column).
    """
    (row_windows, top, row_step), (column_windows, left, column_step) = (
        _windows(*axis, gradient) for axis in zip(kernel, stride, padding, dilation, strict=True)
    )
    slots = 1 + max(place for window in row_windows for place, _ in window)
    span = 1 + max(place for window in column_windows for place, _ in window)
    pitch = (-(-out_width // len(column_windows)) - 1) * column_step + span
    table = np.zeros((len(row_windows), slots, len(column_windows), 1 + 2 * kernel[0] * kernel[1]), np.int64)
    for i, rows in enumerate(row_windows):
        for line in range(slots):
            for j, columns in enumerate(column_windows):
                pairs = [
                    (((line + r) % slots * pitch + c) * channels, (p * kernel[1] + q) * channels)
                    for r, p in rows
                    for c, q in columns
                ]
                table[i, line, j, 0] = len(pairs)
                table[i, line, j, 1 : 1 + 2 * len(pairs)] = np.array(pairs, np.int64).reshape(-1)
    return _Plan(top, left, pitch, slots, len(row_windows), row_step, len(column_windows), column_step, table)


def _windows(kernel, stride, padding, dilation, gradient):
    """Along one axis: windows as lists of (place, tap), zeros before the source, step between windows."""
    if gradient:
        return *windows(kernel, stride, padding, dilation), 1
    return [[(q * dilation, q) for q in range(kernel)]], padding, stride


def _prepare(
    x_shape, taps, bias, out_size, stride, padding, dilation, *, gradient, relu=False, pool=False
) -> Call:
    n, height, width, channels = x_shape
    plan = _plan(taps.shape[:2], stride, padding, dilation, out_size[1], channels, gradient)
    bands = max(1, min(_TASKS // max(n, 1), out_size[0] // _ROWS_PER_TASK))
    taps, bias = _whole_vectors(taps.reshape(-1)), _whole_vectors(bias)
    lines = 2 * out_size[1] if pool else 0
    size = _whole_lines((plan.slots * plan.pitch + lines) * channels)
    constants = (
        address(taps), address(bias), size, address(plan.table), plan.table.shape[3],
        n, height, width, channels, *out_size, plan.top, plan.left, plan.pitch, plan.slots,
        plan.row_phases, plan.row_step, plan.column_phases, plan.column_step, bands, relu, pool,
    )  # fmt: skip
    return Call(_convolve, constants, THREAD_SLOTS * size, (taps, bias, plan.table))


def _whole_lines(floats: int) -> int:
    """`floats` and a vector more, that reads may go beyond them, in whole cache lines."""
    return -(-(floats + LANES) // _LINE) * _LINE


def _whole_vectors(array: np.ndarray) -> np.ndarray:
    """`array`, of rows of channels, with room to read its last row in whole vectors."""
    if array.size % LANES == 0:
        return array
    roomy = np.zeros(array.size + LANES, np.float32)
    roomy[: array.size] = array
    return roomy


@kernel(parallel=True)
def _convolve(
    x, y, winners, scratch, weight, bias, scratch_size, table, table_row, images, height, width, channels,
    out_height, out_width, top, left, pitch, slots, row_phases, row_step, column_phases, column_step,
    bands, relu, pool,
):  # fmt: skip
    """A task is a band of rows of an image. With `pool` two rows are convolved, then pooled."""
    window = 2 if pool else 1
    line = pitch * channels
    row = out_width * channels
    for task in prange(images * bands):
        image, band = np.intp(task) // bands, np.intp(task) % bands
        windows = out_height // window
        begin, end = windows * band // bands * window, windows * (band + 1) // bands * window
        ring = scratch + FLOAT_BYTES * np.intp(get_thread_id()) * scratch_size
        source = x + FLOAT_BYTES * image * height * width * channels
        ready = 0
        for i in range(begin, end):
            first = i // row_phases * row_step
            for r in range(max(ready, first), first + slots):
                pad_rows(
                    source, height, width, channels, r, 1, top, left, pitch,
                    ring + FLOAT_BYTES * (r % slots) * line,
                )  # fmt: skip
            ready = first + slots
            if pool:
                target = ring + FLOAT_BYTES * (slots * line + i % 2 * row)
            else:
                target = y + FLOAT_BYTES * (image * out_height + i) * row
            for j in range(column_phases):
                place = (i % row_phases * slots + first % slots) * column_phases + j
                _convolve_row(
                    ring, column_step * channels, table + INT_BYTES * place * table_row, weight, bias,
                    target + FLOAT_BYTES * j * channels, column_phases * channels,
                    (out_width - j + column_phases - 1) // column_phases, channels,
                )  # fmt: skip
            if pool:
                if i % 2:
                    place = (image * windows + i // 2) * (out_width // 2) * channels
                    pool_rows(
                        ring + FLOAT_BYTES * slots * line, 1, out_width, channels, channels, relu,
                        y + FLOAT_BYTES * place, winners + place,
                    )  # fmt: skip
            elif relu:
                relu_pixels(target, out_width, channels, channels)


@kernel
def _convolve_row(x, step, taps, weight, bias, y, y_step, pixels, channels):
    """Tiles of eight pixels; the last starts early enough to be whole, and computes some pixels again."""
    done = 0
    while done < pixels:
        size = 8 if pixels >= 8 else 4 if pixels >= 4 else 1
        at = min(done, pixels - size)
        source, target = x + FLOAT_BYTES * at * step, y + FLOAT_BYTES * at * y_step
        for c in range(0, channels, LANES):
            place = FLOAT_BYTES * c
            arguments = (weight + place, bias + place, target + place, y_step, channels - c)
            if size == 8:
                _eight_pixels(source + place, step, taps, *arguments)
            elif size == 4:
                _four_pixels(source + place, step, taps, *arguments)
            else:
                _one_pixel(source + place, step, taps, *arguments)
        done = at + size


def weight_gradient(grad, x, dw, stride, padding, dilation) -> None:
    """dw (kh, kw, 1, C) from grad (N, H', W', C) and x (N, H, W, C)."""
    n, height, width, channels = x.shape
    out_height, out_width = grad.shape[1:3]
    kh, kw = dw.shape[:2]
    padded = -(-channels // LANES) * LANES
    pitch = (out_width - 1) * stride[1] + (kw - 1) * dilation[1] + 1
    size = _whole_lines(pitch * channels)
    parts = min(n, _PARTS)
    partial = memory.empty((parts, kh * kw * padded))
    grad = _whole_vectors(grad.reshape(-1))
    scratch = memory.empty(THREAD_SLOTS * size + _LINE)
    _weight_gradient(
        address(grad), address(x), address(partial), aligned(address(scratch)), size,
        n, height, width, channels, padded, out_height, out_width, kh, kw, *stride, *dilation, *padding,
        pitch, parts,
    )  # fmt: skip
    total = dw if padded == channels else memory.empty((kh, kw, 1, padded))
    add_parts(address(partial), parts, kh * kw * padded, address(total))
    if total is not dw:
        dw[...] = total[..., :channels]


@kernel(parallel=True)
def _weight_gradient(
    grad, x, partial, scratch, scratch_size, images, height, width, channels, padded, out_height, out_width,
    kh, kw, sh, sw, dh, dw, top, left, pitch, parts,
):  # fmt: skip
    """partial[t], as (kh, kw, padded channels), over the images of task t.

    Every row of x meets, at once, the three rows of grad that used it with three taps.
    """
    row = out_width * channels
    for task in prange(parts):
        part = np.intp(task)
        result = partial + FLOAT_BYTES * part * kh * kw * padded
        zero_floats(result, kh * kw * padded)
        line = scratch + FLOAT_BYTES * np.intp(get_thread_id()) * scratch_size
        for image in range(images * part // parts, images * (part + 1) // parts):
            source = x + FLOAT_BYTES * image * height * width * channels
            for r in range(top, top + height):
                pad_rows(source, height, width, channels, r, 1, top, left, pitch, line)
                found = 0
                grad_a, grad_b, grad_c = np.intp(0), np.intp(0), np.intp(0)
                sum_a, sum_b, sum_c = np.intp(0), np.intp(0), np.intp(0)
                for p in range(kh):
                    distance = r - p * dh
                    i = distance // sh
                    if distance >= 0 and distance % sh == 0 and i < out_height:
                        grad_c = grad + FLOAT_BYTES * (image * out_height + i) * row
                        sum_c = result + FLOAT_BYTES * p * kw * padded
                        if found == 0:
                            grad_a, sum_a = grad_c, sum_c
                        if found < 2:
                            grad_b, sum_b = grad_c, sum_c
                        found += 1
                    if found == 3 or (found > 0 and p == kh - 1):
                        _add_taps(
                            grad_a, grad_b, grad_c, sum_a, sum_b, sum_c, line, sw * channels, dw * channels,
                            out_width, kw, channels, padded,
                        )  # fmt: skip
                        found = 0


@kernel
def _add_taps(grad_a, grad_b, grad_c, sum_a, sum_b, sum_c, line, step, tap_step, count, kw, channels, padded):
    for q in range(0, kw, 3):
        second, third = min(1, kw - 1 - q), min(2, kw - 1 - q)
        source, place = line + FLOAT_BYTES * q * tap_step, FLOAT_BYTES * q * padded
        for c in range(0, FLOAT_BYTES * channels, FLOAT_BYTES * LANES):
            at = place + c
            _nine_taps(
                grad_a + c, grad_b + c, grad_c + c, sum_a + at, sum_b + at, sum_c + at, source + c, step,
                channels, count, second * tap_step, third * tap_step, second * padded, third * padded,
            )  # fmt: skip
