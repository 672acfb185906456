"""Activation functions.

The Functions keep the result where the gradient can be had from it, so that the input's memory is free to go.
Formulas are in `minicnn_kernels.reference.activation`.
"""

from __future__ import annotations

import math
from typing import Any

import minicnn_kernels as kernels
from minicnn import scope
from minicnn.function import Function
from minicnn.functions.arguments import check_tensors, fail, normalized_dim, one_of
from minicnn.grad_mode import is_grad_enabled
from minicnn.tensor import Tensor, tensor_method

__all__ = [
    "elu",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log_softmax",
    "logsigmoid",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "softmax",
    "softmin",
    "softplus",
    "tanh",
]


class ReLU(Function):
    def forward(self, x: Any) -> Any:
        self.y = kernels.of(x).relu_forward(x)
        return self.y

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).relu_backward(grad, self.y),)


class LeakyReLU(Function):
    def forward(self, x: Any, *, negative_slope: float) -> Any:
        self.x, self.negative_slope = x, negative_slope
        return kernels.of(x).leaky_relu_forward(x, negative_slope)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).leaky_relu_backward(grad, self.x, self.negative_slope),)


class Hardtanh(Function):
    def forward(self, x: Any, *, min_val: float, max_val: float) -> Any:
        self.x, self.bounds = x, (min_val, max_val)
        return kernels.of(x).hardtanh_forward(x, min_val, max_val)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).hardtanh_backward(grad, self.x, *self.bounds),)


class Sigmoid(Function):
    def forward(self, x: Any) -> Any:
        self.y = kernels.of(x).sigmoid_forward(x)
        return self.y

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).sigmoid_backward(grad, self.y),)


class Tanh(Function):
    def forward(self, x: Any) -> Any:
        self.y = kernels.of(x).tanh_forward(x)
        return self.y

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).tanh_backward(grad, self.y),)


class SiLU(Function):
    def forward(self, x: Any) -> Any:
        self.x = x
        return kernels.of(x).silu_forward(x)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).silu_backward(grad, self.x),)


class GELU(Function):
    def forward(self, x: Any, *, approximate: str) -> Any:
        self.x, self.approximate = x, approximate
        return kernels.of(x).gelu_forward(x, approximate)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).gelu_backward(grad, self.x, self.approximate),)


class ELU(Function):
    def forward(self, x: Any, *, alpha: float) -> Any:
        self.x, self.alpha = x, alpha
        return kernels.of(x).elu_forward(x, alpha)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).elu_backward(grad, self.x, self.alpha),)


class Softplus(Function):
    def forward(self, x: Any, *, beta: float, threshold: float) -> Any:
        self.x, self.options = x, (beta, threshold)
        return kernels.of(x).softplus_forward(x, beta, threshold)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).softplus_backward(grad, self.x, *self.options),)


class Softmax(Function):
    def forward(self, x: Any, *, dim: int) -> Any:
        self.y, self.dim = kernels.of(x).softmax_forward(x, dim), dim
        return self.y

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).softmax_backward(grad, self.y, self.dim),)


class LogSoftmax(Function):
    def forward(self, x: Any, *, dim: int) -> Any:
        self.y, self.dim = kernels.of(x).log_softmax_forward(x, dim), dim
        return self.y

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).log_softmax_backward(grad, self.y, self.dim),)


def take_place(op: str, input: Tensor, result: Tensor, inplace: bool) -> Tensor:
    """`result`; if `inplace`, the tensor `input` becomes it, too.

    Its old values stay alive for ops that saved them, so that nothing of the tape is spoilt; other views of
    the input's memory do not see the change. Raises RuntimeError for a leaf that requires a gradient.
    """
    if inplace:
        if input.requires_grad and input.is_leaf and is_grad_enabled():
            raise RuntimeError(
                f"{scope.where(op)}: inplace=True on a leaf that requires a gradient; leave inplace out"
            )
        input._data, input._node, input._version = result._data, result._node, result._version
        input.requires_grad = result.requires_grad
    return result


@tensor_method()
def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)."""
    check_tensors("relu", input=input)
    return take_place("relu", input, ReLU.apply(input), inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, else negative_slope x."""
    check_tensors("leaky_relu", input=input)
    return take_place("leaky_relu", input, LeakyReLU.apply(input, negative_slope=negative_slope), inplace)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x limited to [min_val, max_val]. Raises ValueError if min_val > max_val."""
    check_tensors("hardtanh", input=input)
    if min_val > max_val:
        raise fail("hardtanh", f"expected min_val <= max_val, got {min_val} and {max_val}")
    return take_place("hardtanh", input, Hardtanh.apply(input, min_val=min_val, max_val=max_val), inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """x limited to [0, 6]."""
    check_tensors("relu6", input=input)
    return take_place("relu6", input, Hardtanh.apply(input, min_val=0.0, max_val=6.0), inplace)


@tensor_method()
def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    check_tensors("sigmoid", input=input)
    return Sigmoid.apply(input)


@tensor_method()
def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    check_tensors("tanh", input=input)
    return Tanh.apply(input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x sigmoid(x), also called swish."""
    check_tensors("silu", input=input)
    return take_place("silu", input, SiLU.apply(input), inplace)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution function of x. approximate: 'none' or 'tanh'."""
    check_tensors("gelu", input=input)
    one_of("gelu", "approximate", approximate, ("none", "tanh"))
    return GELU.apply(input, approximate=approximate)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, else alpha (exp(x) - 1)."""
    check_tensors("elu", input=input)
    return take_place("elu", input, ELU.apply(input, alpha=alpha), inplace)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta; x itself where beta x > threshold."""
    check_tensors("softplus", input=input)
    if beta == 0:
        raise fail("softplus", "expected beta other than 0")
    return Softplus.apply(input, beta=beta, threshold=threshold)


def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(x)), without overflow."""
    check_tensors("logsigmoid", input=input)
    return -Softplus.apply(-input, beta=1.0, threshold=math.inf)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """relu6(x + 3) / 6 (Howard et al. 2019)."""
    check_tensors("hardsigmoid", input=input)
    return take_place("hardsigmoid", input, relu6(input + 3) / 6, inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x relu6(x + 3) / 6 (Howard et al. 2019)."""
    check_tensors("hardswish", input=input)
    return take_place("hardswish", input, input * (relu6(input + 3) / 6), inplace)


def _softmax_dim(op: str, input: Tensor, dim: int | None) -> int:
    check_tensors(op, input=input)
    if dim is None:
        raise fail(op, "dim is missing; for scores (N, classes) it is 1")
    return normalized_dim(op, dim, input.ndim)


@tensor_method()
def softmax(input: Tensor, dim: int | None = None) -> Tensor:
    """exp(x) / sum(exp(x)) along `dim`. Raises ValueError if dim is left out."""
    dim = _softmax_dim("softmax", input, dim)
    if input.ndim == 0:
        return softmax(input.reshape(1), 0).reshape(())
    return Softmax.apply(input, dim=dim)


@tensor_method()
def log_softmax(input: Tensor, dim: int | None = None) -> Tensor:
    """log(softmax(x)) along `dim`, without loss of precision. Raises ValueError if dim is left out."""
    dim = _softmax_dim("log_softmax", input, dim)
    if input.ndim == 0:
        return log_softmax(input.reshape(1), 0).reshape(())
    return LogSoftmax.apply(input, dim=dim)


def softmin(input: Tensor, dim: int | None = None) -> Tensor:
    """softmax(-x) along `dim`."""
    _softmax_dim("softmin", input, dim)
    return softmax(-input, dim)
