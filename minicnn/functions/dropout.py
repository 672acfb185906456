"""Dropout, of elements and of whole channels.

The mask comes from the engine's own generator (`minicnn.random`), so `minicnn.manual_seed` repeats it, on
every back end and whatever the number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import minicnn_kernels as kernels
from minicnn import random
from minicnn.function import Function
from minicnn.functions.activation import take_place
from minicnn.functions.arguments import check_tensors, fail
from minicnn.tensor import Tensor

__all__ = ["dropout", "dropout1d", "dropout2d"]


class Dropout(Function):
    """x where a mask is true, divided by 1 - p; else 0. mask_shape: x's, with 1 for shared dimensions."""

    def forward(self, x: Any, *, p: float, mask_shape: tuple[int, ...]) -> Any:
        seed, offset = random.default_generator.reserve(math.prod(mask_shape))
        self.mask = kernels.of(x).dropout_mask(mask_shape, p, seed, offset)
        self.scale = 1 / (1 - p) if p < 1 else 0.0
        return self._masked(x)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return (self._masked(grad),)

    def _masked(self, x: Any) -> Any:
        k = kernels.of(x)
        return k.where(self.mask, k.mul(x, self.scale), 0.0)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Zeros with probability p, the rest divided by 1 - p (Srivastava et al. 2014); only in training.

    Raises ValueError for p outside [0, 1].
    """
    return _dropout("dropout", input, p, training, inplace, input.shape)


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`dropout` of whole channels of (N, C, L) or (C, L) (Tompson et al. 2015)."""
    if input.ndim not in (2, 3):
        raise fail("dropout1d", f"expected input (N, C, L) or (C, L), got shape {input.shape}")
    return _dropout("dropout1d", input, p, training, inplace, (*input.shape[:-1], 1))


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`dropout` of whole channels of (N, C, H, W) or (N, C, L) (Tompson et al. 2015)."""
    if input.ndim not in (3, 4):
        raise fail("dropout2d", f"expected input (N, C, H, W) or (N, C, L), got shape {input.shape}")
    return _dropout("dropout2d", input, p, training, inplace, (*input.shape[:2], *(1,) * (input.ndim - 2)))


def _dropout(
    op: str, input: Tensor, p: float, training: bool, inplace: bool, mask_shape: tuple[int, ...]
) -> Tensor:
    check_tensors(op, input=input)
    if not 0 <= p <= 1:
        raise fail(op, f"expected p in [0, 1], got {p}")
    if not training or p == 0:
        return input
    return take_place(op, input, Dropout.apply(input, p=p, mask_shape=mask_shape), inplace)
