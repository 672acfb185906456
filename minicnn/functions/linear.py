"""Matrix products, the dense layer, the bilinear form and the lookup table."""

from __future__ import annotations

import math
from typing import Any

import minicnn_kernels as kernels
from minicnn import scope
from minicnn.function import Function
from minicnn.functions.arguments import check_tensors, fail
from minicnn.functions.promotion import operand
from minicnn.tensor import Tensor, tensor_method

__all__ = ["bilinear", "embedding", "linear", "matmul"]


def _transposed(x: Any) -> Any:
    """The last two dimensions of an array exchanged."""
    return kernels.of(x).permute(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


class MatMul(Function):
    """a (..., M, K) times b (..., K, N); leading dimensions broadcast."""

    def forward(self, a: Any, b: Any) -> Any:
        needs_a, needs_b = self.needs_input_grad
        self.a_shape, self.b_shape = a.shape, b.shape
        self.a, self.b = a if needs_b else None, b if needs_a else None
        return kernels.of(a, b).matmul(a, b)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        needs_a, needs_b = self.needs_input_grad
        return (
            k.sum_to(k.matmul(grad, _transposed(self.b)), self.a_shape) if needs_a else None,
            k.sum_to(k.matmul(_transposed(self.a), grad), self.b_shape) if needs_b else None,
        )


class Linear(Function):
    """x (..., in), weight (out, in), bias (out,) or None -> (..., out)."""

    def forward(self, x: Any, weight: Any, bias: Any) -> Any:
        needs_x, needs_weight, _ = self.needs_input_grad
        self.x, self.weight = x if needs_weight else None, weight if needs_x else None
        return kernels.of(x).linear_forward(x, weight, bias)

    @classmethod
    def prepare(cls, backend: Any, x_shape: tuple[int, ...], *weights: Any, **options: Any) -> Any:
        return backend.linear_layer(x_shape, *weights, relu=False)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        needs_x, needs_weight, needs_bias = self.needs_input_grad
        return (
            k.linear_backward_input(grad, self.weight) if needs_x else None,
            k.linear_backward_weight(grad, self.x) if needs_weight else None,
            k.linear_backward_bias(grad) if needs_bias else None,
        )


class Embedding(Function):
    """Rows of weight (rows, width) picked by integers; the row padding_idx gets no gradient."""

    def forward(self, weight: Any, indices: Any, *, padding_idx: int | None) -> Any:
        self.indices, self.shape, self.padding_idx = indices, weight.shape, padding_idx
        return kernels.of(weight).getitem(weight, indices)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        result = k.getitem_backward(grad, self.shape, self.indices)
        if self.padding_idx is not None:
            k.setitem(result, self.padding_idx, 0)
        return result, None


@tensor_method("__matmul__", "matmul")
def matmul(input: Any, other: Any) -> Tensor:
    """The matrix product; 1-d operands are vectors, leading dimensions broadcast, as in NumPy.

    Raises ValueError if the inner sizes differ or an operand has no dimensions.
    """
    a, b = operand(input, "matmul"), operand(other, "matmul")
    check_tensors("matmul", input=a, other=b)
    if a.ndim == 0 or b.ndim == 0:
        raise fail(
            "matmul", f"expected one dimension or more, got {a.shape} and {b.shape}; use * for numbers"
        )
    if a.shape[-1] != b.shape[max(b.ndim - 2, 0)]:
        raise fail("matmul", f"expected (..., M, K) and (..., K, N) with one K, got {a.shape} and {b.shape}")
    if a.ndim == 1:
        return (a.reshape(1, -1) @ b).squeeze(-1 if b.ndim == 1 else -2)
    if b.ndim == 1:
        return (a @ b.reshape(-1, 1)).squeeze(-1)
    return MatMul.apply(a, b)


@tensor_method("__rmatmul__")
def _rmatmul(self: Tensor, other: Any) -> Tensor:
    return matmul(other, self)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b. input (..., in), weight (out, in), bias (out,) or None -> (..., out).

    Raises ValueError for other shapes, TypeError for mixed dtypes.
    """
    check_tensors("linear", input=input, weight=weight, bias=bias)
    if weight.ndim != 2:
        raise fail("linear", f"expected weight (out, in), got shape {weight.shape}")
    outputs, inputs = weight.shape
    if input.ndim == 0 or input.shape[-1] != inputs:
        flat = input.ndim > 2 and math.prod(input.shape[1:]) == inputs
        hint = "Is a Flatten missing before it?" if flat else "Is a layer missing before it?"
        raise fail(
            "linear", f"expected input with {inputs} features (..., {inputs}), got {input.shape}. {hint}"
        )
    if bias is not None and bias.shape != (outputs,):
        raise fail("linear", f"expected bias ({outputs},) for weight {weight.shape}, got {bias.shape}")
    return Linear.apply(input, weight, bias)


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x1^T W_o x2 + b_o for every output o.

    input1 (..., in1), input2 (..., in2), weight (out, in1, in2), bias (out,) or None -> (..., out).
    """
    check_tensors("bilinear", input1=input1, input2=input2, weight=weight, bias=bias)
    fits = (
        weight.ndim == 3
        and input1.shape[:-1] == input2.shape[:-1]
        and (input1.shape[-1:], input2.shape[-1:]) == (weight.shape[1:2], weight.shape[2:])
    )
    if not fits:
        raise fail(
            "bilinear",
            f"expected input1 (..., in1), input2 (..., in2) and weight (out, in1, in2), "
            f"got {input1.shape}, {input2.shape} and {weight.shape}",
        )
    outputs, size1, size2 = weight.shape
    pairs = input1.unsqueeze(-1) * input2.unsqueeze(-2)
    flat = pairs.reshape(*input1.shape[:-1], size1 * size2)
    return linear(flat, weight.reshape(outputs, size1 * size2), bias)


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Row i of weight (rows, width) for every integer i of input (...) -> (..., width).

    padding_idx: a row that gets no gradient. Raises ValueError for an index that is no row.
    """
    check_tensors("embedding", weight=weight)
    if not isinstance(input, Tensor) or input.dtype.kind not in "iu":
        got = input.dtype if isinstance(input, Tensor) else type(input).__name__
        raise TypeError(f"{scope.where('embedding')}: expected input of integers, got {got}")
    if weight.ndim != 2:
        raise fail("embedding", f"expected weight (rows, width), got shape {weight.shape}")
    rows = weight.shape[0]
    if padding_idx is not None and not -rows <= padding_idx < rows:
        raise fail("embedding", f"expected padding_idx from {-rows} to {rows - 1}, got {padding_idx}")
    if input.numel():
        k = kernels.of(input.data)
        low, high = (int(kernels.to_host(of(input.data, None, False))) for of in (k.min, k.max))
        if low < 0 or high >= rows:
            raise fail("embedding", f"expected indices in [0, {rows}), got {low if low < 0 else high}")
    return Embedding.apply(weight, input, padding_idx=padding_idx)
