"""From a program's calls to its steps, for inputs of certain shapes.

First every call says what its result looks like and what border it wants around what it reads; then values
are given places in the scratch (`values.py`); then every call gives its steps. A dense layer reads
images where they lie, its weights put into the order of memory, so that to flatten costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minicnn_kernels.cpu.integers.multiply import Multiply, MultiplyChannels
from minicnn_kernels.cpu.integers.pack import aligned, pack, repeated, runs, windows
from minicnn_kernels.cpu.integers.steps import Add, Border, Load, Lookup, Place, Pool, Quantize, Store
from minicnn_kernels.cpu.integers.values import Value, place
from minicnn_kernels.cpu.layout import address
from minicnn_kernels.integer_calls import IntegerCall, Slot
from minicnn_kernels.reference import quantization
from minicnn_kernels.windows import conv_output_size, pool_output_size

_SCRATCH = 1 << 19  # bytes of values in a task: half of a second-level cache of 1 MiB
_LARGEST_GROUP = 16  # images: the weights of dense layers are read once for so many
_ROWS_PER_PANEL = 256  # images are treated together until a panel of weights meets so many rows
# Products from which threads share those of one image: 75 us of one thread. To share products of 3 to 20 us
# was slower than one thread on a busy machine: 68 us instead of 50 for W1, with some runs of milliseconds.
_SHARED = 1 << 24
_FUSED_POOL = ((2, 2), (2, 2))

Steps = list[tuple[Any, int]]  # each with the number of the array from outside that it uses, or 0
Emit = Callable[[int], Steps]  # the steps for groups of so many images


class Unservable(Exception):
    """A call that has no step."""


class Output(NamedTuple):
    """shape: of one image in memory, (H, W, C). flat: it stands for a row (C H W)."""

    shape: tuple[int, int, int]
    flat: bool
    dtype: Any


class Plan(NamedTuple):
    """Steps for groups of up to `group` images, in `scratch` bytes. alive: what the steps point to."""

    steps: Steps
    group: int
    scratch: int
    outputs: list[Output]
    alive: list[np.ndarray]


def make_plan(
    calls: Sequence[IntegerCall],
    inputs: Sequence[int],
    outputs: Sequence[int],
    arrays: Sequence[np.ndarray],
) -> Plan | None:
    """The plan for arrays like these, of any number of images; None if some call has no step."""
    try:
        return _Planner(inputs, arrays).plan(calls, outputs)
    except Unservable:
        return None


class _Planner:
    """What is known while a plan is made. `now` is the call that is looked at."""

    def __init__(self, inputs: Sequence[int], arrays: Sequence[np.ndarray]) -> None:
        self.outside = {number: i for i, number in enumerate(inputs)}
        self.arrays = dict(zip(inputs, arrays, strict=True))
        self.values: dict[int, Value] = {}
        self.flat: set[int] = set()  # numbers of values that stand for rows (C H W)
        self.made: list[Value] = []
        self.alive: list[np.ndarray] = []
        self.aside, self.end = 0, 0  # bytes that single steps need for themselves, and where
        self.now = 0

    def plan(self, calls: Sequence[IntegerCall], outputs: Sequence[int]) -> Plan:
        emits = [self._load(number) for number, array in self.arrays.items() if array.dtype == np.uint8]
        for i, call in enumerate(calls):
            self.now = i
            emits.append(_METHODS[call.kernel](self, call.result, *call.arguments))
        self.now += 1
        results = [self._read(Slot(number)) for number in outputs]

        group = max(1, min(_LARGEST_GROUP, _SCRATCH // (place(self.made, 1) + self.aside)))
        self.end = place(self.made, group)
        steps = [step for emit in emits for step in emit(group)]
        described = []
        for i, (value, number) in enumerate(zip(results, outputs, strict=True)):
            store = Store(value.inside, value.image, value.row, value.height, value.row_bytes)
            steps.append((store, len(self.arrays) + i))
            shape = value.height, value.width, value.channels
            described.append(Output(shape, number in self.flat, np.uint8 if value.size == 1 else np.float32))
        return Plan(steps, group, self.end + self.aside, described, self.alive)

    def _new(self, shape: Sequence[int], to_float: bool = False) -> Value:
        """For images of shape (C, H, W)."""
        channels, height, width = shape
        if min(shape) <= 0:
            raise Unservable
        value = Value(channels, height, width, 4 if to_float else 1, born=self.now, dies=self.now)
        self.made.append(value)
        return value

    def _result(self, number: int, shape: Sequence[int], flat: bool = False, to_float: bool = False) -> Value:
        value = self.values[number] = self._new(shape, to_float)
        if flat:
            self.flat.add(number)
        return value

    def _read(self, slot: Any) -> Value:
        """The value of a slot, which must live until now."""
        if not isinstance(slot, Slot) or slot.number not in self.values:
            raise Unservable
        value = self.values[slot.number]
        value.dies = self.now
        return value

    def _bytes(self, slot: Any, flat: bool | None = None) -> Value:
        """The value of a slot if it is of bytes, and, where it matters, images or rows."""
        value = self._read(slot)
        if value.size != 1 or (flat is not None and flat != (slot.number in self.flat)):
            raise Unservable
        return value

    def _keep(self, array: Any, dtype: Any) -> int:
        """The address of a copy that lives as long as the plan."""
        self.alive.append(aligned(np.atleast_1d(np.asarray(array, dtype))))
        return address(self.alive[-1])

    def _set_aside(self, count: int) -> None:
        self.aside = max(self.aside, count)

    # Calls: each gives the value of its result and a function that gives its steps.

    def _load(self, number: int) -> Emit:
        """Bytes from outside. Floats wait for `_quantize`."""
        array = self.arrays[number]
        value = self._result(number, _image_shape(array), flat=array.ndim == 2)

        def emit(group: int) -> Steps:
            step = Load(value.inside, value.image, value.row, value.height, value.width, value.channels)
            return [*_border(value), (step, self.outside[number])]

        return emit

    def _quantize(self, result, x, scale, zero_point, qmin, qmax, axis, dtype) -> Emit:
        array = self.arrays.get(x.number) if isinstance(x, Slot) else None
        if array is None or array.dtype != np.float32 or np.dtype(dtype) != np.uint8 or np.ndim(scale):
            raise Unservable
        value = self._result(result, _image_shape(array), flat=array.ndim == 2)
        self._set_aside(value.width * value.channels)
        zero, scale = int(zero_point), self._keep(scale, np.float32)

        def emit(group: int) -> Steps:
            sizes = value.inside, value.image, value.row, value.height, value.width, value.channels
            step = Quantize(*sizes, scale, qmin - zero, qmax - zero, zero, self.end)
            return [*_border(value), (step, self.outside[x.number])]

        return emit

    def _dequantize(self, result, x, scale, zero_point, axis) -> Emit:
        if np.ndim(scale) or np.ndim(zero_point):
            raise Unservable
        every = np.arange(256).astype(np.uint8)
        return self._lookup(result, x, quantization.dequantize(every, scale, zero_point, axis))

    def _lookup(self, result, x, table) -> Emit:
        source = self._bytes(x)
        if table.shape != (256,) or table.dtype not in (np.uint8, np.float32):
            raise Unservable
        to_float = table.dtype == np.float32
        shape = source.channels, source.height, source.width
        y = self._result(result, shape, flat=x.number in self.flat, to_float=to_float)
        entries = self._keep(table, table.dtype)

        def emit(group: int) -> Steps:
            places = source.inside, source.image, source.row, y.inside, y.image, y.row
            return [*_border(y), (Lookup(*places, y.height, source.row_bytes, entries, to_float), 0)]

        return emit

    def _flatten(self, result, x) -> Emit:
        self.values[result] = self._bytes(x)
        self.flat.add(result)
        return lambda group: []

    def _concatenate(self, result, parts, dim) -> Emit:
        values = [self._bytes(part, flat=parts[0].number in self.flat) for part in parts]
        flat = parts[0].number in self.flat
        height, width = values[0].height, values[0].width
        if any((value.height, value.width) != (height, width) for value in values):
            raise Unservable
        if dim != 1 and dim != (-1 if flat else -3):
            raise Unservable
        y = self._result(result, (sum(value.channels for value in values), height, width), flat)

        def emit(group: int) -> Steps:
            steps, channel = _border(y), 0
            for x in values:
                places = x.inside, x.image, x.row, y.inside + channel, y.image, y.row
                steps.append((Place(*places, height, width, x.channels, y.channels), 0))
                channel += x.channels
            return steps

        return emit

    def _add(self, result, a, b, a_scale, a_zero, b_scale, b_zero, y_scale, y_zero, qmin, qmax) -> Emit:
        first = self._bytes(a)
        second = self._bytes(b, flat=a.number in self.flat)
        shape = first.channels, first.height, first.width
        if shape != (second.channels, second.height, second.width):
            raise Unservable
        y = self._result(result, shape, flat=a.number in self.flat)
        scales = self._keep([a_scale, b_scale, y_scale], np.float32)
        a_zero, b_zero, y_zero = int(a_zero), int(b_zero), int(y_zero)

        def emit(group: int) -> Steps:
            places = [place for x in (first, second, y) for place in (x.inside, x.image, x.row)]
            lattice = scales, a_zero, b_zero, qmin - y_zero, qmax - y_zero, y_zero
            return [*_border(y), (Add(*[*places, y.height, y.row_bytes, *lattice]), 0)]

        return emit

    def _max_pool(self, result, x, kernel_size, stride, padding, dilation, ceil_mode) -> Emit:
        source = self._bytes(x, flat=False)
        size = source.height, source.width
        out = pool_output_size(size, kernel_size, stride, padding, dilation, ceil_mode)
        y = self._result(result, (source.channels, *out))
        return self._pool(source, y, (kernel_size, stride, padding, dilation))

    def _avg_pool(self, result, x, factor, x_zero, y_zero, qmin, qmax, kernel_size, stride, padding) -> Emit:
        source = self._bytes(x, flat=False)
        size = source.height, source.width
        out = pool_output_size(size, kernel_size, stride, padding, (1, 1), False)
        y = self._result(result, (source.channels, *out), to_float=y_zero is None)
        factors = self._keep(np.broadcast_to(factor, (source.channels,)), np.float32)
        lattice = factors, int(x_zero), *_lattice(y_zero, qmin, qmax)
        return self._pool(source, y, (kernel_size, stride, padding, (1, 1)), *lattice)

    def _pool(self, x, y, window, factors=0, x_zero=0, to_float=0, low=0, high=0, zero=0) -> Emit:
        """With factors the average, else the maximum. window: kernel size, stride, padding, dilation."""
        self._set_aside(4 * x.channels)

        def emit(group: int) -> Steps:
            fields = [x.inside, x.image, x.row, y.inside, y.image, y.row]
            fields += x.height, x.width, y.height, y.width, x.channels
            fields += [size for pair in window for size in pair]
            fields += factors != 0, self.end, factors, x_zero, to_float, low, high, zero
            return [*_border(y), (Pool(*fields), 0)]

        return emit

    def _linear(self, result, x, weight, bias, factor, x_zero, y_zero, qmin, qmax) -> Emit:
        """A convolution whose window is the whole image."""
        source = self._bytes(x, flat=True)
        shape = source.channels, source.height, source.width
        taps = weight.reshape(len(weight), *shape)
        lattice = bias, factor, x_zero, y_zero, qmin, qmax
        return self._convolution(result, source, taps, *lattice, (1, 1), (0, 0), (1, 1), 1, None, flat=True)

    def _conv2d(self, result, x, *arguments) -> Emit:
        return self._convolution(result, self._bytes(x, flat=False), *arguments)

    def _convolution(
        self, result, x, weight, bias, factor, x_zero, y_zero, qmin, qmax, stride, padding, dilation, groups,
        pool, flat=False,
    ) -> Emit:  # fmt: skip
        to_float = y_zero is None
        fused = pool == _FUSED_POOL and not to_float
        depthwise = groups > 1 and groups == x.channels == len(weight)
        if weight.dtype != np.int8 or weight.shape[1] * groups != x.channels:
            raise Unservable
        if pool is not None and (to_float or not np.all(factor >= 0)):  # the maximum is that of the sums
            raise Unservable
        if padding != (0, 0):
            if x.border != (0, 0) and x.zero != int(x_zero):
                raise Unservable
            x.border = max(x.border[0], padding[0]), max(x.border[1], padding[1])
            x.zero = int(x_zero)
        out = conv_output_size((x.height, x.width), weight.shape[2:], stride, padding, dilation)
        if fused and not depthwise:
            sums = y = self._result(result, (len(weight), out[0] // 2, out[1] // 2))
        elif pool is None:
            sums = y = self._result(result, (len(weight), *out), flat, to_float)
        else:
            pooled = pool_output_size(out, pool[0], pool[1], (0, 0), (1, 1), False)
            sums, y = self._new((len(weight), *out)), self._result(result, (len(weight), *pooled))
        lattice = _lattice(y_zero, qmin, qmax)
        behind = None if y is sums else self._pool(sums, y, (*pool, (0, 0), (1, 1)))
        multiply = self._depthwise if depthwise else self._products
        if depthwise:
            self._set_aside(4 * x.channels)

        def emit(group: int) -> Steps:
            start = x.inside - padding[0] * x.row - padding[1] * x.pixel
            geometry = out, start - x.inside, stride, dilation
            step = multiply(x, sums, weight, bias, factor, int(x_zero), lattice, geometry, groups, group)
            first = _border(sums) if behind is None else []
            return [*first, (step, 0), *(behind(group) if behind else [])]

        return emit

    def _products(self, x, y, weight, bias, factor, x_zero, lattice, geometry, groups, group) -> Multiply:
        out, start, stride, dilation = geometry
        pool = (y.height, y.width) != out
        to_float, *limits = lattice
        rows, taps = runs(weight, x.row, x.pixel, dilation, groups)
        panels = pack(rows, bias, factor, x_zero, groups, wide=not to_float)
        x_offsets, y_offsets = windows(out, start, x.row, x.pixel, stride, y.row, y.pixel, pool)
        images = min(group, -(-_ROWS_PER_PANEL // len(x_offsets)))
        self.alive += panels[:3]
        return Multiply(
            x=x.inside, x_image=x.image, y=y.inside, y_image=y.image,
            x_offsets=self._keep(repeated(x_offsets, images, x.image), np.int64),
            y_offsets=self._keep(repeated(y_offsets, images, y.image), np.int64),
            images=images, units=len(y_offsets),
            taps=self._keep(taps, np.int64), tap_count=len(taps), steps=panels.steps,
            weight=address(panels.weight), weight_group=panels.weight.shape[1],
            bias=address(panels.bias), factor=address(panels.factor), padded=panels.padded,
            groups=groups, in_group=x.channels // groups, out_group=y.channels // groups,
            pool=pool, to_float=to_float, low=limits[0], high=limits[1], zero=limits[2],
            shared=len(x_offsets) * weight.size >= _SHARED,
        )  # fmt: skip

    def _depthwise(
        self, x, y, weight, bias, factor, x_zero, lattice, geometry, groups, group
    ) -> MultiplyChannels:
        out, start, stride, (down, right) = geometry
        channels, _, kh, kw = weight.shape
        taps = [i * down * x.row + j * right * x.pixel for i in range(kh) for j in range(kw)]
        offsets = -x_zero * weight.reshape(channels, -1).sum(axis=1, dtype=np.int64)
        x_offsets, y_offsets = windows(out, start, x.row, x.pixel, stride, y.row, y.pixel, False)
        to_float, *limits = lattice
        return MultiplyChannels(
            x=x.inside, x_image=x.image, y=y.inside, y_image=y.image,
            x_offsets=self._keep(x_offsets, np.int64), y_offsets=self._keep(y_offsets, np.int64),
            units=len(y_offsets), taps=self._keep(taps, np.int64), tap_count=len(taps),
            weight=self._keep(weight.reshape(channels, -1).T, np.int16),
            bias=self._keep(offsets + (0 if bias is None else bias), np.int32),
            factor=self._keep(np.broadcast_to(factor, (channels,)), np.float32),
            channels=channels, sums=self.end,
            to_float=to_float, low=limits[0], high=limits[1], zero=limits[2],
        )  # fmt: skip


_METHODS: dict[str, Callable[..., Emit]] = {
    "concatenate": _Planner._concatenate,
    "dequantize": _Planner._dequantize,
    "flatten": _Planner._flatten,
    "integer_add_forward": _Planner._add,
    "integer_avg_pool2d_forward": _Planner._avg_pool,
    "integer_conv2d_forward": _Planner._conv2d,
    "integer_linear_forward": _Planner._linear,
    "integer_lookup": _Planner._lookup,
    "integer_max_pool2d_forward": _Planner._max_pool,
    "quantize": _Planner._quantize,
}


def _border(value: Value) -> Steps:
    """The step that fills the border of a value, if it has one."""
    top, left = value.border
    if (top, left) == (0, 0):
        return []
    inside = value.inside, value.image, value.row, value.height, value.row_bytes
    return [(Border(*inside, top, left * value.pixel, value.zero), 0)]


def _lattice(y_zero: Any, qmin: int, qmax: int) -> tuple[int, int, int, int]:
    """(to_float, low, high, zero): the limits are those before the zero point is added."""
    return (1, 0, 0, 0) if y_zero is None else (0, qmin - int(y_zero), qmax - int(y_zero), int(y_zero))


def _image_shape(array: np.ndarray) -> tuple[int, int, int]:
    """(C, H, W) of an array of images, or of rows, which are pixels."""
    if array.ndim not in (2, 4):
        raise Unservable
    channels, height, width = (*array.shape[1:], 1, 1)[:3]
    return channels, height, width
