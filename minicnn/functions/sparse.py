"""Layers whose weights are rows of what is not 0: for inference alone, they have no gradients.

Layout and formulas are in `minicnn_kernels.reference.sparse`. Deployment puts them in the place of dense
layers where the stopwatch says so, see `minicnn.deploy.candidates`.
"""

from __future__ import annotations

from typing import Any

import minicnn_kernels as kernels
from minicnn.function import Function


class SparseLinear(Function):
    """x weight^T + bias, the weight as compressed sparse rows."""

    def forward(self, x: Any, values: Any, columns: Any, starts: Any, bias: Any) -> Any:
        return kernels.of(x).sparse_linear_forward(x, values, columns, starts, bias)


class SparseConv2d(Function):
    """A convolution, the weight as compressed sparse rows."""

    def forward(
        self,
        x: Any,
        values: Any,
        columns: Any,
        starts: Any,
        bias: Any,
        *,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
    ) -> Any:
        geometry = kernel_size, stride, padding, dilation, groups
        return kernels.of(x).sparse_conv2d_forward(x, values, columns, starts, bias, *geometry)
