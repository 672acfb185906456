"""Filling tensors with starting values, with PyTorch's names, and the memory that weights live in.

All numbers come from the engine's generator, so `minicnn.manual_seed` makes them reproducible. Every
function works in place, unseen by the tape, and returns its tensor.
"""

from __future__ import annotations

import math
from typing import Any

import minicnn_kernels as kernels
from minicnn import random
from minicnn.grad_mode import no_grad
from minicnn.tensor import Tensor, float32
from minicnn_kernels import memory


def empty_weight(shape: tuple[int, ...], dtype: Any = float32) -> Any:
    """An uninitialised weight array (out, in, *kernel) whose memory is ordered (*kernel, in, out).

    So the outputs of one tap lie side by side, as the fast kernels read them; 2-d weights come out as
    transposed (in, out) matrices. Whatever is later copied into the array keeps that order.
    """
    last = len(shape) - 1
    memory_shape = (*shape[2:], shape[1], shape[0])
    return memory.empty(memory_shape, dtype).transpose(last, last - 1, *range(last - 1))


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The recommended standard deviation gain for a nonlinearity. param: the slope of a leaky ReLU.

    Raises ValueError for an unknown name.
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        return math.sqrt(2 / (1 + slope**2))
    gains = dict.fromkeys(
        ("linear", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "sigmoid"), 1.0
    )
    gains |= {"tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}
    if nonlinearity not in gains:
        raise ValueError(
            f"calculate_gain: unknown nonlinearity {nonlinearity!r}: "
            f"expected one of {', '.join(gains)}, leaky_relu"
        )
    return gains[nonlinearity]


def fans(tensor: Tensor) -> tuple[int, int]:
    """How many inputs reach one output, and how many outputs one input, in a weight (out, in, *kernel).

    Raises ValueError for fewer than two dimensions.
    """
    if tensor.ndim < 2:
        raise ValueError(f"init: fan in and fan out need two or more dimensions, got shape {tensor.shape}")
    taps = math.prod(tensor.shape[2:])
    return tensor.shape[1] * taps, tensor.shape[0] * taps


def _fill(tensor: Tensor, value: Any) -> Tensor:
    """A number, or an array that was drawn in host memory, into a tensor wherever it is."""
    if not isinstance(value, (int, float)):
        value = kernels.to_device(value, tensor.device)
    with no_grad():
        return tensor.copy_(value)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Every element becomes `val`."""
    return _fill(tensor, val)


def zeros_(tensor: Tensor) -> Tensor:
    """Every element becomes 0."""
    return _fill(tensor, 0)


def ones_(tensor: Tensor) -> Tensor:
    """Every element becomes 1."""
    return _fill(tensor, 1)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Uniform in [a, b)."""
    return _fill(tensor, random.default_generator.uniform(tensor.shape, a, b, tensor.dtype))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normal with this mean and standard deviation."""
    return _fill(tensor, random.default_generator.normal(tensor.shape, mean, std, tensor.dtype))


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Tensor:
    """Normal, drawn again until it lies in [a, b]. Raises ValueError if nearly nothing lies there."""
    inside = 0.5 * (math.erf((b - mean) / (std * math.sqrt(2))) - math.erf((a - mean) / (std * math.sqrt(2))))
    if inside < 1e-3:
        raise ValueError(
            f"trunc_normal_: [{a}, {b}] holds almost nothing of a normal distribution with mean {mean} and "
            f"standard deviation {std}; choose bounds within a few deviations of the mean"
        )
    normal_(tensor, mean, std)
    backend = kernels.of(tensor.data)
    while True:
        outside = backend.logical_or(backend.lt(tensor.data, a), backend.gt(tensor.data, b))
        if not kernels.to_host(backend.any(outside, None, False)):
            return tensor
        again = random.default_generator.normal(tensor.shape, mean, std, tensor.dtype)
        _fill(tensor, backend.where(outside, kernels.to_device(again, tensor.device), tensor.data))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform in +-gain sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    bound = gain * math.sqrt(6 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Normal with standard deviation gain sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return normal_(tensor, 0, gain * math.sqrt(2 / sum(fans(tensor))))


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"init: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan = fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Uniform in +-gain sqrt(3 / fan) (He et al. 2015). a: the slope of a leaky ReLU."""
    bound = math.sqrt(3) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Normal with standard deviation gain / sqrt(fan) (He et al. 2015)."""
    return normal_(tensor, 0, _kaiming_std(tensor, a, mode, nonlinearity))


def orthogonal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """A (semi-)orthogonal matrix (out, in * taps), times `gain` (Saxe et al. 2014).

    Raises ValueError for fewer than two dimensions.
    """
    import numpy as np

    fans(tensor)  # for its check
    rows = tensor.shape[0]
    columns = tensor.numel() // rows
    wide = rows < columns
    shape = (columns, rows) if wide else (rows, columns)
    q, r = np.linalg.qr(kernels.to_host(random.default_generator.normal(shape, 0, 1, np.float64)))
    q = q * np.copysign(gain, np.diagonal(r))  # without the signs q would not be uniformly distributed
    return _fill(tensor, (q.T if wide else q).reshape(tensor.shape).astype(tensor.dtype))


def default_weight_(weight: Tensor) -> Tensor:
    """PyTorch's start for dense and convolutional weights: uniform in +-1 / sqrt(fan_in)."""
    return kaiming_uniform_(weight, a=math.sqrt(5))


def default_bias_(bias: Tensor, weight: Tensor) -> Tensor:
    """PyTorch's start for their biases: uniform in +-1 / sqrt(fan_in of the weight)."""
    fan_in, _ = fans(weight)
    bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0
    return uniform_(bias, -bound, bound)
