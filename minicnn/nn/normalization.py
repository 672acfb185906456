"""Normalization layers: over the batch, over an instance, over groups of channels, over neighbours."""

from __future__ import annotations

from typing import Any, ClassVar

from minicnn import scope
from minicnn.nn import arguments, init
from minicnn.nn import functional as F
from minicnn.nn.module import Module
from minicnn.nn.parameter import Parameter
from minicnn.tensor import Tensor, int64, tensor
from minicnn_kernels import memory


def _reset(layer: Module) -> None:
    """Weight 1, bias 0, where the layer has them."""
    if layer.weight is not None:
        init.ones_(layer.weight)
    if layer.bias is not None:
        init.zeros_(layer.bias)


class _Statistics(Module):
    """Affine parameters and running statistics per channel, shared by batch and instance norm."""

    ndims: ClassVar[tuple[int, ...]]
    shapes: ClassVar[str]

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        bias: bool,
    ) -> None:
        super().__init__()
        self.num_features = arguments.integer(self, "num_features", num_features)
        self.eps = arguments.number(self, "eps", eps, 0)
        self.momentum = momentum if momentum is None else arguments.number(self, "momentum", momentum, 0, 1)
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = Parameter(memory.empty(num_features)) if affine else None
        self.bias = Parameter(memory.empty(num_features)) if affine and bias else None
        self.register_buffer(
            "running_mean", Tensor(memory.empty(num_features)) if track_running_stats else None
        )
        self.register_buffer(
            "running_var", Tensor(memory.empty(num_features)) if track_running_stats else None
        )
        counter = tensor(0, dtype=int64) if track_running_stats else None
        self.register_buffer("num_batches_tracked", counter)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget what was measured: mean 0, variance 1."""
        if self.track_running_stats:
            self.running_mean.fill_(0)
            self.running_var.fill_(1)
            self.num_batches_tracked.fill_(0)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, statistics forgotten."""
        self.reset_running_stats()
        _reset(self)

    def _check_ndim(self, input: Tensor) -> None:
        if input.ndim not in self.ndims:
            name = type(self).__name__
            raise ValueError(f"{scope.where(name)}: expected input {self.shapes}, got {input.shape}")

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Statistics):
    """(x - mean) / sqrt(var + eps) weight + bias per channel (Ioffe and Szegedy 2015).

    Statistics are the batch's in training mode, and the running ones (momentum is the share of the new batch;
    None averages over all batches) in evaluation. Without track_running_stats always the batch's.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias)

    def forward(self, input: Tensor) -> Tensor:
        self._check_ndim(input)
        momentum = self.momentum
        if self.training and self.track_running_stats:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1 / self.num_batches_tracked.item()
        return F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            0.0 if momentum is None else momentum,
            self.eps,
        )


class BatchNorm1d(_BatchNorm):
    __doc__ = f"Batch normalization of (N, C) or (N, C, L).\n\n{_BatchNorm.__doc__}"
    ndims, shapes = (2, 3), "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm):
    __doc__ = f"Batch normalization of images (N, C, H, W).\n\n{_BatchNorm.__doc__}"
    ndims, shapes = (4,), "(N, C, H, W)"


class _InstanceNorm(_Statistics):
    """(x - mean) / sqrt(var + eps) over the positions of every image and channel alone (Ulyanov et al. 2016).

    affine: weight and bias per channel. track_running_stats: evaluation uses running statistics.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias)

    def forward(self, input: Tensor) -> Tensor:
        self._check_ndim(input)
        return F.instance_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )


class InstanceNorm1d(_InstanceNorm):
    __doc__ = f"Instance normalization of (N, C, L).\n\n{_InstanceNorm.__doc__}"
    ndims, shapes = (3,), "(N, C, L)"


class InstanceNorm2d(_InstanceNorm):
    __doc__ = f"Instance normalization of images (N, C, H, W).\n\n{_InstanceNorm.__doc__}"
    ndims, shapes = (4,), "(N, C, H, W)"


class LayerNorm(Module):
    """(x - mean) / sqrt(var + eps) weight + bias over the last dimensions (Ba et al. 2016).

    normalized_shape: the sizes of those dimensions, or one number for the last alone.
    """

    def __init__(
        self, normalized_shape: Any, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True
    ) -> None:
        super().__init__()
        count = len(normalized_shape) if isinstance(normalized_shape, (tuple, list)) else 1
        if count == 0:
            raise arguments.fail(self, "normalized_shape", "one or more sizes", normalized_shape)
        self.normalized_shape = arguments.integers(self, "normalized_shape", normalized_shape, count)
        self.eps = arguments.number(self, "eps", eps, 0)
        self.elementwise_affine = elementwise_affine
        shape = self.normalized_shape
        self.weight = Parameter(memory.empty(shape)) if elementwise_affine else None
        self.bias = Parameter(memory.empty(shape)) if elementwise_affine and bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        _reset(self)

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class GroupNorm(Module):
    """(x - mean) / sqrt(var + eps) weight + bias over groups of channels of (N, C, ...) (Wu and He 2018)."""

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.num_groups = arguments.integer(self, "num_groups", num_groups)
        self.num_channels = arguments.integer(self, "num_channels", num_channels)
        arguments.divides(self, "num_groups", self.num_groups, "num_channels", self.num_channels)
        self.eps = arguments.number(self, "eps", eps, 0)
        self.affine = affine
        self.weight = Parameter(memory.empty(num_channels)) if affine else None
        self.bias = Parameter(memory.empty(num_channels)) if affine and bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        _reset(self)

    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, bias={bias}"


class LocalResponseNorm(Module):
    """x / (k + alpha mean of x^2 over `size` neighbouring channels)^beta (Krizhevsky et al. 2012)."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = arguments.integer(self, "size", size)
        self.alpha = arguments.number(self, "alpha", alpha)
        self.beta = arguments.number(self, "beta", beta)
        self.k = arguments.number(self, "k", k)

    def forward(self, input: Tensor) -> Tensor:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
