"""Changes of a tensor's own memory: copy_, add_, x[index] = value, x += y.

The tape records none of them. What it would have to know of is refused; what it saved earlier is protected by
version counts (`Function.check_unchanged`). There are no functions here, only methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.arithmetic import add, clamp, div, mul, sub
from minicnn.grad_mode import is_grad_enabled, no_grad
from minicnn.tensor import Tensor, tensor_method, unwrap_index


def _check(op: str, self: Tensor, value: Any = None) -> None:
    """Raise RuntimeError where a gradient would be lost or wrong."""
    if not is_grad_enabled():
        return
    if self.requires_grad:
        raise RuntimeError(
            f"{op}: in-place change of a tensor that requires a gradient; wrap it in minicnn.no_grad(), "
            f"or use the operation that returns a new tensor"
        )
    if isinstance(value, Tensor) and value.requires_grad:
        raise RuntimeError(
            f"{op}: the value requires a gradient, which would be lost; build the result with stack, "
            f"cat or where, or detach() the value"
        )


class Overwrite(Function):
    """target takes the values of source, broadcast and cast; the result is target's memory."""

    is_view = True
    changes = (0,)

    def forward(self, target: Any, source: Any) -> Any:
        kernels.of(target).copy_into(target, source)
        return target


class SetItem(Function):
    """target[index] takes the values of source, broadcast and cast; the result is target's memory."""

    is_view = True
    changes = (0,)

    def forward(self, target: Any, source: Any, *, index: Any) -> Any:
        kernels.of(target).setitem(target, index, source)
        return target


def _overwrite(self: Tensor, value: Any) -> Tensor:
    with no_grad():
        Overwrite.apply(self, value)
    return self


def _compute(function: Callable, self: Tensor, *operands: Any) -> Tensor:
    """self = function(self, *operands), written into the memory of `self`."""
    op = f"{function.__name__}_"
    _check(op, self, *operands[:1])
    with no_grad():
        result = function(self, *operands)
    if result.is_floating_point and not self.is_floating_point:
        raise TypeError(f"{op}: a result of {result.dtype} does not fit into a tensor of {self.dtype}")
    return _overwrite(self, result)


@tensor_method("copy_")
def _copy_(self: Tensor, source: Any) -> Tensor:
    """Overwrite the values, broadcasting and casting `source` (tensor, array or number)."""
    _check("copy_", self, source)
    return _overwrite(self, source)


@tensor_method("fill_")
def _fill_(self: Tensor, value: float) -> Tensor:
    """Overwrite every element with `value`."""
    _check("fill_", self, value)
    return _overwrite(self, value)


@tensor_method("zero_")
def _zero_(self: Tensor) -> Tensor:
    """Overwrite every element with zero."""
    _check("zero_", self)
    return _overwrite(self, 0)


@tensor_method("__setitem__")
def _setitem(self: Tensor, index: Any, value: Any) -> None:
    """self[index] = value, broadcasting and casting."""
    _check("__setitem__", self, value)
    with no_grad():
        SetItem.apply(self, value, index=unwrap_index(index))


@tensor_method("add_")
def _add_(self: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
    """self += alpha * other."""
    return _compute(add, self, other if alpha == 1 else mul(other, alpha))


@tensor_method("sub_")
def _sub_(self: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
    """self -= alpha * other."""
    return _compute(sub, self, other if alpha == 1 else mul(other, alpha))


@tensor_method("mul_")
def _mul_(self: Tensor, other: Any) -> Tensor:
    """self *= other."""
    return _compute(mul, self, other)


@tensor_method("div_")
def _div_(self: Tensor, other: Any) -> Tensor:
    """self /= other."""
    return _compute(div, self, other)


@tensor_method("clamp_", "clip_")
def _clamp_(self: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Limit every element to [min, max]."""
    return _compute(clamp, self, min, max)


def _augmented(function: Callable) -> Callable[[Tensor, Any], Tensor]:
    """`x += y` and kin: in place where the tape has nothing to record, else a new tensor.

    So `out += shortcut(x)` works in a model and `w -= lr * w.grad` changes `w` under no_grad. A leaf that
    requires a gradient is refused: a new tensor would silently take the parameter's place.
    """

    def assign(self: Tensor, other: Any) -> Tensor:
        wanted = self.requires_grad or (isinstance(other, Tensor) and other.requires_grad)
        if is_grad_enabled() and wanted and not (self.requires_grad and self.is_leaf):
            return function(self, other)
        return _compute(function, self, other)

    return assign


tensor_method("__iadd__")(_augmented(add))
tensor_method("__isub__")(_augmented(sub))
tensor_method("__imul__")(_augmented(mul))
tensor_method("__itruediv__")(_augmented(div))
