"""Types and devices: what two operands are computed in, casts between types, moves between devices.

The rules are PyTorch's: floating beats whole, whole beats boolean; among equals tensors with dimensions
decide over 0-d tensors and these over Python numbers; whole numbers that need a fraction become float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.tensor import Tensor, as_dtype, as_tensor, bool_, float32, float64, int32, int64, tensor_method

__all__ = ["contiguous", "promote_types", "result_type", "to"]

_RANK = {"b": 0, "i": 1, "u": 1, "f": 2}
_NUMBERS = {bool: bool_, int: int64, float: float32}  # what a Python number alone becomes


def promote_types(type1: Any, type2: Any) -> np.dtype:
    """The smallest type that holds both, except that whole numbers never widen a floating type."""
    a, b = as_dtype(type1), as_dtype(type2)
    if a.kind == "f" and b.kind != "f":
        return a
    if b.kind == "f" and a.kind != "f":
        return b
    return np.promote_types(a, b)


def result_type(input: Any, other: Any) -> np.dtype:
    """The type that an operation on these two (tensors or Python numbers) computes in."""
    ranked = sorted(
        ((_weight(x), _NUMBERS[type(x)] if _weight(x) == 0 else x.dtype) for x in (input, other)),
        key=lambda pair: pair[0],
    )
    (low_weight, low), (high_weight, high) = ranked
    if low_weight == high_weight or high.kind == low.kind == "b":
        return promote_types(low, high)
    return low if _RANK[low.kind] > _RANK[high.kind] else high


def _weight(x: Any) -> int:
    """How much a say the operand has: tensors with dimensions 2, 0-d tensors 1, numbers 0."""
    return (2 if x.ndim else 1) if isinstance(x, Tensor) else 0


def is_operand(x: Any) -> bool:
    """Whether arithmetic takes `x`: a tensor, a NumPy array or a number."""
    return isinstance(x, (Tensor, np.ndarray, np.generic, bool, int, float))


def operand(x: Any, op: str) -> Any:
    """`x` as a tensor or a Python number. Raises TypeError for anything else."""
    if isinstance(x, (Tensor, bool, int, float)) and not isinstance(x, np.generic):
        return x
    if isinstance(x, np.ndarray):
        return as_tensor(x)
    if isinstance(x, np.generic):
        return x.item()
    raise TypeError(f"{op}: expected a tensor, an array or a number, got {type(x).__name__}")


def promote(input: Any, other: Any, op: str) -> tuple[Any, Any]:
    """Both operands as a kernel wants them: tensors of one type, Python numbers as they are."""
    if isinstance(input, Tensor) and isinstance(other, Tensor) and input.dtype == other.dtype:
        return input, other  # nearly always
    input, other = operand(input, op), operand(other, op)
    tensors = [x for x in (input, other) if isinstance(x, Tensor)]
    if not tensors:
        return as_tensor(input), other
    dtype = result_type(input, other)
    return tuple(to(x, dtype) if isinstance(x, Tensor) else x for x in (input, other))


def floating(input: Any, op: str) -> Tensor:
    """`input` as a floating-point tensor: whole numbers and booleans become float32."""
    input = operand(input, op)
    if not isinstance(input, Tensor):
        return as_tensor(float(input))
    return input if input.dtype.kind == "f" else to(input, float32)


class Cast(Function):
    """Another type; the gradient is cast back."""

    def forward(self, x: Any, *, dtype: np.dtype) -> Any:
        self.dtype = x.dtype
        return kernels.of(x).cast(x, dtype)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).cast(grad, self.dtype),)


class Move(Function):
    """A copy on another device; the gradient is moved back."""

    def forward(self, x: Any, *, device: str) -> Any:
        self.device = kernels.device_of(x)
        return kernels.to_device(x, device)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.to_device(grad, self.device),)


@tensor_method()
def to(
    input: Tensor, *targets: Any, dtype: Any = None, device: str | None = None, copy: bool = False
) -> Tensor:
    """`input` in another type or on another device; itself if nothing changes and no `copy` is asked for.

    targets: a dtype, a device name ("cpu", "cuda"), or a tensor whose dtype and device are taken.
    Raises RuntimeError for a device that this machine has not, ImportError if a package for it is missing.
    """
    for target in targets:
        if isinstance(target, Tensor):
            dtype, device = target.dtype, target.device
        elif isinstance(target, str) and target in kernels.DEVICES:
            device = target
        else:
            dtype = target
    dtype = input.dtype if dtype is None else as_dtype(dtype)
    moves = device is not None and device != input.device
    if dtype != input.dtype or (copy and not moves):
        input = Cast.apply(input, dtype=dtype)
    return Move.apply(input, device=device) if moves else input


@tensor_method()
def cpu(input: Tensor) -> Tensor:
    """`input` in host memory; itself if it is there."""
    return to(input, device="cpu")


@tensor_method()
def cuda(input: Tensor) -> Tensor:
    """`input` on the GPU; itself if it is there. Raises if there is none, saying what is missing."""
    return to(input, device="cuda")


@tensor_method("float")
def _float(input: Tensor) -> Tensor:
    """`input` as float32."""
    return to(input, float32)


@tensor_method("double")
def _double(input: Tensor) -> Tensor:
    """`input` as float64."""
    return to(input, float64)


@tensor_method("int")
def _int(input: Tensor) -> Tensor:
    """`input` as int32, fractions cut off."""
    return to(input, int32)


@tensor_method("long")
def _long(input: Tensor) -> Tensor:
    """`input` as int64, fractions cut off."""
    return to(input, int64)


@tensor_method("bool")
def _bool(input: Tensor) -> Tensor:
    """True where `input` is not zero."""
    return to(input, bool_)


@tensor_method("type")
def _type(input: Tensor, dtype: Any) -> Tensor:
    """`input` as `dtype`."""
    return to(input, dtype)


@tensor_method("type_as")
def _type_as(input: Tensor, other: Tensor) -> Tensor:
    """`input` in the type of `other`."""
    return to(input, other.dtype)


class Contiguous(Function):
    """The same values in C order."""

    is_view = True

    def forward(self, x: Any) -> Any:
        return kernels.of(x).contiguous(x)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (grad,)


@tensor_method()
def contiguous(input: Tensor) -> Tensor:
    """`input` with its elements in C order in memory; itself if they are."""
    return input if input.data.flags.c_contiguous else Contiguous.apply(input)
