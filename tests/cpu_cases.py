"""Arguments for every kernel of the cpu back end, drawn by hypothesis in all layouts of memory.

`arguments(name, data, large)` is what `test_cpu_kernels.py` asks for. Register a new kernel with `case`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minicnn_kernels import reference

LAYOUTS = ("C", "channels_last", "reversed", "strided", "broadcast")
CASES: dict[str, Callable[[Draw], tuple]] = {}


class Draw:
    """Draws arguments of a kernel. `large` shapes are fixed and fill several tasks."""

    def __init__(self, data: st.DataObject, large: bool) -> None:
        self.large = large
        self._draw = data.draw
        self._rng = np.random.default_rng(self._draw(st.integers(0, 999)))

    def choose(self, *values: Any) -> Any:
        return self._draw(st.sampled_from(values))

    def shape(self) -> tuple[int, ...]:
        if self.large:
            return self.choose((70_001,), (300, 401), (5, 33, 40, 31))
        return tuple(self._draw(st.lists(st.integers(0, 6), max_size=4)))

    def images(self) -> tuple[int, ...]:
        if self.large:
            return self.choose((9, 32, 20, 23), (1, 3, 130, 120))
        return tuple(self._draw(st.tuples(*(st.integers(low, 9) for low in (0, 1, 1, 1)))))

    def array(self, shape: tuple[int, ...], spoil: bool = False) -> np.ndarray:
        x = np.asarray(self._rng.standard_normal(shape), np.float32)
        if spoil and x.size:  # ties, NaN and infinity
            odd = np.float32(self.choose(np.nan, np.inf, -np.inf))
            x = np.where(self._rng.random(shape) < 0.05, odd, np.round(x * 2))
        return x

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
        return self._rng.integers(low, high, shape)

    def layout(self, x: Any) -> Any:
        """`x` in a drawn layout of memory; a broadcast one repeats its first row."""
        if not isinstance(x, np.ndarray) or x.ndim == 0 or x.size == 0:
            return x
        layout = self.choose(*LAYOUTS)
        if layout == "channels_last" and x.ndim > 1:
            return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
        if layout == "reversed":
            return np.ascontiguousarray(x.T).T
        if layout == "strided":
            spread = np.zeros([2 * size for size in x.shape], x.dtype)
            view = spread[(slice(None, None, 2),) * x.ndim]
            view[...] = x
            return view
        if layout == "broadcast":
            return np.broadcast_to(x[:1], x.shape)
        return x


class Fixed:
    """An array whose values other arguments depend on, or that is written to: never drawn as broadcast."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.asarray(array)


def case(*names: str):
    def register(make: Callable) -> Callable:
        for name in names:
            CASES[name] = make if len(names) == 1 else lambda draw, name=name: make(draw)
        return make

    return register


@case("sigmoid_forward", "silu_forward", "tanh_forward")
@case("relu_forward", "all_finite", "contiguous", "copy", "square", "exp", "neg", "round", "sign", "log")
def one_array(draw):
    return (draw.array(draw.shape(), spoil=True),)


@case("relu_backward", "add", "sub", "mul", "div", "maximum")
def two_arrays(draw):
    shape = draw.shape()
    return draw.array(shape, spoil=True), draw.array(shape, spoil=True)


@case("leaky_relu_forward")
def leaky_relu(draw):
    return draw.array(draw.shape(), spoil=True), draw.choose(0.01, 0.3)


@case("leaky_relu_backward")
def leaky_relu_backward(draw):
    return *two_arrays(draw), draw.choose(0.01, 0.3)


@case("sigmoid_backward", "silu_backward", "tanh_backward")
def two_finite_arrays(draw):
    shape = draw.shape()
    return draw.array(shape), draw.array(shape)


@case("gelu_forward")
def gelu(draw):
    return draw.array(draw.shape(), spoil=True), draw.choose("none", "tanh")


@case("gelu_backward")
def gelu_backward(draw):
    return *two_finite_arrays(draw), draw.choose("none", "tanh")


@case("softmax_forward", "log_softmax_forward")
def softmax(draw):
    shape = (*draw.shape(), draw.choose(1, 10, 67))
    return draw.array(shape, spoil=True), draw.choose(-1, -1, 0)


@case("softmax_backward", "log_softmax_backward")
def softmax_backward(draw):
    x, dim = softmax(draw)
    return draw.array(x.shape), -np.abs(draw.array(x.shape)), dim


@case("clamp")
def clamp(draw):
    return draw.array(draw.shape(), spoil=True), draw.choose(None, -1), draw.choose(None, 0.5, -2)


@case("cast")
def cast(draw):
    return draw.array(draw.shape()), draw.choose(np.float64, np.int64, np.bool_)


@case("sum", "mean")
def reduction(draw):
    shape = draw.shape()
    dims = tuple(axis for axis in range(len(shape)) if draw.choose(True, False))
    return draw.array(shape), draw.choose(dims, None), draw.choose(True, False)


@case("var")
def var(draw):
    x, dims, keepdim = reduction(draw)
    return x, dims, draw.choose(0, 1), keepdim


@case("sum_to")
def sum_to(draw):
    shape = draw.shape()
    target = [draw.choose(size, 1) for size in shape]
    while target and target[0] == 1 and draw.choose(True, False):
        del target[0]
    return draw.array(shape), tuple(target)


@case("reshape")
def reshape(draw):
    shape = draw.images()
    return draw.array(shape), (shape[0], shape[1] * shape[2] * shape[3])


@case("copy_into")
def copy_into(draw):
    x, source = two_arrays(draw)
    return x, draw.choose(source, 3)


@case("cat")
def cat(draw):
    shape = draw.images()
    return [draw.array(shape) for _ in range(draw.choose(1, 2, 3))], draw.choose(0, 1, -1)


@case("dropout_mask")
def dropout_mask(draw):
    return draw.shape(), draw.choose(0.0, 0.3, 1.0), draw.choose(0, 2**63 + 5), draw.choose(0, 2**33)


def pool_window(draw, images):
    kernel_size = (min(draw.choose(1, 2, 3), images[2]), min(draw.choose(1, 2, 3), images[3]))
    stride = draw.choose(kernel_size, (1, 1), (2, 3))
    padding = tuple(draw.choose(0, size // 2) for size in kernel_size)
    return kernel_size, stride, padding


@case("max_pool2d_forward")
def max_pool2d(draw):
    images = draw.images()
    kernel_size, stride, padding = pool_window(draw, images)
    room = zip(images[2:], kernel_size, padding, strict=True)
    dilation = tuple(2 if n + 2 * p > 2 * (k - 1) and draw.choose(True, False) else 1 for n, k, p in room)
    return draw.array(images, spoil=True), kernel_size, stride, padding, dilation, draw.choose(True, False)


@case("max_pool2d_backward")
def max_pool2d_backward(draw):
    x, *window, ceil_mode = max_pool2d(draw)
    y, argmax = reference.max_pool2d_forward(x, *window, ceil_mode)
    return draw.array(y.shape), Fixed(argmax), x.shape, *window


@case("avg_pool2d_forward")
def avg_pool2d(draw):
    images = draw.images()
    options = draw.choose(True, False), draw.choose(True, False), draw.choose(None, 3)
    return draw.array(images), *pool_window(draw, images), *options


@case("avg_pool2d_backward")
def avg_pool2d_backward(draw):
    x, *window = avg_pool2d(draw)
    return draw.array(reference.avg_pool2d_forward(x, *window).shape), x.shape, *window


@case("adaptive_avg_pool2d_forward")
def adaptive_avg_pool2d(draw):
    return draw.array(draw.images()), (draw.choose(1, 2, 5), draw.choose(1, 3))


@case("adaptive_avg_pool2d_backward")
def adaptive_avg_pool2d_backward(draw):
    x, output_size = adaptive_avg_pool2d(draw)
    return draw.array((*x.shape[:2], *output_size)), x.shape


def channels(draw, x):
    return draw.choose(draw.array(x.shape[1:2]), None)


@case("batch_norm_forward")
def batch_norm(draw):
    x = draw.array((4, *draw.images()[1:])[: draw.choose(2, 3, 4)]) + 2
    return x, channels(draw, x), channels(draw, x), 1e-3


@case("batch_norm_inference")
def batch_norm_inference(draw):
    x, weight, bias, eps = batch_norm(draw)
    return x, weight, bias, draw.array(x.shape[1:2]), np.abs(draw.array(x.shape[1:2])), eps


def needs(draw):
    return tuple(draw.choose(True, False) for _ in range(3))


@case("batch_norm_backward")
def batch_norm_backward(draw):
    x, weight, _, eps = batch_norm(draw)
    _, mean, inv_std = reference.batch_norm_forward(x, None, None, eps)
    return draw.array(x.shape), Fixed(x), weight, mean, inv_std, needs(draw)


@case("batch_norm_inference_backward")
def batch_norm_inference_backward(draw):
    x, weight, _, mean, variance, eps = batch_norm_inference(draw)
    return draw.array(x.shape), x, weight, mean, variance, eps, needs(draw)


@case("layer_norm_forward")
def layer_norm(draw):
    x = draw.array((4, *draw.images()[1:]))
    ndim = draw.choose(1, 2, 3)
    weight, bias = (draw.choose(draw.array(x.shape[-ndim:]), None) for _ in range(2))
    return x, ndim, weight, bias, 1e-2


@case("layer_norm_backward")
def layer_norm_backward(draw):
    x, ndim, weight, _, eps = layer_norm(draw)
    _, mean, inv_std = reference.layer_norm_forward(x, ndim, None, None, eps)
    return draw.array(x.shape), Fixed(x), ndim, weight, Fixed(mean), Fixed(inv_std), needs(draw)


@case("cross_entropy_forward")
def cross_entropy(draw):
    rows, classes = (500, 37) if draw.large else (draw.choose(0, 1, 9), draw.choose(1, 10))
    target = draw.integers(0, classes, (rows,))
    target[draw.integers(0, 4, (rows,)) == 0] = -100
    weight = draw.choose(None, np.abs(draw.array((classes,))))
    return draw.array((rows, classes)) * 5, target, weight, -100, draw.choose(0, 0.1)


@case("cross_entropy_backward")
def cross_entropy_backward(draw):
    logits, *options = cross_entropy(draw)
    _, log_p = reference.cross_entropy_forward(logits, *options)
    return draw.array(log_p.shape[:1]), log_p, *options


def positive(draw, shape):
    return Fixed(np.abs(draw.array(shape)) + 1)


def decay(draw):
    return draw.choose(0, 0.1)


@case("sgd_step")
def sgd_step(draw):
    shape = draw.shape()
    buffer = draw.choose(None, Fixed(draw.array(shape)))
    rates = 0.1, 0.9, draw.choose(0, 0.3), decay(draw), draw.choose(True, False), decay(draw)
    return Fixed(draw.array(shape)), draw.array(shape), buffer, *rates


@case("adam_step")
def adam_step(draw):
    shape = draw.shape()
    moments = Fixed(draw.array(shape)), positive(draw, shape), draw.choose(None, positive(draw, shape))
    rates = draw.choose(1, 7), 0.01, 0.9, 0.99, 1e-8, decay(draw), draw.choose(True, False), decay(draw)
    return Fixed(draw.array(shape)), draw.array(shape), *moments, *rates


@case("rmsprop_step")
def rmsprop_step(draw):
    shape = draw.shape()
    mean = draw.choose(None, Fixed(draw.array(shape) * np.float32(0.01)))
    averages = positive(draw, shape), mean, draw.choose(None, positive(draw, shape))
    return (
        Fixed(draw.array(shape)),
        draw.array(shape),
        *averages,
        0.01,
        0.99,
        1e-8,
        decay(draw),
        0.9,
        decay(draw),
    )


@case("squared_norm")
def squared_norm(draw):
    return (draw.array(draw.shape()),)


def arguments(name: str, data: st.DataObject, large: bool) -> list:
    """Arguments for `name` in drawn layouts."""
    draw = Draw(data, large)
    result = []
    for value in CASES[name](draw):
        if isinstance(value, Fixed) or (name == "copy_into" and not result):
            array = value.array if isinstance(value, Fixed) else value
            laid = draw.layout(array)
            result.append(laid if laid.flags.writeable else array)
        elif isinstance(value, list):
            result.append([draw.layout(entry) for entry in value])
        else:
            result.append(draw.layout(value))
    return result
