"""Convolution and its gradients: which algorithm, and what all of them are told.

Images are (N, C, H, W) in C order. `implicit.py` gathers windows while it multiplies, `explicit.py` writes
them to memory first, `depthwise.py` serves groups so small that a product would be silly. All repeat bit
for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from minicnn_kernels.algorithms import algorithm
from minicnn_kernels.cuda import depthwise, explicit, implicit, implicit_weight
from minicnn_kernels.cuda.driver import Elements
from minicnn_kernels.cuda.epilogue import Epilogue
from minicnn_kernels.cuda.explicit import col2im, im2col
from minicnn_kernels.cuda.reduction import sum as total
from minicnn_kernels.cuda.storage import dense, empty, flat, on_device
from minicnn_kernels.cuda.taps import Geometry
from minicnn_kernels.device_array import DeviceArray
from minicnn_kernels.windows import conv_output_size

__all__ = [
    "col2im",
    "conv2d_backward_bias",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "conv2d_forward",
    "im2col",
]

LONGEST = 2**31 - 1  # elements that an index of 32 bits counts; larger batches are done part by part
_FEW_CHANNELS = 8  # of a group, for which no tile is filled


def conv2d_forward(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> DeviceArray:
    """weight * x + bias: x (N, C, H, W), weight (O, C/groups, kh, kw), bias (O,)|None -> (N, O, H', W')."""
    return convolution(x, weight, bias, stride, padding, dilation, groups)


def convolution(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    *,
    relu: bool = False,
) -> DeviceArray:
    """`conv2d_forward`, and if asked for ReLU, which costs nothing here: results are still in registers."""
    on_device("conv2d", x, weight, bias)
    g = _geometry(x.shape, weight.shape, stride, padding, dilation, groups)
    y, x, weight = empty((g.n, g.outputs, *g.out)), dense(x), dense(weight)
    epilogue = Epilogue(None if bias is None else flat(dense(bias)), (1, 0), relu=relu)
    if algorithm("conv2d") == "explicit":
        explicit.forward(y, x, weight, g, epilogue)
        return y
    way = depthwise if groups > 1 and g.outputs // groups <= _FEW_CHANNELS else implicit
    for part, (of_y, of_x) in _by_images(g, y, x):
        way.forward(of_y, of_x, flat(weight), part, epilogue)
    return y


def conv2d_backward_input(
    grad: Any,
    weight: Any,
    input_shape: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    onto: Any = None,
) -> DeviceArray:
    """Gradient by the input: grad (N, O, H', W'), weight (O, C/groups, kh, kw) -> input_shape.

    onto: an array of input_shape that it is added to.
    """
    on_device("conv2d", grad, weight, onto)
    g = _geometry(input_shape, weight.shape, stride, padding, dilation, groups)
    grad, weight = dense(grad), dense(weight)
    if algorithm("conv2d") == "explicit":
        return explicit.backward_input(grad, weight, g, onto)
    dx = empty(tuple(input_shape))
    onto = dx if onto is None else dense(onto)
    way = depthwise if groups > 1 and g.channels // groups <= _FEW_CHANNELS else implicit
    for part, (of_dx, of_grad, of_onto) in _by_images(g, dx, grad, onto):
        epilogue = Epilogue(onto=None if onto is dx else of_onto)
        way.backward_input(of_dx, of_grad, flat(weight), part, epilogue)
    return dx


def conv2d_backward_weight(
    grad: Any, x: Any, weight_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> DeviceArray:
    """Gradient by the weight: grad (N, O, H', W'), x (N, C, H, W) -> weight_shape (O, C/groups, kh, kw)."""
    on_device("conv2d", grad, x)
    g = _geometry(x.shape, weight_shape, stride, padding, dilation, groups)
    grad, x = dense(grad), dense(x)
    if algorithm("conv2d") == "explicit":
        return explicit.backward_weight(grad, x, g)
    dweight = empty(tuple(weight_shape))
    few = groups > 1 and max(g.outputs, g.channels) // groups <= _FEW_CHANNELS
    way = depthwise if few else implicit_weight
    onto = None
    for part, (of_grad, of_x) in _by_images(g, grad, x):
        way.backward_weight(flat(dweight), of_grad, of_x, part, onto)
        onto = flat(dweight)
    return dweight


def conv2d_backward_bias(grad: Any) -> DeviceArray:
    """Gradient of the bias: the sum over images and pixels. (N, O, H', W') -> (O,)."""
    return total(grad, (0, 2, 3), False)


def _geometry(
    input_shape: Any, weight_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Geometry:
    n, channels, *image = input_shape
    outputs, _, *kernel_size = weight_shape
    out = conv_output_size(image, kernel_size, stride, padding, dilation)
    kernel, steps, pads, gaps = ((a, b) for a, b in (kernel_size, stride, padding, dilation))
    return Geometry(
        n, channels, (image[0], image[1]), outputs, (out[0], out[1]), kernel, steps, pads, gaps, groups
    )


def _by_images(g: Geometry, *arrays: DeviceArray) -> Iterator[tuple[Geometry, list[Elements]]]:
    """(geometry, the arrays' elements) of as many images at a time as 32-bit indices reach; once if there
    is none, for the results have to be written."""
    at_once = max(LONGEST // max(max(array.size // max(g.n, 1) for array in arrays), 1), 1)
    for first in range(0, max(g.n, 1), at_once):
        n = min(at_once, g.n - first)
        yield g._replace(n=n), [flat(array).after(first * (array.size // max(g.n, 1))) for array in arrays]
