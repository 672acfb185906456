"""Arithmetic element by element."""

from __future__ import annotations

from typing import Any

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.tensor import Tensor, tensor_method

__all__ = ["mul"]


class Mul(Function):
    def forward(self, a: Any, b: Any) -> Any:
        self.a, self.b = a, b
        return kernels.of(a, b).mul(a, b)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        return (
            k.sum_to(k.mul(grad, self.b), self.a.shape) if self.needs_input_grad[0] else None,
            k.sum_to(k.mul(grad, self.a), self.b.shape) if self.needs_input_grad[1] else None,
        )


@tensor_method("__mul__", "__rmul__", "mul")
def mul(input: Any, other: Any) -> Tensor:
    """input * other."""
    return Mul.apply(input, other)
