"""Dropout layers: noise in training, nothing in evaluation."""

from __future__ import annotations

from minicnn.nn import arguments
from minicnn.nn import functional as F
from minicnn.nn.module import Module
from minicnn.tensor import Tensor


class Dropout(Module):
    """Zeros with probability p, the rest divided by 1 - p, in training mode only (Srivastava et al. 2014)."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.p, self.inplace = arguments.number(self, "p", p, 0, 1), inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout2d(Dropout):
    """Dropout of whole channels of images (N, C, H, W) (Tompson et al. 2015)."""

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout2d(input, self.p, self.training, self.inplace)
