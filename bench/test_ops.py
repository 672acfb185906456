"""Single kernels: the cpu back end against the reference and PyTorch, one pytest-benchmark group per op.

    pytest bench/test_ops.py --benchmark-sort=mean
    pytest bench/test_ops.py -k "conv2d_forward and not reference" --benchmark-json=ops.json

Shapes are those of the nets in `nets.py` at batch 64, images channels-last as in the engine. Each kernel runs
once before the stopwatch: that compiles it (how long that took is in `extra_info`) and its result must equal
the reference's, or nothing is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import minicnn_kernels as kernels
from minicnn_kernels import memory

BATCH = 64
TOLERANCE = 1e-4  # relative to the largest element


class Case(NamedTuple):
    """A kernel with its arguments, and the same computation in PyTorch.

    make: gives the positional arguments; arrays among them become tensors for PyTorch.
    torch: gets the module and gives a function of the same arguments; None where PyTorch has no equal.
    """

    group: str
    kernel: str
    make: Callable[[np.random.Generator], tuple[Any, ...]]
    torch: Callable[[Any], Callable[..., Any]] | None = None


class Convolution(NamedTuple):
    """A layer: its channels, pixels and kernel; it gives the arguments of its three kernels."""

    inputs: int
    outputs: int
    pixels: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1

    def __str__(self) -> str:
        text = f"{self.inputs} to {self.outputs}, {self.pixels}x{self.pixels}, {self.kernel}x{self.kernel}"
        text += f", stride {self.stride}" if self.stride > 1 else ""
        return text + (", depthwise" if self.groups > 1 else "")

    @property
    def window(self) -> tuple[Any, ...]:
        """Stride, padding, dilation and groups."""
        half = self.kernel // 2
        return (self.stride, self.stride), (half, half), (1, 1), self.groups

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(O, C / groups, kh, kw)."""
        return self.outputs, self.inputs // self.groups, self.kernel, self.kernel

    def image(self, rng: np.random.Generator) -> np.ndarray:
        """What goes in."""
        return images(rng, self.inputs, self.pixels)

    def gradient(self, rng: np.random.Generator) -> np.ndarray:
        """What comes back; odd kernels with half as much padding keep the size, strides divide it."""
        return images(rng, self.outputs, self.pixels // self.stride)

    def forward(self, rng: np.random.Generator) -> tuple[Any, ...]:
        """Arguments of conv2d_forward."""
        return self.image(rng), normal(rng, *self.weight_shape), normal(rng, self.outputs), *self.window

    def backward_input(self, rng: np.random.Generator) -> tuple[Any, ...]:
        """Arguments of conv2d_backward_input."""
        shape = (BATCH, self.inputs, self.pixels, self.pixels)
        return self.gradient(rng), normal(rng, *self.weight_shape), shape, *self.window

    def backward_weight(self, rng: np.random.Generator) -> tuple[Any, ...]:
        """Arguments of conv2d_backward_weight."""
        return self.gradient(rng), self.image(rng), self.weight_shape, *self.window


def torch_backward_input(torch: Any) -> Callable[..., Any]:
    """PyTorch's own gradient of a convolution, asked for the input's alone; it never reads x."""

    def run(grad, weight, shape, stride, padding, dilation, groups):
        x = torch.empty(shape, memory_format=torch.channels_last)
        options = (None, stride, padding, dilation, False, (0, 0), groups, (True, False, False))
        return torch.ops.aten.convolution_backward(grad, x, weight, *options)[0]

    return run


def torch_backward_weight(torch: Any) -> Callable[..., Any]:
    """PyTorch's own gradient of a convolution, asked for the weight's alone."""

    def run(grad, x, shape, stride, padding, dilation, groups):
        weight = torch.empty(shape)
        options = (None, stride, padding, dilation, False, (0, 0), groups, (False, True, False))
        return torch.ops.aten.convolution_backward(grad, x, weight, *options)[1]

    return run


CONVOLUTIONS = (
    Convolution(1, 32, 28),
    Convolution(3, 32, 32),
    Convolution(16, 16, 32),
    Convolution(32, 64, 16),
    Convolution(64, 64, 8),
    Convolution(128, 256, 4),
    Convolution(16, 32, 32, stride=2),
    Convolution(16, 32, 32, kernel=1, stride=2),
    Convolution(32, 64, 16, kernel=1),
    Convolution(32, 64, 16, kernel=5),
    Convolution(32, 32, 16, groups=32),
)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def images(rng: np.random.Generator, channels: int, pixels: int) -> np.ndarray:
    """Normal images, channels-last in memory."""
    result = memory.empty_images(BATCH, channels, pixels, pixels)
    result[...] = normal(rng, *result.shape)
    return result


def convolutions() -> Iterator[Case]:
    for layer in CONVOLUTIONS:
        yield Case(f"conv2d_forward: {layer}", "conv2d_forward", layer.forward, lambda torch: torch.conv2d)
        for kernel, make, torch_function in (
            ("conv2d_backward_input", layer.backward_input, torch_backward_input),
            ("conv2d_backward_weight", layer.backward_weight, torch_backward_weight),
        ):
            yield Case(f"{kernel}: {layer}", kernel, make, torch_function)


def others() -> Iterator[Case]:
    pool = ((2, 2), (2, 2), (0, 0))
    yield Case(
        "relu_forward: 32, 32x32",
        "relu_forward",
        lambda rng: (images(rng, 32, 32),),
        lambda torch: torch.relu,
    )
    yield Case(
        "relu_backward: 32, 32x32", "relu_backward", lambda rng: (images(rng, 32, 32), images(rng, 32, 32))
    )
    yield Case(
        "add: 32, 32x32",
        "add",
        lambda rng: (images(rng, 32, 32), images(rng, 32, 32)),
        lambda torch: torch.add,
    )
    yield Case(
        "max_pool2d_forward: 32, 32x32",
        "max_pool2d_forward",
        lambda rng: (images(rng, 32, 32), *pool, (1, 1), False),
        lambda torch: torch.max_pool2d,
    )
    yield Case(
        "max_pool2d_backward: 32, 32x32",
        "max_pool2d_backward",
        lambda rng: (
            images(rng, 32, 16),
            rng.integers(0, 4, (BATCH, 16, 16, 32), dtype=np.uint8).transpose(0, 3, 1, 2),
            (BATCH, 32, 32, 32),
            *pool,
            (1, 1),
        ),
    )
    yield Case(
        "avg_pool2d_forward: 32, 32x32",
        "avg_pool2d_forward",
        lambda rng: (images(rng, 32, 32), *pool, False, True, None),
        lambda torch: torch.nn.functional.avg_pool2d,
    )
    yield Case(
        "batch_norm_forward: 32, 32x32",
        "batch_norm_forward",
        lambda rng: (images(rng, 32, 32), normal(rng, 32), normal(rng, 32), 1e-5),
        lambda torch: (
            lambda x, weight, bias, eps: torch.native_batch_norm(x, weight, bias, None, None, True, 0.1, eps)
        ),
    )
    yield Case(
        "batch_norm_backward: 32, 32x32",
        "batch_norm_backward",
        lambda rng: (
            images(rng, 32, 32),
            images(rng, 32, 32),
            *(normal(rng, 32), normal(rng, 32), np.abs(normal(rng, 32))),
            (True, True, True),
        ),
    )
    yield Case(
        "linear_forward: 4096 to 128",
        "linear_forward",
        lambda rng: (normal(rng, BATCH, 4096), normal(rng, 128, 4096), normal(rng, 128)),
        lambda torch: torch.nn.functional.linear,
    )
    yield Case(
        "linear_backward_weight: 4096 to 128",
        "linear_backward_weight",
        lambda rng: (normal(rng, BATCH, 128), normal(rng, BATCH, 4096)),
        lambda torch: lambda grad, x: grad.T @ x,
    )
    yield Case(
        "linear_backward_input: 4096 to 128",
        "linear_backward_input",
        lambda rng: (normal(rng, BATCH, 128), normal(rng, 128, 4096)),
        lambda torch: torch.matmul,
    )
    yield Case(
        "matmul: 512x512 times 512x512",
        "matmul",
        lambda rng: (normal(rng, 512, 512), normal(rng, 512, 512)),
        lambda torch: torch.matmul,
    )
    yield Case(
        "cross_entropy_forward: 1024 rows, 10 classes",
        "cross_entropy_forward",
        lambda rng: (normal(rng, 1024, 10), rng.integers(0, 10, 1024), None, -100, 0.0),
        lambda torch: (
            lambda x, target, weight, ignore, smoothing: torch.nn.functional.cross_entropy(
                x, target, weight, ignore_index=ignore, label_smoothing=smoothing, reduction="none"
            )
        ),
    )
    yield Case(
        "sgd_step: 524,288 weights",
        "sgd_step",
        lambda rng: (*(normal(rng, 128, 4096) for _ in range(3)), 1e-6, 0.9, 0.0, 0.0, False, 0.0),
    )
    yield Case(
        "sum: all of 32, 32x32",
        "sum",
        lambda rng: (np.abs(images(rng, 32, 32)), None, False),
        lambda torch: lambda x, dim, keepdim: torch.sum(x),
    )
    yield Case(
        "random_normal: 524,288 numbers",
        "random_normal",
        lambda rng: ((128, 4096), 0.0, 1.0, np.dtype(np.float32), 7, 0),
    )


CASES = [*convolutions(), *others()]
RUNS = [
    pytest.param(case, engine, id=f"{case.group}-{engine}")
    for case in CASES
    for engine in ("cpu", "reference", "torch")
    if engine != "torch" or case.torch is not None
]


def bind(case: Case, engine: str, arguments: tuple[Any, ...]) -> Callable[[], Any]:
    """The computation as a function of nothing."""
    if engine == "torch":
        torch = pytest.importorskip("torch")
        torch.set_num_threads(kernels.get_threads())
        function = case.torch(torch)  # type: ignore[misc]
        arguments = tuple(torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in arguments)
    else:
        function = getattr(kernels.backend(engine), case.kernel)
    return lambda: function(*arguments)


def outcome(result: Any, arguments: tuple[Any, ...]) -> list[np.ndarray]:
    """The arrays that a kernel gives: what it returns, or its arguments if it works in place."""
    if result is None:
        return [argument for argument in arguments if isinstance(argument, np.ndarray)]
    return [np.asarray(part) for part in (result if isinstance(result, tuple) else (result,))]


@pytest.mark.parametrize(("case", "engine"), RUNS)
def test_op(benchmark, case, engine):
    arguments = case.make(np.random.default_rng(0))
    run = bind(case, engine, arguments)
    start = time.perf_counter()
    result = run()
    benchmark.extra_info["first_call_seconds"] = time.perf_counter() - start
    benchmark.extra_info["threads"] = kernels.get_threads()
    if engine != "reference":
        twins = case.make(np.random.default_rng(0))
        expected = outcome(bind(case, "reference", twins)(), twins)
        # PyTorch keeps to itself what only a backward needs (an argmax); the result comes first.
        for ours, theirs in zip(outcome(result, arguments), expected, strict=engine == "cpu"):
            atol = TOLERANCE * float(np.abs(theirs).max())
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)
    benchmark.group = case.group
    benchmark(run)
