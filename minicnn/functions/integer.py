"""Ops on the integers of deployed models: uint8 arrays in, uint8 or float32 out, no gradients.

A stored number q, with the zero point and the scale of its lattice, stands for (q - zero_point) * scale.
Formulas are in `minicnn_kernels.reference.integer`. Models are not written with these ops:
`minicnn.deploy.integers` puts them in the place of ops on lattices.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

import minicnn_kernels as kernels
from minicnn.function import Function

FLOAT32 = np.zeros((), np.float32)
"""Integers in host memory are served by the back end that answers for this."""


class IntegerOp(Function):
    """`kernel(*inputs, *options)` of the back end for float32; options stand in the kernel's order."""

    kernel: ClassVar[str]

    def forward(self, *arrays: Any, **options: Any) -> Any:
        return getattr(kernels.of(*arrays, FLOAT32), self.kernel)(*arrays, *options.values())


class IntegerConv2d(IntegerOp):
    """(x, weight, bias, factor), and x_zero, y_zero, qmin, qmax, stride, padding, dilation, groups, pool."""

    kernel = "integer_conv2d_forward"


class IntegerLinear(IntegerOp):
    """(x, weight, bias, factor), and x_zero, y_zero, qmin, qmax."""

    kernel = "integer_linear_forward"


class IntegerAvgPool2d(IntegerOp):
    """(x, factor), and x_zero, y_zero, qmin, qmax, kernel_size, stride, padding."""

    kernel = "integer_avg_pool2d_forward"


class IntegerMaxPool2d(IntegerOp):
    """(x), and kernel_size, stride, padding, dilation, ceil_mode."""

    kernel = "integer_max_pool2d_forward"


class IntegerAdd(IntegerOp):
    """(a, b), and a_scale, a_zero, b_scale, b_zero, y_scale, y_zero, qmin, qmax."""

    kernel = "integer_add_forward"


class IntegerLookup(IntegerOp):
    """(x, table): any function of one number."""

    kernel = "integer_lookup"


class Quantize(IntegerOp):
    """(x), and scale, zero_point, qmin, qmax, axis, dtype: floats become whole numbers."""

    kernel = "quantize"


class Dequantize(IntegerOp):
    """(q), and scale, zero_point, axis: the floats that whole numbers stand for."""

    kernel = "dequantize"
