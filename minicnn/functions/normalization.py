"""Batch, instance, layer, group and local response normalization, and vectors of length 1.

Two Functions carry them: batch norm, whose statistics run over everything but the channels, and layer norm,
whose statistics run over the last dimensions. Instance norm is batch norm of a batch of one image with N C
channels, group norm is layer norm of groups. Formulas are in `minicnn_kernels.reference.normalization`.
"""

from __future__ import annotations

import math
from typing import Any

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.arguments import check_tensors, fail, integers, normalized_dim
from minicnn.functions.image import pad
from minicnn.functions.pooling import avg_pool2d
from minicnn.tensor import Tensor

__all__ = [
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "local_response_norm",
    "normalize",
]


class BatchNorm(Function):
    """x (N, C, ...), weight and bias (C,) or None -> y, with the statistics of this batch.

    running_mean and running_var (C,), if given, move towards them by the share `momentum`, in place.
    """

    changes = (3, 4)

    def forward(
        self,
        x: Any,
        weight: Any,
        bias: Any,
        running_mean: Any,
        running_var: Any,
        *,
        eps: float,
        momentum: float,
    ) -> Any:
        k = kernels.of(x)
        self.x, self.weight = x, weight
        y, self.mean, self.inv_std = k.batch_norm_forward(x, weight, bias, eps)
        if running_mean is not None:
            count = math.prod(x.shape) // x.shape[1]
            k.batch_norm_update(running_mean, running_var, self.mean, self.inv_std, eps, momentum, count)
        return y

    def backward(self, grad: Any) -> tuple[Any, ...]:
        gradients = kernels.of(grad).batch_norm_backward(
            grad, self.x, self.weight, self.mean, self.inv_std, self.needs_input_grad[:3]
        )
        return (*gradients, None, None)


class BatchNormInference(Function):
    """Batch norm with given statistics (C,), which are constants to the gradient."""

    def forward(
        self, x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, *, eps: float
    ) -> Any:
        self.x = x if self.needs_input_grad[1] else None
        self.weight, self.running_mean, self.running_var, self.eps = weight, running_mean, running_var, eps
        return kernels.of(x).batch_norm_inference(x, weight, bias, running_mean, running_var, eps)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        x = grad if self.x is None else self.x  # without a gradient of the weight no kernel reads x
        gradients = kernels.of(grad).batch_norm_inference_backward(
            grad, x, self.weight, self.running_mean, self.running_var, self.eps, self.needs_input_grad[:3]
        )
        return (*gradients, None, None)


class LayerNorm(Function):
    """x (..., *normalized_shape), weight and bias normalized_shape or None -> y."""

    def forward(self, x: Any, weight: Any, bias: Any, *, normalized_ndim: int, eps: float) -> Any:
        self.x, self.weight, self.normalized_ndim = x, weight, normalized_ndim
        y, self.mean, self.inv_std = kernels.of(x).layer_norm_forward(x, normalized_ndim, weight, bias, eps)
        return y

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return kernels.of(grad).layer_norm_backward(
            grad, self.x, self.normalized_ndim, self.weight, self.mean, self.inv_std, self.needs_input_grad
        )


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) weight + bias for every channel of (N, C, ...) (Ioffe and Szegedy 2015).

    training: with the statistics of this batch (biased variance); the running ones, if given, move towards
    them by the share `momentum` (with the unbiased variance), in place. Otherwise with the running ones.
    Raises ValueError if shapes do not fit or a channel has one value only, TypeError for mixed dtypes.
    """
    op = "batch_norm"
    running = {"running_mean": running_mean, "running_var": running_var}
    _check_channels(op, input, weight, bias, running)
    if not training:
        if running_mean is None or running_var is None:
            raise fail(op, "running_mean and running_var are missing; give them, or training=True")
        return BatchNormInference.apply(input, weight, bias, running_mean, running_var, eps=eps)
    count = _values_per_channel(input)
    if count == 1:
        raise fail(
            op,
            f"expected more than one value per channel in training, got shape {input.shape}; "
            f"use a larger batch (drop_last=True drops a last batch of one), or eval()",
        )
    if count == 0:  # nothing to measure; weight and bias still belong to the tape
        return _affine(input, weight, bias)
    if running_mean is None or running_var is None:
        running_mean = running_var = None
    return BatchNorm.apply(input, weight, bias, running_mean, running_var, eps=eps, momentum=momentum)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch norm of every image of (N, C, ...) alone (Ulyanov et al. 2016).

    use_input_stats: with the image's own statistics; running ones, if given, move towards their mean over
    the batch, in place. Otherwise with the running ones. Raises as `batch_norm`.
    """
    op = "instance_norm"
    running = {"running_mean": running_mean, "running_var": running_var}
    _check_channels(op, input, weight, bias, running)
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise fail(op, "running_mean and running_var are missing; give them, or use_input_stats=True")
        return BatchNormInference.apply(input, weight, bias, running_mean, running_var, eps=eps)
    n, channels, *size = input.shape
    count = math.prod(size)
    if count == 1:
        raise fail(op, f"expected more than one position per image and channel, got shape {input.shape}")
    if input.numel() == 0:
        return _affine(input, weight, bias)
    images = input.reshape(1, n * channels, *size)
    if running_mean is None or running_var is None:
        y = BatchNorm.apply(images, None, None, None, None, eps=eps, momentum=momentum)
    else:
        each_mean, each_var = running_mean.detach().repeat(n), running_var.detach().repeat(n)
        y = BatchNorm.apply(images, None, None, each_mean, each_var, eps=eps, momentum=momentum)
        running_mean.copy_(each_mean.reshape(n, channels).mean(0))
        running_var.copy_(each_var.reshape(n, channels).mean(0))
    return _affine(y.reshape(input.shape), weight, bias)


def layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) weight + bias over the last dimensions (Ba et al. 2016).

    normalized_shape: their sizes, or one int for the last one; weight and bias have this shape.
    Raises ValueError for shapes that do not fit, TypeError for mixed dtypes.
    """
    op = "layer_norm"
    check_tensors(op, input=input, weight=weight, bias=bias)
    dims = len(normalized_shape) if isinstance(normalized_shape, (tuple, list)) else 1
    shape = integers(op, "normalized_shape", normalized_shape, dims, 1)
    if input.shape[input.ndim - dims :] != shape:
        layout = ", ".join(map(str, shape))
        raise fail(op, f"expected input (..., {layout}), got {input.shape}")
    for name, x in (("weight", weight), ("bias", bias)):
        if x is not None and x.shape != shape:
            raise fail(op, f"expected {name} {shape}, got {x.shape}")
    if input.numel() == 0:
        y = input if weight is None else input * weight
        return y if bias is None else y + bias
    return LayerNorm.apply(input, weight, bias, normalized_ndim=dims, eps=eps)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalization over groups of channels of every image of (N, C, ...) alone (Wu and He 2018).

    weight, bias: (C,) or None. Raises ValueError unless num_groups divides C.
    """
    op = "group_norm"
    _check_channels(op, input, weight, bias, {})
    (num_groups,) = integers(op, "num_groups", num_groups, 1, 1)
    n, channels, *size = input.shape
    if channels % num_groups:
        raise fail(op, f"expected num_groups to divide {channels} channels, got {num_groups}")
    if input.numel() == 0:
        return _affine(input, weight, bias)
    groups = input.reshape(n, num_groups, channels // num_groups * math.prod(size))
    y = LayerNorm.apply(groups, None, None, normalized_ndim=1, eps=eps)
    return _affine(y.reshape(input.shape), weight, bias)


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """x / (k + alpha mean(x^2 of `size` neighbouring channels))^beta, (N, C, ...) (Krizhevsky 2012)."""
    op = "local_response_norm"
    check_tensors(op, input=input)
    if input.ndim < 3:
        raise fail(op, f"expected input (N, C, ...) of three dimensions or more, got shape {input.shape}")
    (size,) = integers(op, "size", size, 1, 1)
    if input.numel() == 0:
        return input * 1
    n, channels, *rest = input.shape
    squares = (input * input).reshape(n, 1, channels, math.prod(rest))
    padded = pad(squares, (0, 0, size // 2, (size - 1) // 2))
    means = avg_pool2d(padded, (size, 1), stride=1).reshape(input.shape)
    return input / (means * alpha + k) ** beta


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """Vectors along `dim` divided by their p-norm, or by eps if that is larger."""
    check_tensors("normalize", input=input)
    return input / floored_norm(input, p, normalized_dim("normalize", dim, input.ndim), eps, keepdim=True)


def floored_norm(input: Tensor, p: float, dim: int, eps: float, *, keepdim: bool) -> Tensor:
    """The p-norm along `dim`, at least eps. The limit stands inside the root, so the gradient at 0 is 0."""
    if p == math.inf:
        return input.abs().amax(dim, keepdim=keepdim).clamp(min=eps)
    if p == 1:
        return input.abs().sum(dim, keepdim=keepdim).clamp(min=eps)
    if p == 2:
        return (input * input).sum(dim, keepdim=keepdim).clamp(min=eps * eps).sqrt()
    return (input.abs() ** p).sum(dim, keepdim=keepdim).clamp(min=eps**p) ** (1 / p)


def _values_per_channel(input: Tensor) -> int:
    return input.shape[0] * math.prod(input.shape[2:])


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """y (N, C, ...) times weight (C,) plus bias (C,)."""
    per_channel = (-1, *(1,) * (y.ndim - 2))
    if weight is not None:
        y = y * weight.reshape(per_channel)
    return y if bias is None else y + bias.reshape(per_channel)


def _check_channels(
    op: str, input: Tensor, weight: Tensor | None, bias: Tensor | None, running: dict[str, Tensor | None]
) -> None:
    """Input (N, C, ...); weight, bias and running statistics (C,) or None."""
    per_channel = {"weight": weight, "bias": bias, **running}
    check_tensors(op, input=input, **per_channel)
    if input.ndim < 2:
        raise fail(op, f"expected input (N, C, ...), got shape {input.shape}")
    for name, x in per_channel.items():
        if x is not None and x.shape != input.shape[1:2]:
            raise fail(
                op,
                f"expected input with {x.numel()} channels (N, {x.numel()}, ...) as {name} {x.shape} has, "
                f"got {input.shape}. Is a layer missing before it?",
            )
