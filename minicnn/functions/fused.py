"""Several ops of a chain as one Function: what `minicnn.compile` puts in the place of layers in a row.

Each gives the result of the ops that it names, without writing the arrays between them to memory. Models
are not written with these; `minicnn.graph.fuse` finds the chains. Formulas are in
`minicnn_kernels.reference.block`.
"""

from __future__ import annotations

import math
from typing import Any

import minicnn_kernels as kernels
from minicnn.function import Function


class ConvBlock(Function):
    """max_pool(relu(conv2d(x, weight, bias))). relu: bool. pool: None, or (kernel_size, stride) in pairs."""

    def forward(
        self,
        x: Any,
        weight: Any,
        bias: Any,
        *,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        relu: bool,
        pool: Any,
    ) -> Any:
        self.x, self.weight = x, weight
        self.options = (stride, padding, dilation, groups, relu, pool)
        k = kernels.of(x)
        self.y, self.winners = k.conv2d_block_forward(x, weight, bias, *self.options)
        return self.y

    @classmethod
    def prepare(cls, backend: Any, x_shape: tuple[int, ...], *weights: Any, **options: Any) -> Any:
        return backend.conv2d_layer(x_shape, *weights, **options)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return kernels.of(grad).conv2d_block_backward(
            grad, self.y, self.winners, self.x, self.weight, *self.options, self.needs_input_grad
        )


class FoldedConvBlock(Function):
    """`ConvBlock` after which batch norm with given statistics stands, folded into weight and bias.

    With scale = gamma / sqrt(var + eps): weight * scale, and (bias - mean) * scale + beta. Has no gradient:
    plans use it where none is recorded.
    """

    def forward(
        self,
        x: Any,
        weight: Any,
        bias: Any,
        gamma: Any,
        beta: Any,
        mean: Any,
        var: Any,
        *,
        eps: float,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        relu: bool,
        pool: Any,
    ) -> Any:
        k = kernels.of(x)
        folded, shift = _fold(k, eps, weight, bias, gamma, beta, mean, var)
        y, _ = k.conv2d_block_forward(x, folded, shift, stride, padding, dilation, groups, relu, pool)
        return y

    @classmethod
    def prepare(cls, backend: Any, x_shape: tuple[int, ...], *weights: Any, **options: Any) -> Any:
        geometry = {name: value for name, value in options.items() if name != "eps"}
        return backend.conv2d_layer(x_shape, *_fold(backend, options["eps"], *weights), **geometry)


def _fold(
    k: Any, eps: float, weight: Any, bias: Any, gamma: Any, beta: Any, mean: Any, var: Any
) -> tuple[Any, Any]:
    """Weight and bias of the convolution with the norm in it; k: the back end."""
    scale = k.rsqrt(k.add(var, eps))
    if gamma is not None:
        scale = k.mul(scale, gamma)
    shift = k.mul(k.neg(mean) if bias is None else k.sub(bias, mean), scale)
    if beta is not None:
        shift = k.add(shift, beta)
    return k.mul(weight, k.reshape(scale, (-1, 1, 1, 1))), shift


class BatchNormBlock(Function):
    """max_pool(relu(batch_norm(x) + residual)) with the statistics of this batch.

    Running ones move as in BatchNorm, and batches_tracked counts one more. residual and it may be None.
    """

    changes = (3, 4, 5)

    def forward(
        self,
        x: Any,
        weight: Any,
        bias: Any,
        running_mean: Any,
        running_var: Any,
        batches_tracked: Any,
        residual: Any,
        *,
        eps: float,
        momentum: float,
        relu: bool,
        pool: Any,
    ) -> Any:
        k = kernels.of(x)
        self.x, self.weight, self.bias, self.relu, self.pool = x, weight, bias, relu, pool
        self.has_residual = residual is not None
        self.y, self.winners, self.mean, self.inv_std = k.batch_norm_block_forward(
            x, weight, bias, residual, eps, relu, pool
        )
        if running_mean is not None:
            count = math.prod(x.shape) // x.shape[1]
            k.batch_norm_update(running_mean, running_var, self.mean, self.inv_std, eps, momentum, count)
        if batches_tracked is not None:
            k = kernels.of(batches_tracked)
            k.copy_into(batches_tracked, k.add(batches_tracked, 1))
        return self.y

    def backward(self, grad: Any) -> tuple[Any, ...]:
        needs = (*self.needs_input_grad[:3], self.needs_input_grad[6])
        dx, dweight, dbias, dresidual = kernels.of(grad).batch_norm_block_backward(
            grad,
            self.y,
            self.winners,
            self.x,
            self.weight,
            self.bias,
            self.has_residual,
            self.mean,
            self.inv_std,
            self.relu,
            self.pool,
            needs,
        )
        return dx, dweight, dbias, None, None, None, dresidual


class AddReLU(Function):
    """relu(a + b) for a and b of one shape."""

    def forward(self, a: Any, b: Any) -> Any:
        self.y = kernels.of(a, b).add_relu_forward(a, b)
        return self.y

    def backward(self, grad: Any) -> tuple[Any, ...]:
        masked = kernels.of(grad).relu_backward(grad, self.y)
        return tuple(masked if needed else None for needed in self.needs_input_grad)


class Shortcut(Function):
    """Every step-th pixel of x, and zeros for channels that x does not have; see the kernel."""

    def forward(self, x: Any, *, step: tuple[int, int], before: int, channels: int) -> Any:
        self.arguments = x.shape, step, before
        return kernels.of(x).shortcut_forward(x, step, before, channels)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).shortcut_backward(grad, *self.arguments),)


class LinearReLU(Function):
    """relu(linear(x, weight, bias))."""

    def forward(self, x: Any, weight: Any, bias: Any) -> Any:
        needs_x, needs_weight, _ = self.needs_input_grad
        self.x, self.weight = x if needs_weight else None, weight if needs_x else None
        self.y = kernels.of(x).linear_relu_forward(x, weight, bias)
        return self.y

    @classmethod
    def prepare(cls, backend: Any, x_shape: tuple[int, ...], *weights: Any, **options: Any) -> Any:
        return backend.linear_layer(x_shape, *weights, relu=True)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        needs_x, needs_weight, needs_bias = self.needs_input_grad
        grad = k.relu_backward(grad, self.y)
        return (
            k.linear_backward_input(grad, self.weight) if needs_x else None,
            k.linear_backward_weight(grad, self.x) if needs_weight else None,
            k.linear_backward_bias(grad) if needs_bias else None,
        )
