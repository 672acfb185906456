"""Single kernels with arguments of the nets' shapes, and the same computations in PyTorch.

`ops.py` measures them against PyTorch, `test_ops.py` one by one with pytest-benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import minicnn_kernels as kernels
from minicnn_kernels import memory

BATCH = 64


class Case(NamedTuple):
    """A kernel with its arguments, and the same computation in PyTorch.

    name: of this case among all. make: gives the positional arguments. torch: gets the module and the same
    arguments with tensors for arrays, does what is not to be timed, and gives the function to time; None
    where PyTorch has no equal.
    """

    name: str
    kernel: str
    make: Callable[[np.random.Generator], tuple[Any, ...]]
    torch: Callable[[Any, tuple[Any, ...]], Callable[[], Any]] | None = None


class Convolution(NamedTuple):
    """A layer: its channels, pixels and kernel; padding None is half of the kernel, which keeps the size."""

    inputs: int
    outputs: int
    pixels: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    padding: int | None = None

    def __str__(self) -> str:
        text = f"{self.inputs} to {self.outputs}, {self.pixels}x{self.pixels}, {self.kernel}x{self.kernel}"
        text += f", stride {self.stride}" if self.stride > 1 else ""
        text += f", dilation {self.dilation}" if self.dilation > 1 else ""
        text += f", padding {self.padding}" if self.padding is not None else ""
        if self.groups > 1:
            text += ", depthwise" if self.groups == self.inputs else f", {self.groups} groups"
        return text

    def cases(self, *, first: bool = False) -> Iterator[Case]:
        """Forward and both gradients; the first layer of a net needs none by its input."""
        yield Case(f"forward: {self}", "conv2d_forward", self.forward, _torch_forward)
        if not first:
            yield Case(f"dX: {self}", "conv2d_backward_input", self.backward_input, _torch_backward_input)
        yield Case(f"dW: {self}", "conv2d_backward_weight", self.backward_weight, _torch_backward_weight)

    @property
    def window(self) -> tuple[Any, ...]:
        """Stride, padding, dilation and groups."""
        return (self.stride,) * 2, (self._padding,) * 2, (self.dilation,) * 2, self.groups

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(O, C / groups, kh, kw)."""
        return self.outputs, self.inputs // self.groups, self.kernel, self.kernel

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a forward pass of the batch."""
        return BATCH * self._output_pixels**2 * int(np.prod(self.weight_shape))

    @property
    def _padding(self) -> int:
        return self.dilation * (self.kernel // 2) if self.padding is None else self.padding

    @property
    def _output_pixels(self) -> int:
        return (self.pixels + 2 * self._padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    def forward(self, rng: np.random.Generator) -> tuple[Any, ...]:
        """Arguments of conv2d_forward."""
        x = images(rng, self.inputs, self.pixels)
        return x, normal(rng, *self.weight_shape), normal(rng, self.outputs), *self.window

    def backward_input(self, rng: np.random.Generator) -> tuple[Any, ...]:
        """Arguments of conv2d_backward_input."""
        shape = (BATCH, self.inputs, self.pixels, self.pixels)
        grad = images(rng, self.outputs, self._output_pixels)
        return grad, normal(rng, *self.weight_shape), shape, *self.window

    def backward_weight(self, rng: np.random.Generator) -> tuple[Any, ...]:
        """Arguments of conv2d_backward_weight."""
        grad = images(rng, self.outputs, self._output_pixels)
        return grad, images(rng, self.inputs, self.pixels), self.weight_shape, *self.window


class Dense(NamedTuple):
    """A fully connected layer."""

    inputs: int
    outputs: int

    def cases(self) -> Iterator[Case]:
        """Forward and both gradients."""
        name = f"dense {self.inputs} to {self.outputs}"
        x, y, weight = (BATCH, self.inputs), (BATCH, self.outputs), (self.outputs, self.inputs)
        yield Case(
            f"forward: {name}",
            "linear_forward",
            lambda rng: (normal(rng, *x), normal(rng, *weight), normal(rng, self.outputs)),
            lambda torch, a: lambda: torch.nn.functional.linear(*a),
        )
        yield Case(
            f"dX: {name}",
            "linear_backward_input",
            lambda rng: (normal(rng, *y), normal(rng, *weight)),
            lambda torch, a: lambda: torch.matmul(*a),
        )
        yield Case(
            f"dW: {name}",
            "linear_backward_weight",
            lambda rng: (normal(rng, *y), normal(rng, *x)),
            lambda torch, a: lambda: a[0].T @ a[1],
        )


def max_pooling(channels: int, pixels: int) -> Iterator[Case]:
    """2x2 windows of stride 2, forward and backward."""
    window = ((2, 2), (2, 2), (0, 0), (1, 1))
    small = pixels // 2
    name = f"max-pool {channels}, {pixels}x{pixels}"
    yield Case(
        f"forward: {name}",
        "max_pool2d_forward",
        lambda rng: (images(rng, channels, pixels), *window, False),
        lambda torch, a: lambda: torch.ops.aten.max_pool2d_with_indices(*a),
    )

    def backward(rng: np.random.Generator) -> tuple[Any, ...]:
        argmax = rng.integers(0, 4, (BATCH, small, small, channels), dtype=np.uint8)
        shape = (BATCH, channels, pixels, pixels)
        return images(rng, channels, small), argmax.transpose(0, 3, 1, 2), shape, *window

    def torch_backward(torch: Any, arguments: tuple[Any, ...]) -> Callable[[], Any]:
        grad, argmax, shape, *options = arguments
        order = torch.channels_last if grad.is_contiguous(memory_format=torch.channels_last) else None
        x = torch.zeros(shape).contiguous(memory_format=order or torch.contiguous_format)
        row, column = argmax.long() // 2, argmax.long() % 2
        start = 2 * torch.arange(small)
        indices = (start[:, None] + row) * pixels + start + column
        return lambda: torch.ops.aten.max_pool2d_with_indices_backward(grad, x, *options, False, indices)

    yield Case(f"backward: {name}", "max_pool2d_backward", backward, torch_backward)


def batch_norm(channels: int, pixels: int) -> Iterator[Case]:
    """Batch norm in training, forward and backward."""
    name = f"batch norm {channels}, {pixels}x{pixels}"

    def torch_forward(torch: Any, arguments: tuple[Any, ...]) -> Callable[[], Any]:
        x, weight, bias, eps = arguments
        return lambda: torch.native_batch_norm(x, weight, bias, None, None, True, 0.1, eps)

    def torch_backward(torch: Any, arguments: tuple[Any, ...]) -> Callable[[], Any]:
        grad, x, weight, mean, inv_std, needs = arguments
        run = torch.ops.aten.native_batch_norm_backward
        return lambda: run(grad, x, weight, None, None, mean, inv_std, True, 1e-5, needs)

    yield Case(
        f"forward: {name}",
        "batch_norm_forward",
        lambda rng: (images(rng, channels, pixels), normal(rng, channels), normal(rng, channels), 1e-5),
        torch_forward,
    )
    yield Case(
        f"backward: {name}",
        "batch_norm_backward",
        lambda rng: (
            images(rng, channels, pixels),
            images(rng, channels, pixels),
            *(normal(rng, channels), normal(rng, channels), np.abs(normal(rng, channels))),
            (True, True, True),
        ),
        torch_backward,
    )


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Normal numbers, float32."""
    return rng.standard_normal(shape, dtype=np.float32)


def images(rng: np.random.Generator, channels: int, pixels: int) -> np.ndarray:
    """Normal images, channels-last in memory."""
    result = memory.empty_images(BATCH, channels, pixels, pixels)
    result[...] = normal(rng, *result.shape)
    return result


def in_minicnn(case: Case, backend: str, arguments: tuple[Any, ...]) -> Callable[[], Any]:
    """The computation by a back end of ours, as a function of nothing."""
    function = getattr(kernels.backend(backend), case.kernel)
    return lambda: function(*arguments)


def in_torch(torch: Any, case: Case, arguments: tuple[Any, ...], *, channels_last: bool) -> Callable[[], Any]:
    """The computation by PyTorch; images and weights channels-last in memory or not."""
    order = torch.channels_last if channels_last else torch.contiguous_format

    def tensor(array: np.ndarray) -> Any:
        made = torch.from_numpy(array)
        return made.contiguous(memory_format=order) if array.ndim == 4 else made

    assert case.torch is not None
    return case.torch(torch, tuple(tensor(a) if isinstance(a, np.ndarray) else a for a in arguments))


def outcome(result: Any, arguments: tuple[Any, ...]) -> list[np.ndarray]:
    """The arrays that a kernel gives: what it returns, or its arguments if it works in place."""
    if result is None:
        return [argument for argument in arguments if isinstance(argument, np.ndarray)]
    return [np.asarray(part) for part in (result if isinstance(result, tuple) else (result,))]


def _torch_forward(torch: Any, arguments: tuple[Any, ...]) -> Callable[[], Any]:
    return lambda: torch.conv2d(*arguments)


def _torch_backward_input(torch: Any, arguments: tuple[Any, ...]) -> Callable[[], Any]:
    """PyTorch's own gradient of a convolution, asked for the input's alone; it never reads x."""
    grad, weight, shape, *window = arguments
    channels_last = grad.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.empty(shape, memory_format=order)
    return _torch_gradients(torch, grad, x, weight, window, (True, False, False), 0)


def _torch_backward_weight(torch: Any, arguments: tuple[Any, ...]) -> Callable[[], Any]:
    """PyTorch's own gradient of a convolution, asked for the weight's alone."""
    grad, x, shape, *window = arguments
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if channels_last else torch.contiguous_format
    weight = torch.empty(shape, memory_format=order)
    return _torch_gradients(torch, grad, x, weight, window, (False, True, False), 1)


def _torch_gradients(
    torch: Any, grad: Any, x: Any, weight: Any, window: list[Any], mask: tuple[bool, ...], which: int
) -> Callable[[], Any]:
    stride, padding, dilation, groups = window
    options = (None, stride, padding, dilation, False, (0, 0), groups, mask)
    return lambda: torch.ops.aten.convolution_backward(grad, x, weight, *options)[which]
