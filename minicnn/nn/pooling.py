"""Pooling layers and upsampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

from minicnn.functions.pooling import quantized_avg_pool
from minicnn.nn import arguments
from minicnn.nn import functional as F
from minicnn.nn.module import Module
from minicnn.nn.transform import lattices
from minicnn.tensor import Tensor

Window = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]


class _Pool(Module):
    """The window of a pooling layer; `dims` is the number of spatial dimensions."""

    dims: ClassVar[int]

    def __init__(self, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool) -> None:
        super().__init__()
        self.kernel_size = self._canonical("kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else self._canonical("stride", stride, 1)
        self.padding = self._canonical("padding", padding, 0)
        self.ceil_mode = ceil_mode
        sizes = zip(*(self._entries(value) for value in (self.padding, self.kernel_size)), strict=True)
        if any(2 * border > size for border, size in sizes):
            raise arguments.fail(self, "padding", f"at most half of kernel_size={self.kernel_size}", padding)

    def _canonical(self, name: str, value: Any, minimum: int) -> Any:
        """One number stays one number, as PyTorch prints it."""
        entries = arguments.integers(self, name, value, self.dims, minimum)
        return entries if isinstance(value, (tuple, list)) else entries[0]

    def _entries(self, value: Any) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else (value,) * self.dims


class _MaxPool(_Pool):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.dilation = self._canonical("dilation", dilation, 1)
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Any:
        pool = F.max_pool1d if self.dims == 1 else F.max_pool2d
        return pool(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """The largest value of each window: (N, C, L) to (N, C, L')."""

    dims = 1


class MaxPool2d(_MaxPool):
    """The largest value of each window: (N, C, H, W) to (N, C, H', W').

    H' = (H + 2 padding - dilation (kh - 1) - 1) // stride + 1, rounded up with ceil_mode.
    return_indices: also give the positions of the maxima, flat in H W.
    """

    dims = 2


class AveragePool(Module):
    """Base class of average pooling: in eval mode and on a lattice it counts in exact integers."""

    dims: ClassVar[int]

    def window(self, size: tuple[int, ...]) -> Window | None:
        """(kernel size, stride, padding, divisor) for images of `size`; None if divisors differ."""
        raise TypeError(f"{type(self).__name__} defines no window")

    def _mean(self, function: Callable[[], Tensor], input: Tensor) -> Tensor:
        """function(), or the same in exact integers."""
        exact, window = lattices(self), self.window(input.shape[-self.dims :])
        return function() if exact is None or window is None else quantized_avg_pool(input, exact, *window)


class _AvgPool(_Pool, AveragePool):
    count_include_pad: bool
    divisor_override: int | None = None

    def window(self, size: tuple[int, ...]) -> Window | None:
        kernel_size, stride, padding = map(self._entries, (self.kernel_size, self.stride, self.padding))
        if self.ceil_mode or (any(padding) and not self.count_include_pad and self.divisor_override is None):
            return None
        return kernel_size, stride, padding, self.divisor_override or math.prod(kernel_size)


class AvgPool1d(_AvgPool):
    """The mean of each window: (N, C, L) to (N, C, L')."""

    dims = 1

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        for name in ("kernel_size", "stride", "padding"):  # kept as tuples, as PyTorch prints them
            setattr(self, name, self._entries(getattr(self, name)))
        self.count_include_pad = count_include_pad

    def forward(self, input: Tensor) -> Tensor:
        window = self.kernel_size, self.stride, self.padding, self.ceil_mode
        return self._mean(lambda: F.avg_pool1d(input, *window, self.count_include_pad), input)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(_AvgPool):
    """The mean of each window: (N, C, H, W) to (N, C, H', W').

    count_include_pad: padded zeros count. divisor_override: divide by this instead of the window's size.
    """

    dims = 2

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = count_include_pad
        if divisor_override is not None:
            arguments.integer(self, "divisor_override", divisor_override)
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        window = self.kernel_size, self.stride, self.padding, self.ceil_mode
        return self._mean(
            lambda: F.avg_pool2d(input, *window, self.count_include_pad, self.divisor_override),
            input,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _AdaptivePool(Module):
    """Pooling to a given output size; None in a pair keeps that size."""

    dims: ClassVar[int]

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        entries = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * self.dims
        if len(entries) != self.dims:
            raise arguments.fail(self, "output_size", f"one size or {self.dims}", output_size)
        for entry in entries:
            if entry is not None:
                arguments.integer(self, "output_size", entry)
        self.output_size = entries if isinstance(output_size, (tuple, list)) else output_size

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class _AdaptiveAvgPool(_AdaptivePool, AveragePool):
    def window(self, size: tuple[int, ...]) -> Window | None:
        entries = self.output_size if isinstance(self.output_size, tuple) else (self.output_size,) * self.dims
        tiles = [(n, n if entry is None else entry) for n, entry in zip(size, entries, strict=True)]
        if any(n % parts for n, parts in tiles):
            return None
        kernel_size = tuple(n // parts for n, parts in tiles)
        return kernel_size, kernel_size, (0,) * self.dims, math.prod(kernel_size)


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Means of output_size nearly equal parts: (N, C, L) to (N, C, output_size)."""

    dims = 1

    def forward(self, input: Tensor) -> Tensor:
        return self._mean(lambda: F.adaptive_avg_pool1d(input, self.output_size), input)


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Means of nearly equal tiles: (N, C, H, W) to (N, C, *output_size)."""

    dims = 2

    def forward(self, input: Tensor) -> Tensor:
        return self._mean(lambda: F.adaptive_avg_pool2d(input, self.output_size), input)


class AdaptiveMaxPool2d(_AdaptivePool):
    """Maxima of nearly equal tiles: (N, C, H, W) to (N, C, *output_size), with return_indices also where."""

    dims = 2

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Any:
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)


class GlobalAvgPool(AveragePool):
    """The mean of every channel: (N, C, ...) to (N, C)."""

    def window(self, size: tuple[int, ...]) -> Window | None:
        return (size, size, (0,) * len(size), math.prod(size)) if len(size) in (1, 2) else None

    def forward(self, input: Tensor) -> Tensor:
        exact, window = lattices(self), self.window(input.shape[2:])
        if exact is None or window is None:
            return input.mean(tuple(range(2, input.ndim)))
        return quantized_avg_pool(input, exact, *window).flatten(1)


class Upsample(Module):
    """Images made larger: (N, C, H, W) to (N, C, *size) or (N, C, H scale_factor, W scale_factor).

    mode: 'nearest', 'bilinear', or 'linear' for (N, C, L). align_corners: corner pixels keep their places.
    """

    def __init__(
        self,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ) -> None:
        super().__init__()
        if (size is None) == (scale_factor is None):
            raise arguments.fail(self, "size", "given, or else scale_factor, and not both", size)
        self.size = size
        self.scale_factor = float(scale_factor) if isinstance(scale_factor, int) else scale_factor
        self.mode = arguments.choice(self, "mode", mode, ("nearest", "linear", "bilinear"))
        self.align_corners = align_corners

    def forward(self, input: Tensor) -> Tensor:
        return F.interpolate(input, self.size, self.scale_factor, self.mode, self.align_corners)

    def extra_repr(self) -> str:
        which = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{which}, mode={self.mode!r}"
