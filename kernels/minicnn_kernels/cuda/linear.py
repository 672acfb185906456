"""Matrix products and the dense layer with its gradients, on the tiles of `gemm.py`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn_kernels.cuda.driver import Elements
from minicnn_kernels.cuda.epilogue import Epilogue
from minicnn_kernels.cuda.gemm import gemm
from minicnn_kernels.cuda.reduction import sum as total
from minicnn_kernels.cuda.storage import dense, empty, flat, on_device
from minicnn_kernels.device_array import DeviceArray

__all__ = [
    "linear_backward_bias",
    "linear_backward_input",
    "linear_backward_weight",
    "linear_forward",
    "matmul",
]


def matmul(a: Any, b: Any) -> DeviceArray:
    """a @ b by NumPy's rules: 1-d operands are vectors, leading dimensions broadcast."""
    on_device("matmul", a, b)
    if not a.ndim or not b.ndim:
        raise ValueError("matmul: expected arrays with dimensions, got a 0-d one; multiply it with *")
    rows, columns = a.shape[-2:-1], b.shape[-1:] if b.ndim > 1 else ()
    a = a.sliced((None, ...)) if a.ndim == 1 else a
    b = b.sliced((..., None)) if b.ndim == 1 else b
    (m, k), (depth, n) = a.shape[-2:], b.shape[-2:]
    if k != depth:
        raise ValueError(f"matmul: inner sizes differ: {a.shape} @ {b.shape}")
    leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (_batched(x, leading) for x in (a, b))
    result = empty((*leading, *rows, *columns))
    sizes, batches = (m, n, k), (math.prod(leading), 1)
    gemm(flat(result), (m * n, 0, n, 1), *_operand(a), *_operand(b), sizes, batches)
    return result


def linear_forward(x: Any, weight: Any, bias: Any) -> DeviceArray:
    """x weight^T + bias. x (..., in), weight (out, in), bias (out,) or None -> (..., out)."""
    return dense_layer(x, weight, bias)


def dense_layer(x: Any, weight: Any, bias: Any, *, relu: bool = False) -> DeviceArray:
    """`linear_forward`, and if asked for ReLU, which costs nothing here: results are still in registers."""
    on_device("linear", x, weight, bias)
    outputs, inputs = weight.shape
    result = empty((*x.shape[:-1], outputs))
    x, weight, rows = dense(x), dense(weight), math.prod(x.shape[:-1])
    epilogue = Epilogue(None if bias is None else flat(dense(bias)), (0, 1), relu=relu)
    gemm(
        flat(result), (0, 0, outputs, 1), flat(x), (0, 0, inputs, 1), flat(weight), (0, 0, 1, inputs),
        (rows, outputs, inputs), epilogue=epilogue,
    )  # fmt: skip
    return result


def linear_backward_input(grad: Any, weight: Any) -> DeviceArray:
    """grad weight. grad (..., out), weight (out, in) -> (..., in)."""
    outputs, inputs = weight.shape
    result = empty((*grad.shape[:-1], inputs))
    grad, weight = dense(grad), dense(weight)
    gemm(
        flat(result), (0, 0, inputs, 1), flat(grad), (0, 0, outputs, 1), flat(weight), (0, 0, inputs, 1),
        (math.prod(grad.shape[:-1]), inputs, outputs),
    )  # fmt: skip
    return result


def linear_backward_weight(grad: Any, x: Any) -> DeviceArray:
    """grad^T x over all leading dimensions. grad (..., out), x (..., in) -> (out, in)."""
    outputs, inputs = grad.shape[-1], x.shape[-1]
    result = empty((outputs, inputs))
    grad, x = dense(grad), dense(x)
    gemm(
        flat(result), (0, 0, inputs, 1), flat(grad), (0, 0, 1, outputs), flat(x), (0, 0, inputs, 1),
        (outputs, inputs, math.prod(x.shape[:-1])),
    )  # fmt: skip
    return result


def linear_backward_bias(grad: Any) -> DeviceArray:
    """Sum over all leading dimensions. grad (..., out) -> (out,)."""
    return total(grad, tuple(range(grad.ndim - 1)), False) if grad.ndim > 1 else grad


def _batched(x: DeviceArray, leading: tuple[int, ...]) -> DeviceArray:
    """x broadcast to `leading` in front of its last two dimensions, whose strides stay what they are."""
    if x.shape[:-2] == leading or math.prod(x.shape[:-2]) == 1:
        return x
    return dense(x.broadcast((*leading, *x.shape[-2:])))


def _operand(x: DeviceArray) -> tuple[Any, tuple[int, ...]]:
    """(flat elements, strides) of matrices for `gemm`; what it cannot walk through is copied."""
    batches = math.prod(x.shape[:-2])
    if batches != 1 or min(x.strides) < 0:
        x = dense(x)
    return Elements(x.memory, x.offset, x.memory.elements.size), (
        x.shape[-2] * x.shape[-1] if batches != 1 else 0,
        0,
        *x.strides[-2:],
    )
