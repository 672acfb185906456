"""GFLOP/s of every rung of the GPU's ladders, in one process: the rungs take turns.

Whether they are right is for `tests/cuda_ladder.py`; here a result must only be free of NaN at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np

from minicnn_kernels import cuda
from minicnn_kernels.cuda import driver
from minicnn_kernels.ladder import cuda_convolution, cuda_matmul

_ROUNDS, _BURST_SECONDS = 5, 0.2


def measure(simulate: bool) -> Iterator[dict[str, Any]]:
    """mode: ladder and rung; milliseconds, gflops."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return cuda.to_device(rng.standard_normal(shape, np.float32))

    side = 4 if simulate else 4096
    a, b = normal(side, side), normal(side, side)
    calls = {
        f"product of {side}: {rung.name}": (rung.function, cuda_matmul.arguments(rung, a, b), 2 * side**3)
        for rung in cuda_matmul.RUNGS
    }
    n, c, o, pixels = (1, 2, 3, 4) if simulate else (512, 32, 64, 16)  # W1's second convolution
    operands = normal(n, c, pixels, pixels), normal(o, c, 3, 3), normal(o)
    flops = 2 * n * o * pixels**2 * c * 9
    for rung in cuda_convolution.RUNGS:
        name = f"{n} images, {c} to {o} channels of {pixels} x {pixels}: {rung.name}"
        calls[name] = rung.function, cuda_convolution.arguments(rung, *operands), flops
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(1 if simulate else _ROUNDS + 1):
        for name, (function, arguments, _) in calls.items():
            count = 1 if turn == 0 else max(1, min(20, int(_BURST_SECONDS / times[name][0])))
            times[name].append(_seconds(function, arguments, count))
            if turn == 0 and not simulate:  # the first call compiled it
                times[name][0] = _seconds(function, arguments, 1)
    for name, (_, arguments, flops) in calls.items():
        if np.isnan(cuda.to_host(arguments[-1])).any():
            raise ArithmeticError(f"{name}: a result is NaN")
        seconds = median(times[name])
        yield {"mode": name, "milliseconds": 1e3 * seconds, "gflops": flops / seconds / 1e9}


def _seconds(function: Callable[..., Any], arguments: Any, count: int) -> float:
    """For one of `count` calls, and a wait for the device at the end."""
    start = time.perf_counter()
    for _ in range(count):
        function(*arguments)
    driver.stream().synchronize()
    return (time.perf_counter() - start) / count
