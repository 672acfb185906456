"""Many numbers to fewer: sums, means, extremes, norms.

Where `dim` may be left out, all dimensions are reduced. Each Function gets `dim` as None or a tuple of
dimensions counted from the front, and keeps them with size 1 if `keepdim`. Positions are in `order.py`.
"""

from __future__ import annotations

import math
from typing import Any

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.arguments import fail, normalized_dim
from minicnn.functions.elementwise import abs
from minicnn.functions.promotion import floating, operand
from minicnn.tensor import Tensor, as_tensor, tensor_method

__all__ = [
    "all",
    "amax",
    "amin",
    "any",
    "count_nonzero",
    "cumsum",
    "logsumexp",
    "mean",
    "norm",
    "prod",
    "std",
    "std_mean",
    "sum",
    "var",
    "var_mean",
]

Dims = tuple[int, ...] | None


def reduced_dims(op: str, dim: Any, ndim: int) -> Dims:
    """`dim` (None, an int or a sequence) as a kernel wants it. Raises ValueError for bad or repeated ones."""
    if dim is None or ndim == 0 or (isinstance(dim, (tuple, list)) and not dim):
        return None
    dims = tuple(normalized_dim(op, d, ndim) for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))
    if len(set(dims)) != len(dims):
        raise fail(op, f"expected each dimension once, got dim={dim!r}")
    return dims


def keepdim_shape(shape: tuple[int, ...], dim: Dims) -> tuple[int, ...]:
    """`shape` with the reduced dimensions at size 1."""
    return tuple(1 if dim is None or i in dim else size for i, size in enumerate(shape))


def _count(shape: tuple[int, ...], dim: Dims) -> int:
    """How many elements are reduced to one."""
    return math.prod(shape if dim is None else (shape[d] for d in dim))


def _kept(grad: Any, shape: tuple[int, ...], dim: Dims) -> Any:
    """A gradient of the result with the reduced dimensions put back at size 1."""
    return kernels.of(grad).reshape(grad, keepdim_shape(shape, dim))


class Sum(Function):
    """Sum over `dim`."""

    def forward(self, x: Any, *, dim: Dims, keepdim: bool) -> Any:
        self.shape, self.dim = x.shape, dim
        return kernels.of(x).sum(x, dim, keepdim)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (kernels.of(grad).broadcast_to(_kept(grad, self.shape, self.dim), self.shape),)


class Mean(Function):
    """Mean over `dim`."""

    def forward(self, x: Any, *, dim: Dims, keepdim: bool) -> Any:
        self.shape, self.dim = x.shape, dim
        return kernels.of(x).mean(x, dim, keepdim)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        share = k.div(_kept(grad, self.shape, self.dim), _count(self.shape, self.dim))
        return (k.broadcast_to(share, self.shape),)


class Prod(Function):
    """Product over `dim`."""

    def forward(self, x: Any, *, dim: Dims, keepdim: bool) -> Any:
        self.x, self.dim = x, dim
        return kernels.of(x).prod(x, dim, keepdim)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        """Each factor's slope is the product of the others: with one zero only that zero has a slope."""
        x, k = self.x, kernels.of(grad)
        zero = k.eq(x, 0)
        zeros = k.sum(zero, self.dim, True)
        others = k.prod(k.where(zero, 1.0, x), self.dim, True)
        of_zero = k.where(k.eq(zeros, 1), others, 0.0)
        of_rest = k.where(k.eq(zeros, 0), k.div(others, k.where(zero, 1.0, x)), 0.0)
        return (k.mul(_kept(grad, x.shape, self.dim), k.where(zero, of_zero, of_rest)),)


class Extreme(Function):
    """Largest or smallest element over `dim`; elements that tie share the gradient evenly."""

    def forward(self, x: Any, *, largest: bool, dim: Dims, keepdim: bool) -> Any:
        k = kernels.of(x)
        result = (k.max if largest else k.min)(x, dim, keepdim)
        self.x, self.dim, self.result = x, dim, result
        return result

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k, shape = kernels.of(grad), self.x.shape
        winners = k.cast(k.eq(self.x, _kept(self.result, shape, self.dim)), grad.dtype)
        share = k.div(_kept(grad, shape, self.dim), k.sum(winners, self.dim, True))
        return (k.mul(winners, share),)


class Var(Function):
    """Mean squared distance from the mean, its divisor less by `correction`."""

    def forward(self, x: Any, *, dim: Dims, correction: float, keepdim: bool) -> Any:
        self.x, self.dim, self.correction = x, dim, correction
        return kernels.of(x).var(x, dim, correction, keepdim)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (_var_gradient(self.x, grad, self.dim, self.correction),)


class Std(Function):
    """Square root of the variance; the gradient where it is 0 is 0."""

    def forward(self, x: Any, *, dim: Dims, correction: float, keepdim: bool) -> Any:
        k = kernels.of(x)
        self.x, self.dim, self.correction = x, dim, correction
        self.result = k.sqrt(k.var(x, dim, correction, keepdim))
        return self.result

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        grad = k.where(k.eq(self.result, 0), 0.0, k.div(grad, k.mul(self.result, 2)))
        return (_var_gradient(self.x, grad, self.dim, self.correction),)


def _var_gradient(x: Any, grad: Any, dim: Dims, correction: float) -> Any:
    k = kernels.of(grad)
    freedom = max(_count(x.shape, dim) - correction, 0)
    distance = k.sub(x, k.mean(x, dim, True))
    share = k.div(k.mul(_kept(grad, x.shape, dim), 2), freedom)
    return k.mul(share, distance)


class LogSumExp(Function):
    """log(sum(exp(x))) over `dim`."""

    def forward(self, x: Any, *, dim: Dims, keepdim: bool) -> Any:
        self.x, self.dim = x, dim
        self.result = kernels.of(x).logsumexp(x, dim, keepdim)
        return self.result

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k, shape = kernels.of(grad), self.x.shape
        share = k.exp(k.sub(self.x, _kept(self.result, shape, self.dim)))
        return (k.mul(share, _kept(grad, shape, self.dim)),)


class Norm(Function):
    """(sum |x|**p)**(1/p) for 0 < p < infinity; the gradient where it is 0 is 0."""

    def forward(self, x: Any, *, p: float, dim: Dims, keepdim: bool) -> Any:
        k = kernels.of(x)
        self.x, self.p, self.dim = x, p, dim
        if p == 1:
            self.result = k.sum(k.abs(x), dim, keepdim)
        elif p == 2:
            self.result = k.sqrt(k.sum(k.square(x), dim, keepdim))
        else:
            self.result = k.pow(k.sum(k.pow(k.abs(x), p), dim, keepdim), 1 / p)
        return self.result

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k, x, p = kernels.of(grad), self.x, self.p
        if p == 1:
            return (k.mul(k.sign(x), _kept(grad, x.shape, self.dim)),)
        if p == 2:
            slope, scale = x, self.result
        else:
            slope = k.where(k.eq(x, 0), 0.0, k.mul(k.sign(x), k.pow(k.abs(x), p - 1)))
            scale = k.pow(self.result, p - 1)
        share = k.where(k.eq(self.result, 0), 0.0, k.div(grad, scale))
        return (k.mul(slope, _kept(share, x.shape, self.dim)),)


class CumSum(Function):
    """Sum of all elements up to here along `dim`."""

    def forward(self, x: Any, *, dim: int) -> Any:
        self.dim = dim
        return kernels.of(x).cumsum(x, dim)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        if grad.ndim == 0:
            return (grad,)
        return (k.flip(k.cumsum(k.flip(grad, (self.dim,)), self.dim), (self.dim,)),)


class Any_(Function):
    """Whether one element is not zero."""

    def forward(self, x: Any, *, dim: Dims, keepdim: bool) -> Any:
        return kernels.of(x).any(x, dim, keepdim)


class All(Function):
    """Whether no element is zero."""

    def forward(self, x: Any, *, dim: Dims, keepdim: bool) -> Any:
        return kernels.of(x).all(x, dim, keepdim)


@tensor_method()
def sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Sum over `dim` (None, an int or several), in `dtype` if given; whole numbers add up in int64."""
    input = _typed(input, "sum", dtype)
    return Sum.apply(input, dim=reduced_dims("sum", dim, input.ndim), keepdim=keepdim)


@tensor_method()
def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Mean over `dim` (None, an int or several). Raises TypeError for whole numbers: their mean is none."""
    input = _float_only(_typed(input, "mean", dtype), "mean")
    return Mean.apply(input, dim=reduced_dims("mean", dim, input.ndim), keepdim=keepdim)


@tensor_method()
def prod(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Product over `dim` (None, an int or several); whole numbers multiply in int64."""
    input = _typed(input, "prod", dtype)
    return Prod.apply(input, dim=reduced_dims("prod", dim, input.ndim), keepdim=keepdim)


@tensor_method()
def amax(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Largest element over `dim`; NaN wins, and elements that tie share the gradient evenly."""
    return _extreme(input, "amax", True, dim, keepdim)


@tensor_method()
def amin(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Smallest element over `dim`; NaN wins, and elements that tie share the gradient evenly."""
    return _extreme(input, "amin", False, dim, keepdim)


def _extreme(input: Tensor, op: str, largest: bool, dim: Any, keepdim: bool) -> Tensor:
    dims = reduced_dims(op, dim, input.ndim)
    if _count(input.shape, dims) == 0 and 0 not in _rest(input.shape, dims):
        raise fail(op, f"nothing to choose from: shape {input.shape}, dim={dim}")
    return Extreme.apply(input, largest=largest, dim=dims, keepdim=keepdim)


def _rest(shape: tuple[int, ...], dim: Dims) -> tuple[int, ...]:
    return () if dim is None else tuple(size for i, size in enumerate(shape) if i not in dim)


@tensor_method()
def var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Mean squared distance from the mean over `dim`, divided by (count - correction).

    correction: default 1, or 0 with unbiased=False. NaN where the count does not exceed the correction.
    """
    return _spread(Var, "var", input, dim, unbiased, keepdim, correction)


@tensor_method()
def std(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """Square root of `var`, with the same arguments."""
    return _spread(Std, "std", input, dim, unbiased, keepdim, correction)


def var_mean(
    input: Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """(var, mean) over `dim`."""
    return var(input, dim, keepdim=keepdim, correction=correction), mean(input, dim, keepdim)


def std_mean(
    input: Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """(std, mean) over `dim`."""
    return std(input, dim, keepdim=keepdim, correction=correction), mean(input, dim, keepdim)


def _spread(
    function: type[Function],
    op: str,
    input: Tensor,
    dim: Any,
    unbiased: bool | None,
    keepdim: bool,
    correction: float | None,
) -> Tensor:
    if isinstance(dim, bool):  # PyTorch's older spelling: x.var(False)
        dim, unbiased = None, dim
    if unbiased is not None and correction is not None:
        raise fail(op, "expected unbiased or correction, got both; unbiased=True is correction=1")
    if correction is None:
        correction = 0 if unbiased is False else 1
    dims = reduced_dims(op, dim, input.ndim)
    return function.apply(_float_only(input, op), dim=dims, correction=correction, keepdim=keepdim)


@tensor_method()
def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """log(sum(exp(input))) over `dim`, without overflow."""
    input = floating(input, "logsumexp")
    return LogSumExp.apply(input, dim=reduced_dims("logsumexp", dim, input.ndim), keepdim=keepdim)


@tensor_method()
def norm(input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False) -> Tensor:
    """(sum |input|**p)**(1/p) over `dim`. p: "fro" (2), a number, or infinity for the largest |input|."""
    input = _float_only(input, "norm")
    if p == "fro" or p is None:
        p = 2
    if not isinstance(p, (int, float)) or isinstance(p, bool):
        raise fail("norm", f"expected p to be 'fro' or a number, got {p!r}")
    if p in (math.inf, -math.inf):
        return (amax if p > 0 else amin)(abs(input), dim, keepdim)
    dims = reduced_dims("norm", dim, input.ndim)
    if p == 0:
        return count_nonzero(input, dim, keepdim).to(input.dtype)
    return Norm.apply(input, p=p, dim=dims, keepdim=keepdim)


@tensor_method()
def cumsum(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Sum of all elements up to here along `dim`; whole numbers add up in int64."""
    input = _typed(input, "cumsum", dtype)
    return CumSum.apply(input, dim=normalized_dim("cumsum", dim, input.ndim))


@tensor_method()
def any(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether one element over `dim` is not zero."""
    return Any_.apply(input, dim=reduced_dims("any", dim, input.ndim), keepdim=keepdim)


@tensor_method()
def all(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether no element over `dim` is zero."""
    return All.apply(input, dim=reduced_dims("all", dim, input.ndim), keepdim=keepdim)


@tensor_method()
def count_nonzero(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """How many elements over `dim` are not zero, int64."""
    return sum(input != 0, dim, keepdim)


def _typed(input: Any, op: str, dtype: Any) -> Tensor:
    input = as_tensor(operand(input, op))
    return input if dtype is None else input.to(dtype)


def _float_only(input: Tensor, op: str) -> Tensor:
    if input.dtype.kind != "f":
        raise TypeError(f"{op}: expected float32 or float64, got {input.dtype}; convert with .float()")
    return input
