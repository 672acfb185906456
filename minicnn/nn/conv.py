"""Convolutions and transposed convolutions, one- and two-dimensional, and zero padding.

One base class holds what they share; how a convolution is computed is in `minicnn_kernels`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from minicnn.functions.conv import quantized_conv
from minicnn.nn import arguments, init
from minicnn.nn import functional as F
from minicnn.nn.module import Module
from minicnn.nn.parameter import Parameter
from minicnn.nn.transform import lattices
from minicnn.tensor import Tensor
from minicnn_kernels import memory

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Convolution(Module):
    """Arguments, weights and printing of all four; `dims` is the number of spatial dimensions."""

    dims: ClassVar[int]
    transposed: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        output_padding: Any,
        dilation: Any,
        groups: int,
        bias: bool,
        padding_mode: str,
    ) -> None:
        super().__init__()
        dims = self.dims
        self.in_channels = arguments.integer(self, "in_channels", in_channels)
        self.out_channels = arguments.integer(self, "out_channels", out_channels)
        self.kernel_size = arguments.integers(self, "kernel_size", kernel_size, dims)
        self.stride = arguments.integers(self, "stride", stride, dims)
        self.dilation = arguments.integers(self, "dilation", dilation, dims)
        self.output_padding = arguments.integers(self, "output_padding", output_padding, dims, minimum=0)
        self.groups = arguments.integer(self, "groups", groups)
        arguments.divides(self, "groups", self.groups, "in_channels", self.in_channels)
        arguments.divides(self, "groups", self.groups, "out_channels", self.out_channels)
        self.padding_mode = arguments.choice(
            self, "padding_mode", padding_mode, _PADDING_MODES[:1] if self.transposed else _PADDING_MODES
        )
        self.padding = self._checked_padding(padding)

        first, second = self.out_channels, self.in_channels
        if self.transposed:
            first, second = second, first
        self.weight = Parameter(init.empty_weight((first, second // self.groups, *self.kernel_size)))
        self.bias = Parameter(memory.empty(self.out_channels)) if bias else None
        self.reset_parameters()

    def _checked_padding(self, padding: Any) -> Any:
        if self.transposed or not isinstance(padding, str):
            return arguments.integers(self, "padding", padding, self.dims, minimum=0)
        arguments.choice(self, "padding", padding, ("valid", "same"))
        if padding == "same" and any(step != 1 for step in self.stride):
            raise arguments.fail(self, "stride", "1 with padding='same'", self.stride)
        return padding

    def reset_parameters(self) -> None:
        """Draw new starting values."""
        init.default_weight_(self.weight)
        if self.bias is not None:
            init.default_bias_(self.bias, self.weight)

    def _padded(self, input: Tensor) -> tuple[Tensor, Any]:
        """The input with a border that is not of zeros, and the padding that is left to the convolution."""
        if self.padding_mode == "zeros" or self.padding == "valid":
            return input, self.padding
        borders = []  # (before, after), the last dimension first
        for i in reversed(range(self.dims)):
            both = (
                self.dilation[i] * (self.kernel_size[i] - 1)
                if self.padding == "same"
                else 2 * self.padding[i]
            )
            borders += [both // 2, both - both // 2]
        return F.pad(input, borders, mode=self.padding_mode), 0

    def extra_repr(self) -> str:
        parts = [
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        ]
        zeros, ones = (0,) * self.dims, (1,) * self.dims
        if self.padding != zeros:
            parts.append(f"padding={self.padding}")
        if self.dilation != ones:
            parts.append(f"dilation={self.dilation}")
        if self.output_padding != zeros:
            parts.append(f"output_padding={self.output_padding}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


class _Conv(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, 0, dilation, groups, bias, padding_mode
        )

    def _convolve(self, function: Callable[..., Tensor], input: Tensor) -> Tensor:
        """`function`, or the same in exact integers where input and weight are quantized."""
        input, padding = self._padded(input)
        options = self.stride, padding, self.dilation, self.groups
        exact = lattices(self)
        if exact is not None:
            return quantized_conv(input, self.weight, self.bias, exact, *options)
        return function(input, self.weight, self.bias, *options)


class _ConvTranspose(_Convolution):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            dilation,
            groups,
            bias,
            padding_mode,
        )


class Conv1d(_Conv):
    """Cross-correlation along one dimension: (N, in_channels, L) to (N, out_channels, L').

    weight: (out_channels, in_channels / groups, kernel). L' as for Conv2d.
    """

    dims = 1

    def forward(self, input: Tensor) -> Tensor:
        return self._convolve(F.conv1d, input)


class Conv2d(_Conv):
    """Cross-correlation of images: (N, in_channels, H, W) to (N, out_channels, H', W').

    weight: (out_channels, in_channels / groups, kh, kw).
    H' = (H + 2 padding - dilation (kh - 1) - 1) // stride + 1. padding: number, pair, 'valid' or 'same'.
    padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
    """

    dims = 2

    def forward(self, input: Tensor) -> Tensor:
        return self._convolve(F.conv2d, input)


class ConvTranspose1d(_ConvTranspose):
    """The gradient of Conv1d as a layer: (N, in_channels, L) to (N, out_channels, L').

    weight: (in_channels, out_channels / groups, kernel). L' as for ConvTranspose2d.
    """

    dims = 1

    def forward(self, input: Tensor) -> Tensor:
        return F.conv_transpose1d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )


class ConvTranspose2d(_ConvTranspose):
    """The gradient of Conv2d as a layer: (N, in_channels, H, W) to (N, out_channels, H', W').

    weight: (in_channels, out_channels / groups, kh, kw).
    H' = (H - 1) stride - 2 padding + dilation (kh - 1) + output_padding + 1.
    """

    dims = 2

    def forward(self, input: Tensor) -> Tensor:
        return F.conv_transpose2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )


class ZeroPad2d(Module):
    """Zeros around images. padding: one number for all sides, or (left, right, top, bottom)."""

    def __init__(self, padding: Any) -> None:
        super().__init__()
        self.padding = arguments.integers(self, "padding", padding, 4, minimum=0)

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding)

    def extra_repr(self) -> str:
        return str(self.padding)
