"""Convolution and transposed convolution in one and two dimensions, and the im2col pair unfold and fold.

There is one convolution, of images; sequences are images of height 1, and a transposed convolution is the
gradient of a convolution run forward. Formulas are in `minicnn_kernels.reference.conv`.
"""

from __future__ import annotations

import math
from typing import Any

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.arguments import check_tensors, fail, integers
from minicnn.functions.image import pad
from minicnn.functions.quantization import Lattices, QuantizedConv2d
from minicnn.tensor import Tensor
from minicnn_kernels.windows import conv_output_size

__all__ = [
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "fold",
    "quantized_conv",
    "unfold",
]

_AXES = {1: "L", 2: "H, W"}  # how messages write the spatial dimensions
_KERNEL = {1: "k", 2: "kh, kw"}


class Conv2d(Function):
    """x (N, C, H, W), weight (O, C/groups, kh, kw), bias (O,) or None -> (N, O, H', W'); pairs as options."""

    adds_input_gradient = True

    def forward(
        self, x: Any, weight: Any, bias: Any, *, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Any:
        needs_x, needs_weight, _ = self.needs_input_grad
        self.options = (stride, padding, dilation, groups)
        self.x_shape, self.weight_shape = x.shape, weight.shape
        self.x, self.weight = x if needs_weight else None, weight if needs_x else None
        return kernels.of(x).conv2d_forward(x, weight, bias, *self.options)

    @classmethod
    def prepare(cls, backend: Any, x_shape: tuple[int, ...], *weights: Any, **options: Any) -> Any:
        return backend.conv2d_layer(x_shape, *weights, **options, relu=False, pool=None)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        needs_x, needs_weight, needs_bias = self.needs_input_grad
        return (
            k.conv2d_backward_input(grad, self.weight, self.x_shape, *self.options, self.earlier)
            if needs_x
            else None,
            k.conv2d_backward_weight(grad, self.x, self.weight_shape, *self.options)
            if needs_weight
            else None,
            k.conv2d_backward_bias(grad) if needs_bias else None,
        )


class ConvTranspose2d(Function):
    """x (N, C, H, W), weight (C, O/groups, kh, kw), bias (O,) or None -> (N, O, H', W').

    Options are pairs, output_padding smaller than stride: of the sizes that a convolution with this stride
    would bring to (H, W) it chooses one.
    """

    def forward(
        self,
        x: Any,
        weight: Any,
        bias: Any,
        *,
        stride: Any,
        padding: Any,
        output_padding: Any,
        dilation: Any,
        groups: int,
    ) -> Any:
        needs_x, needs_weight, _ = self.needs_input_grad
        self.options = (stride, padding, dilation, groups)
        self.weight_shape = weight.shape
        self.x, self.weight = x if needs_weight else None, weight if needs_x else None
        size = (
            (x.shape[2 + i] - 1) * stride[i]
            - 2 * padding[i]
            + dilation[i] * (weight.shape[2 + i] - 1)
            + output_padding[i]
            + 1
            for i in (0, 1)
        )
        k = kernels.of(x)
        y = k.conv2d_backward_input(x, weight, (x.shape[0], weight.shape[1] * groups, *size), *self.options)
        return y if bias is None else k.add(y, k.reshape(bias, (-1, 1, 1)))

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        needs_x, needs_weight, needs_bias = self.needs_input_grad
        return (
            k.conv2d_forward(grad, self.weight, None, *self.options) if needs_x else None,
            k.conv2d_backward_weight(self.x, grad, self.weight_shape, *self.options)
            if needs_weight
            else None,
            k.conv2d_backward_bias(grad) if needs_bias else None,
        )


class Unfold(Function):
    """x (N, C, H, W) -> the windows as columns (N, C kh kw, L)."""

    def forward(self, x: Any, *, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> Any:
        self.size, self.window = x.shape[2:], (kernel_size, stride, padding, dilation)
        return kernels.of(x).im2col(x, *self.window)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).col2im(grad, self.size, *self.window),)


class Fold(Function):
    """Columns (N, C kh kw, L), summed where windows overlap -> (N, C, H, W) of output_size."""

    def forward(
        self, columns: Any, *, output_size: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any
    ) -> Any:
        self.window = (kernel_size, stride, padding, dilation)
        return kernels.of(columns).col2im(columns, output_size, *self.window)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).im2col(grad, *self.window),)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation along one dimension. Arguments as for `conv2d`.

    input (N, C, L) or (C, L), weight (O, C/groups, k), bias (O,) or None -> (N, O, L') or (O, L').
    """
    return _conv("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of images with H' = (H + 2 padding - dilation (kh - 1) - 1) // stride + 1.

    input (N, C, H, W) or (C, H, W), weight (O, C/groups, kh, kw), bias (O,) or None -> (N, O, H', W') or
    (O, H', W'). stride, padding, dilation: an int or a pair; padding also 'valid' (none) or 'same' (H' = H,
    stride 1 only). groups: channels and outputs fall into this many parts that do not see each other.
    Raises ValueError for shapes and sizes that do not fit, TypeError for mixed dtypes.
    """
    return _conv("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


def quantized_conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lattices: Lattices,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """conv1d or conv2d of values on `lattices`, in exact integers; arguments and shapes as there."""
    dims = weight.ndim - 2
    return _conv(f"conv{dims}d", dims, input, weight, bias, stride, padding, dilation, groups, lattices)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """The gradient of `conv1d`, forward. Arguments as for `conv_transpose2d`.

    input (N, C, L) or (C, L), weight (C, O/groups, k), bias (O,) or None -> (N, O, L') or (O, L').
    """
    return _conv_transpose(
        "conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """The gradient of `conv2d`, forward: every pixel stamps the kernel, scaled, on the result.

    input (N, C, H, W) or (C, H, W), weight (C, O/groups, kh, kw), bias (O,) or None -> (N, O, H', W') or
    (O, H', W') with H' = (H - 1) stride - 2 padding + dilation (kh - 1) + output_padding + 1.
    output_padding must be smaller than stride or dilation. Raises ValueError and TypeError as `conv2d`.
    """
    return _conv_transpose(
        "conv_transpose2d", 2, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """im2col: every window of (N, C, H, W) or (C, H, W) as a column -> (N, C kh kw, L) or (C kh kw, L)."""
    op = "unfold"
    check_tensors(op, input=input)
    window = _window(op, kernel_size, stride, padding, dilation)
    batch, batched = _as_batch(op, 2, input, "C")
    _check_fits(op, batch.shape[2:], *window)
    columns = Unfold.apply(batch, **_named(window))
    return columns if batched else columns.squeeze(0)


def fold(
    input: Tensor,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Tensor:
    """col2im: (N, C kh kw, L) or (C kh kw, L) -> (N, C, H, W) or (C, H, W), summed where windows overlap.

    output_size: (H, W). Raises ValueError unless L is the number of windows of such an image.
    """
    op = "fold"
    check_tensors(op, input=input)
    size = integers(op, "output_size", output_size, 2, 1)
    window = _window(op, kernel_size, stride, padding, dilation)
    length = math.prod(_check_fits(op, size, *window))
    taps = math.prod(window[0])
    if input.ndim not in (2, 3) or input.shape[-2] % taps or input.shape[-1] != length:
        raise fail(
            op,
            f"expected input (N, C*{taps}, {length}) for output_size {size} and kernel_size {window[0]}, "
            f"got {input.shape}",
        )
    batched = input.ndim == 3
    images = Fold.apply(input if batched else input.unsqueeze(0), output_size=size, **_named(window))
    return images if batched else images.squeeze(0)


def _conv(
    op: str,
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    lattices: Lattices | None = None,
) -> Tensor:
    check_tensors(op, input=input, weight=weight, bias=bias)
    _check_weight(op, dims, weight, f"(O, C/groups, {_KERNEL[dims]})")
    kernel_size = weight.shape[2:]
    (groups,) = integers(op, "groups", groups, 1, 1)
    stride = integers(op, "stride", stride, dims, 1)
    dilation = integers(op, "dilation", dilation, dims, 1)
    outputs, channels = weight.shape[0], weight.shape[1] * groups
    batch, batched = _as_batch(op, dims, input, channels)
    if outputs % groups:
        raise fail(op, f"expected groups to divide the {outputs} outputs of the weight, got groups={groups}")
    _check_bias(op, bias, outputs)
    if isinstance(padding, str):
        batch, padding = _named_padding(op, padding, batch, kernel_size, stride, dilation)
    else:
        padding = integers(op, "padding", padding, dims, 0)
    _check_fits(op, batch.shape[2:], kernel_size, stride, padding, dilation)
    images, weight, (stride, dilation), padding = _as_images(batch, weight, (stride, dilation), padding)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if lattices is None:
        result = Conv2d.apply(images, weight, bias, **options)
    else:
        result = QuantizedConv2d.apply(images, weight, bias, *lattices[:4], **lattices.bounds, **options)
    return _from_images(result, dims, batched)


def _conv_transpose(
    op: str,
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Tensor:
    check_tensors(op, input=input, weight=weight, bias=bias)
    _check_weight(op, dims, weight, f"(C, O/groups, {_KERNEL[dims]})")
    (groups,) = integers(op, "groups", groups, 1, 1)
    stride = integers(op, "stride", stride, dims, 1)
    padding = integers(op, "padding", padding, dims, 0)
    output_padding = integers(op, "output_padding", output_padding, dims, 0)
    dilation = integers(op, "dilation", dilation, dims, 1)
    channels, outputs = weight.shape[0], weight.shape[1] * groups
    batch, batched = _as_batch(op, dims, input, channels)
    if channels % groups:
        raise fail(op, f"expected groups to divide the {channels} channels of input, got groups={groups}")
    _check_bias(op, bias, outputs)
    for i, extra in enumerate(output_padding):
        if extra >= max(stride[i], dilation[i]):
            raise fail(
                op,
                f"expected output_padding smaller than stride or dilation, got {output_padding}, "
                f"stride={stride}, dilation={dilation}",
            )
        full = (batch.shape[2 + i] - 1) * stride[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1 + extra
        if full - 2 * padding[i] < 1:
            raise fail(
                op, f"padding {padding} leaves nothing of input {input.shape} with {weight.shape[2:]} kernels"
            )
    if any(extra >= step for extra, step in zip(output_padding, stride, strict=True)):
        # More than a stride (dilation allows it) is what further pixels of zeros would have stamped.
        rows = tuple(extra // step for extra, step in zip(output_padding, stride, strict=True))
        batch = pad(batch, [size for count in reversed(rows) for size in (0, count)])
        output_padding = tuple(extra % step for extra, step in zip(output_padding, stride, strict=True))
    images, weight, (stride, dilation), padding, output_padding = _as_images(
        batch, weight, (stride, dilation), padding, output_padding
    )
    result = ConvTranspose2d.apply(
        images,
        weight,
        bias,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
        groups=groups,
    )
    return _from_images(result, dims, batched)


def _check_weight(op: str, dims: int, weight: Tensor, layout: str) -> None:
    if weight.ndim != dims + 2 or 0 in weight.shape[2:]:
        raise fail(op, f"expected weight {layout}, got shape {weight.shape}")


def _check_bias(op: str, bias: Tensor | None, outputs: int) -> None:
    if bias is not None and bias.shape != (outputs,):
        raise fail(op, f"expected bias ({outputs},), one per output, got {bias.shape}")


def _as_batch(op: str, dims: int, input: Tensor, channels: Any) -> tuple[Tensor, bool]:
    """Input with a batch dimension, and whether it had one. channels: how many are expected, or a letter."""
    layout = f"{channels}, {_AXES[dims]}"
    if input.ndim not in (dims + 1, dims + 2):
        raise fail(op, f"expected input (N, {layout}) or ({layout}), got shape {input.shape}")
    if isinstance(channels, int) and input.shape[-dims - 1] != channels:
        hint = "Is a layer missing before it?"
        if input.shape[-1] == channels:
            hint = "Are the channels last? permute(0, 3, 1, 2) puts them second." if dims == 2 else hint
        raise fail(op, f"expected input with {channels} channels (N, {layout}), got {input.shape}. {hint}")
    batched = input.ndim == dims + 2
    return (input if batched else input.unsqueeze(0)), batched


def _as_images(batch: Tensor, weight: Tensor, ones: tuple, *zeros: tuple) -> tuple[Any, ...]:
    """Sequences become images of height 1. ones, zeros: options that are 1 or 0 along that height."""
    if batch.ndim == 4:
        return batch, weight, ones, *zeros
    return (
        batch.unsqueeze(2),
        weight.unsqueeze(2),
        tuple((1, *option) for option in ones),
        *((0, *option) for option in zeros),
    )


def _from_images(result: Tensor, dims: int, batched: bool) -> Tensor:
    if dims == 1:
        result = result.squeeze(2)
    return result if batched else result.squeeze(0)


def _named_padding(
    op: str, padding: str, batch: Tensor, kernel_size: Any, stride: Any, dilation: Any
) -> tuple[Tensor, tuple[int, ...]]:
    """The input and the padding that 'valid' and 'same' mean; an odd total puts one more zero at the end."""
    if padding not in ("valid", "same"):
        raise fail(op, f"expected padding to be an integer, a tuple, 'valid' or 'same', got {padding!r}")
    if padding == "valid":
        return batch, (0,) * len(kernel_size)
    if any(step != 1 for step in stride):
        raise fail(op, f"padding='same' needs stride 1, got stride={stride}; give the padding as a number")
    totals = [d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]
    if any(total % 2 for total in totals):
        batch = pad(batch, [size for total in reversed(totals) for size in (0, total % 2)])
    return batch, tuple(total // 2 for total in totals)


def _window(
    op: str, kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> tuple[tuple[int, ...], ...]:
    return (
        integers(op, "kernel_size", kernel_size, 2, 1),
        integers(op, "stride", stride, 2, 1),
        integers(op, "padding", padding, 2, 0),
        integers(op, "dilation", dilation, 2, 1),
    )


def _named(window: tuple[tuple[int, ...], ...]) -> dict[str, tuple[int, ...]]:
    return dict(zip(("kernel_size", "stride", "padding", "dilation"), window, strict=True))


def _check_fits(
    op: str, size: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> tuple[int, ...]:
    """The output size. Raises ValueError if the kernel is larger than the padded input."""
    out = conv_output_size(size, kernel_size, stride, padding, dilation)
    if min(out) < 1:
        span = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel_size, strict=True))
        padded = tuple(n + 2 * p for n, p in zip(size, padding, strict=True))
        raise fail(
            op,
            f"kernel of size {span} (dilation included) is larger than the padded input {padded}; "
            f"add padding, or pool less before it",
        )
    return out
