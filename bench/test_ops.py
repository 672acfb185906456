"""Single kernels: the cpu back end against the reference and PyTorch, one pytest-benchmark group per op.

    pytest bench/test_ops.py --benchmark-sort=mean
    pytest bench/test_ops.py -k "forward and not reference" --benchmark-json=ops.json

Shapes are those of the nets in `nets.py` at batch 64, images channels-last as in the engine. Each kernel runs
once before the stopwatch: that compiles it (how long that took is in `extra_info`) and its result must equal
the reference's, or nothing is timed. `python -m bench ops` is the larger table, with the ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minicnn_kernels as kernels
from bench.cases import (
    BATCH,
    Case,
    Convolution,
    Dense,
    batch_norm,
    images,
    in_minicnn,
    in_torch,
    max_pooling,
    normal,
    outcome,
)

TOLERANCE = 1e-4  # relative to the largest element

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


def others() -> Iterator[Case]:
    image = "32, 32x32"
    yield Case(
        f"relu_forward: {image}",
        "relu_forward",
        lambda rng: (images(rng, 32, 32),),
        lambda torch, a: lambda: torch.relu(*a),
    )
    yield Case(
        f"relu_backward: {image}", "relu_backward", lambda rng: (images(rng, 32, 32), images(rng, 32, 32))
    )
    yield Case(
        f"add: {image}",
        "add",
        lambda rng: (images(rng, 32, 32), images(rng, 32, 32)),
        lambda torch, a: lambda: torch.add(*a),
    )
    yield Case(
        f"avg_pool2d_forward: {image}",
        "avg_pool2d_forward",
        lambda rng: (images(rng, 32, 32), (2, 2), (2, 2), (0, 0), False, True, None),
        lambda torch, a: lambda: torch.nn.functional.avg_pool2d(*a),
    )
    yield Case(
        "matmul: 512x512 times 512x512",
        "matmul",
        lambda rng: (normal(rng, 512, 512), normal(rng, 512, 512)),
        lambda torch, a: lambda: torch.matmul(*a),
    )
    yield Case(
        "cross_entropy_forward: 1024 rows, 10 classes",
        "cross_entropy_forward",
        lambda rng: (normal(rng, 16 * BATCH, 10), rng.integers(0, 10, 16 * BATCH), None, -100, 0.0),
        torch_cross_entropy,
    )
    yield Case(
        "sgd_step: 524,288 weights",
        "sgd_step",
        lambda rng: (*(normal(rng, 128, 4096) for _ in range(3)), 1e-6, 0.9, 0.0, 0.0, False, 0.0),
    )
    yield Case(
        f"sum: all of {image}",
        "sum",
        lambda rng: (np.abs(images(rng, 32, 32)), None, False),
        lambda torch, a: lambda: torch.sum(a[0]),
    )
    yield Case(
        "random_normal: 524,288 numbers",
        "random_normal",
        lambda rng: ((128, 4096), 0.0, 1.0, np.dtype(np.float32), 7, 0),
    )


def torch_cross_entropy(torch: Any, arguments: tuple[Any, ...]) -> Callable[[], Any]:
    x, target, *_ = arguments
    return lambda: torch.nn.functional.cross_entropy(x, target, reduction="none")


CASES = [
    *(case for layer in CONVOLUTIONS for case in layer.cases()),
    *(*max_pooling(32, 32), *batch_norm(32, 32), *Dense(4096, 128).cases(), *others()),
]
RUNS = [
    pytest.param(case, engine, id=f"{case.name}-{engine}")
    for case in CASES
    for engine in ("cpu", "reference", "torch")
    if engine != "torch" or case.torch is not None
]


def bind(case: Case, engine: str, arguments: tuple[Any, ...]) -> Callable[[], Any]:
    """The computation as a function of nothing."""
    if engine != "torch":
        return in_minicnn(case, engine, arguments)
    torch = pytest.importorskip("torch")
    torch.set_num_threads(kernels.get_threads())
    return in_torch(torch, case, arguments, channels_last=True)


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
        # PyTorch keeps to itself what only a backward needs, or keeps it otherwise (an argmax).
        for ours, theirs in zip(outcome(result, arguments), expected, strict=engine == "cpu"):
            if theirs.dtype == np.float32 or engine == "cpu":
                atol = TOLERANCE * float(np.abs(theirs).max())
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)
    benchmark.group = case.name
    benchmark(run)
