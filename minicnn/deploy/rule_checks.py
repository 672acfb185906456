"""What single ops of a program in a file must be like: the rules that `rules.py` lists.

Each gives how many elements the result has, how many the windows that the op looks at, and how many
multiplications it takes (what is not given is 0), or raises Breach.
"""

from __future__ import annotations

from math import isfinite, prod
from typing import Any

import numpy as np

from minicnn.functions import moving
from minicnn.functions.quantization import QuantizedAvgPool2d, QuantizedConv2d, QuantizedLinear
from minicnn.graph.constants import host_array
from minicnn.graph.ir import Node, Value
from minicnn_kernels.windows import conv_output_size, pool_output_size

LARGEST = 1 << 25  # elements of one value, for each image
_FARTHEST = 1 << 15  # kernel sizes, strides, paddings, shifts
_PADDINGS = ("constant", "reflect", "replicate", "circular")


class Breach(Exception):
    """A node is not as its op needs it; the message says how."""


# -- operands and options -------------------------------------------------------------------------


def _tensor(x: Any, what: str = "an operand", ndim: int | None = None, kinds: str = "f") -> Value:
    if not isinstance(x, Value):
        raise Breach(f"expected {what} to be a tensor, got {x!r}")
    if x.dtype.kind not in kinds:
        raise Breach(f"{what} is {x.dtype}")
    if ndim is not None and len(x.shape) != ndim:
        raise Breach(f"expected {what} of {ndim} dimensions, got shape {x.shape}")
    return x


def _like(x: Value, other: Any, what: str, *shapes: tuple[int, ...]) -> None:
    """`other` is None, or a tensor of the type of x in one of these shapes."""
    if other is None:
        return
    _tensor(other, what)
    if other.dtype != x.dtype or other.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise Breach(f"expected {what} {x.dtype} of shape {expected}, got {other.dtype} {other.shape}")


def _needed(*operands: Any) -> None:
    if any(x is None for x in operands):
        raise Breach("an operand is missing")


def is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and (isinstance(x, bool) or abs(x) < 2**53 or not isfinite(x))


def _whole(value: Any, low: int, high: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Breach(f"expected {what} from {low} to {high}, got {value!r}")
    return value


def _tuple(value: Any, what: str, length: int | None = None) -> tuple:
    if not isinstance(value, tuple) or (length is not None and len(value) != length):
        raise Breach(f"expected {what} to be a row of {length or 'some'} numbers, got {value!r}")
    return value


def _pair(node: Node, name: str, low: int) -> tuple[int, int]:
    a, b = _tuple(node.options[name], name, 2)
    return _whole(a, low, _FARTHEST, name), _whole(b, low, _FARTHEST, name)


def _number_option(node: Node, *names: str) -> None:
    for name in names:
        value = node.options[name]
        if value is not None and not is_number(value):
            raise Breach(f"expected {name} to be a number, got {value!r}")


def _flag(node: Node, *names: str) -> None:
    for name in names:
        if not isinstance(node.options[name], bool):
            raise Breach(f"expected {name} to be true or false, got {node.options[name]!r}")


def _dims(value: Any, ndim: int, what: str = "dim") -> tuple[int, ...]:
    dims = value if isinstance(value, tuple) else (value,)
    checked = tuple(_whole(dim, -ndim, ndim - 1, what) % ndim for dim in dims)
    if len(set(checked)) != len(checked):
        raise Breach(f"{what} names a dimension twice: {value!r}")
    return checked


# -- one rule per kind of op ----------------------------------------------------------------------


def pointwise(node: Node) -> int:
    _number_option(node, *(name for name in node.options if name != "approximate"))
    if node.options.get("approximate", "none") not in ("none", "tanh"):
        raise Breach(f"unknown approximation {node.options['approximate']!r}")
    return _tensor(node.inputs[0]).size


def broadcasting(node: Node) -> int:
    _needed(*node.inputs)
    _number_option(node, *node.options)
    values = [_tensor(x) for x in node.values]
    if not values or len({x.dtype for x in values}) > 1:
        raise Breach(f"operands of types {[x.dtype.name for x in values]}")
    return _broadcast(*(x.shape for x in values))


def _broadcast(*shapes: tuple[int, ...]) -> int:
    try:
        return prod(np.broadcast_shapes(*shapes))
    except ValueError:
        raise Breach(f"shapes {shapes} do not go together") from None


def where(node: Node) -> int:
    _needed(*node.inputs)
    _tensor(node.inputs[0], "the condition", kinds="b")
    return _broadcast(*(_tensor(x, kinds="fb").shape for x in node.values))


def along(node: Node) -> int:
    x = _tensor(node.inputs[0])
    _whole(node.options["dim"], -len(x.shape), len(x.shape) - 1, "dim")
    return x.size


def reduction(node: Node) -> int:
    x = _tensor(node.inputs[0])
    if node.options["dim"] is not None:
        _dims(node.options["dim"], len(x.shape))
    _flag(node, *({"keepdim", "largest"} & set(node.options)))
    _number_option(node, *({"correction", "p"} & set(node.options)))
    return x.size


def convolution(node: Node) -> tuple[int, int, int]:
    x, weight = _tensor(node.inputs[0], "x", 4), _tensor(node.inputs[1], "weight", 4)
    stride, dilation = _pair(node, "stride", 1), _pair(node, "dilation", 1)
    padding = _pair(node, "padding", 0)
    (n, c, *size), (outputs, inputs, *kernel) = x.shape, weight.shape
    groups = _whole(node.options["groups"], 1, _FARTHEST, "groups")
    _like(x, weight, "weight", weight.shape)
    _like(x, node.inputs[2], "bias", (outputs,))
    if inputs * groups != c or not outputs or outputs % groups or not prod(kernel):
        raise Breach(f"weight {weight.shape} in {groups} groups does not fit x {x.shape}")
    if node.op is QuantizedConv2d:
        _lattices(node, outputs)
    out = _positive(conv_output_size(size, kernel, stride, padding, dilation), x, kernel)
    return n * outputs * prod(out), n * c * prod(kernel) * prod(out), n * prod(out) * weight.size


def transposed_convolution(node: Node) -> tuple[int, int, int]:
    x, weight = _tensor(node.inputs[0], "x", 4), _tensor(node.inputs[1], "weight", 4)
    stride, dilation = _pair(node, "stride", 1), _pair(node, "dilation", 1)
    padding, more = _pair(node, "padding", 0), _pair(node, "output_padding", 0)
    (n, c, *size), (inputs, outputs, *kernel) = x.shape, weight.shape
    groups = _whole(node.options["groups"], 1, _FARTHEST, "groups")
    _like(x, weight, "weight", weight.shape)
    _like(x, node.inputs[2], "bias", (outputs * groups,))
    if inputs != c or not c or c % groups or not outputs or not prod(kernel):
        raise Breach(f"weight {weight.shape} in {groups} groups does not fit x {x.shape}")
    if any(m >= max(s, d) for m, s, d in zip(more, stride, dilation, strict=True)):
        raise Breach(f"output_padding {more} is not below stride or dilation")
    out = tuple(
        (length - 1) * s - 2 * p + d * (k - 1) + m + 1
        for length, s, p, d, k, m in zip(size, stride, padding, dilation, kernel, more, strict=True)
    )
    _positive(out, x, kernel)
    windows = n * outputs * groups * prod(kernel) * prod(size)
    return n * outputs * groups * prod(out), windows, n * prod(size) * weight.size


def _positive(out: tuple[int, ...], x: Value, kernel: Any) -> tuple[int, ...]:
    if min(out) < 1:
        raise Breach(f"windows of {tuple(kernel)} do not fit x {x.shape}")
    return out


def dense(node: Node) -> tuple[int, int, int]:
    x, weight = _tensor(node.inputs[0], "x"), _tensor(node.inputs[1], "weight", 2)
    outputs, inputs = weight.shape
    _like(x, weight, "weight", weight.shape)
    _like(x, node.inputs[2], "bias", (outputs,))
    if not x.shape or x.shape[-1] != inputs:
        raise Breach(f"weight {weight.shape} does not fit x {x.shape}")
    if node.op is QuantizedLinear:
        _lattices(node, outputs)
    rows = prod(x.shape[:-1])
    return rows * outputs, 0, rows * weight.size


def matrices(node: Node) -> tuple[int, int, int]:
    a, b = (_tensor(x) for x in node.inputs)
    _like(a, b, "the second operand", b.shape)
    if not a.shape or not b.shape or a.shape[-1] != b.shape[max(len(b.shape) - 2, 0)]:
        raise Breach(f"matrices {a.shape} and {b.shape} do not go together")
    rows, columns = a.shape[-2:-1], b.shape[-1:] if len(b.shape) > 1 else ()
    size = _broadcast(a.shape[:-2], b.shape[:-2]) * prod(rows) * prod(columns)
    return size, 0, size * a.shape[-1]


def _lattices(node: Node, outputs: int) -> None:
    """Scales and bounds of a layer on lattices: x_scale, w_scale (not of a pooling), y_scale, zero point."""
    *_, y_scale, y_zero_point = node.inputs
    scales = node.inputs[1:2] if node.op is QuantizedAvgPool2d else node.inputs[3:5]
    _needed(*scales)
    for scale, shapes in zip(scales, (((),), ((), (outputs,))), strict=False):
        _scale(node, scale, *shapes)
    if (y_scale is None) != (y_zero_point is None):
        raise Breach("a result with a scale or a zero point, but not both")
    if y_scale is not None:
        _scale(node, y_scale, ())
        _zero_point(node, y_zero_point, ())


def _scale(node: Node, scale: Any, *shapes: tuple[int, ...]) -> None:
    _like(_tensor(node.inputs[0]), _tensor(scale, "a scale"), "a scale", *shapes)
    if scale.kind != "constant" or not ((host_array(scale) > 0) & np.isfinite(host_array(scale))).all():
        raise Breach("expected scales that are constant, positive and finite")


def _zero_point(node: Node, zero_point: Any, shape: tuple[int, ...]) -> None:
    low = _whole(node.options["qmin"], -(2**16), 0, "qmin")
    high = _whole(node.options["qmax"], 0, 2**16, "qmax")
    _tensor(zero_point, "the zero point", kinds="i")
    if zero_point.shape != shape or zero_point.kind != "constant" or zero_point.dtype != np.int32:
        raise Breach(f"expected a constant zero point int32 of shape {shape}, got {zero_point}")
    if not ((host_array(zero_point) >= low) & (host_array(zero_point) <= high)).all() or low == high:
        raise Breach(f"expected zero points from {low} to {high}, and more than one number")


def quantizer(node: Node) -> int:
    x, axis = _tensor(node.inputs[0]), node.options["axis"]
    if axis is not None:
        _whole(axis, 0, len(x.shape) - 1, "axis")
    shape = () if axis is None else (x.shape[axis],)
    _scale(node, node.inputs[1], shape)
    _zero_point(node, node.inputs[2], shape)
    return x.size


def signs(node: Node) -> int:
    x, axis = _tensor(node.inputs[0]), node.options["axis"]
    if axis is not None:
        _whole(axis, 0, len(x.shape) - 1, "axis")
    _number_option(node, "limit")
    _scale(node, node.inputs[1], () if axis is None else (x.shape[axis],))
    return x.size


def mask(node: Node) -> int:
    x, keep = _tensor(node.inputs[0]), _tensor(node.inputs[1], "the mask", kinds="b")
    _flag(node, "hard")
    if keep.shape != x.shape:
        raise Breach(f"a mask of shape {keep.shape} for {x.shape}")
    return x.size


def pooling(node: Node) -> tuple[int, int, int]:
    x = _tensor(node.inputs[0], "x", 4)
    kernel, stride, padding = (
        _pair(node, name, low) for name, low in (("kernel_size", 1), ("stride", 1), ("padding", 0))
    )
    dilation = _pair(node, "dilation", 1) if "dilation" in node.options else (1, 1)
    _flag(node, *({"ceil_mode", "return_indices", "count_include_pad"} & set(node.options)))
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise Breach(f"padding {padding} is more than half of the window {kernel}")
    for name in {"divisor_override", "divisor"} & set(node.options):
        if name == "divisor" or node.options[name] is not None:
            _whole(node.options[name], 1, 2**31, name)
    if node.op is QuantizedAvgPool2d:
        _lattices(node, 1)
    ceil_mode = node.options.get("ceil_mode", False)
    out = _positive(pool_output_size(x.shape[2:], kernel, stride, padding, dilation, ceil_mode), x, kernel)
    count = x.shape[0] * x.shape[1] * prod(out)
    return count, count * prod(kernel), count * prod(kernel)


def adaptive(node: Node) -> tuple[int, int]:
    x, out = _tensor(node.inputs[0], "x", 4), _pair(node, "output_size", 1)
    if not prod(x.shape[2:]):
        raise Breach(f"nothing to pool in x {x.shape}")
    return x.shape[0] * x.shape[1] * prod(out), x.size


def per_channel(node: Node) -> int:
    x = _tensor(node.inputs[0])
    if len(x.shape) < 2:
        raise Breach(f"expected x (N, C, ...), got shape {x.shape}")
    _needed(*node.inputs[3:])
    for parameter in node.inputs[1:]:
        _like(x, parameter, "a parameter", x.shape[1:2])
    _number_option(node, "eps")
    variance = host_array(node.inputs[4]) if node.inputs[4].kind == "constant" else np.ones(())
    if not (variance >= 0).all() or not node.options["eps"] > 0:
        raise Breach("expected variances of at least 0 and a positive eps")
    return x.size


def layer_norm(node: Node) -> int:
    x = _tensor(node.inputs[0])
    count = _whole(node.options["normalized_ndim"], 1, len(x.shape), "normalized_ndim")
    for parameter in node.inputs[1:]:
        _like(x, parameter, "a parameter", x.shape[len(x.shape) - count :])
    _number_option(node, "eps")
    return x.size


def reshape(node: Node) -> int:
    x, shape = _tensor(node.inputs[0], kinds="fiub"), _tuple(node.options["shape"], "shape")
    sizes = [_whole(size, -1, LARGEST, "a size") for size in shape]
    if sizes.count(-1) > 1 or len(sizes) > 8:
        raise Breach(f"expected at most one open size, got {shape}")
    return x.size


def permute(node: Node) -> int:
    x = _tensor(node.inputs[0], kinds="fiub")
    if len(_dims(_tuple(node.options["dims"], "dims"), len(x.shape), "dims")) != len(x.shape):
        raise Breach(f"expected an order of {len(x.shape)} dimensions, got {node.options['dims']}")
    return x.size


def repeat(node: Node) -> int:
    x, shape = _tensor(node.inputs[0], kinds="fiub"), _tuple(node.options["shape"], "shape")
    if len(shape) > 8:
        raise Breach(f"more dimensions than any model's: {shape}")
    return _broadcast(x.shape, tuple(_whole(size, 0, LARGEST, "a size") for size in shape))


def pick(node: Node) -> int:
    x, index = _tensor(node.inputs[0], kinds="fiub"), node.options["index"]
    for part in index if isinstance(index, tuple) else (index,):
        ends = (part.start, part.stop, part.step) if isinstance(part, slice) else (part,)
        for end in ends:
            if not (end is None or end is Ellipsis):
                _whole(end, -(2**31), 2**31, "an index")
    return x.size


def join(node: Node) -> int:
    values = [_tensor(x, kinds="fiub") for x in node.inputs]
    if not values:
        raise Breach("nothing to join")
    first = values[0]
    (dim,) = _dims(node.options["dim"], len(first.shape))
    for x in values:
        others = [x.shape[:dim] == first.shape[:dim], x.shape[dim + 1 :] == first.shape[dim + 1 :]]
        if len(x.shape) != len(first.shape) or not all(others) or x.dtype != first.dtype:
            raise Breach(f"{first} and {x} cannot be joined")
    return sum(x.size for x in values)


def frame(node: Node) -> int:
    x, pad = _tensor(node.inputs[0], kinds="fiub"), _tuple(node.options["pad"], "pad")
    if len(pad) != len(x.shape) or node.options["mode"] not in (
        "constant",
        "reflect",
        "replicate",
        "circular",
    ):
        raise Breach(f"padding {pad} of mode {node.options['mode']!r} for x {x.shape}")
    _number_option(node, "value")
    sizes = []
    for size, widths in zip(x.shape, pad, strict=True):
        before, after = (_whole(w, -_FARTHEST, _FARTHEST, "a width") for w in _tuple(widths, "pad", 2))
        if node.options["mode"] != "constant" and (max(before, after) >= size or min(before, after) < 0):
            raise Breach(f"padding {pad} mirrors more than x {x.shape} has")
        if size + before + after < 0:
            raise Breach(f"padding {pad} cuts off more than x {x.shape} has")
        sizes.append(size + max(before, 0) + max(after, 0))
    return prod(sizes)


def turn(node: Node) -> int:
    x = _tensor(node.inputs[0], kinds="fiub")
    dims = node.options["dims"]
    if dims is not None:
        _dims(_tuple(dims, "dims"), len(x.shape), "dims")
    for shift in _tuple(node.options.get("shifts", ()), "shifts"):
        _whole(shift, -_FARTHEST, _FARTHEST, "a shift")
    if "shifts" in node.options and len(node.options["shifts"]) != (1 if dims is None else len(dims)):
        raise Breach(f"{node.options['shifts']} shifts {dims}")
    if dims is None and node.op is moving.Flip:
        raise Breach("expected dims")
    return x.size


def copy(node: Node) -> int:
    _number_option(node, *node.options)
    return _tensor(node.inputs[0], kinds="fiub").size
