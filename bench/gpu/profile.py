"""Where the time of a training step goes: milliseconds of each kernel by the device's clock, and the gaps.

An event is recorded before and after every launch. That makes the step itself slower, so the step's time is
taken without events; what it has beyond the sum of its kernels is gaps, in which the device waits for a
launch. A CUDA graph closes most of them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from statistics import median
from typing import Any

from minicnn_kernels.cuda import driver

_STEPS, _WARM_UP = 5, 3


def of_step(net: str, batch: int) -> dict[str, Any]:
    """kernels: name, launches and milliseconds in one step, the longest first; step_ms; share_of_gaps."""
    from bench.gpu.engines import our_step

    step, _ = our_step(net, batch, recorded=False)
    for _ in range(1 if driver.SIMULATED else _WARM_UP):
        step()
    driver.stream().synchronize()
    seconds = []
    for _ in range(1 if driver.SIMULATED else _STEPS):
        start = time.perf_counter()
        step()
        driver.stream().synchronize()
        seconds.append(time.perf_counter() - start)
    kernels = _by_kernel(step)
    step_ms = 1e3 * median(seconds)
    busy = sum(kernel["milliseconds"] for kernel in kernels)
    return {"kernels": kernels, "step_ms": step_ms, "share_of_gaps": max(0.0, 1 - busy / step_ms)}


def _by_kernel(step: Any) -> list[dict[str, Any]]:
    marks: list[tuple[str, Any, Any]] = []
    launch = driver.Kernel.run

    def watched(kernel: Any, *arguments: Any) -> None:
        before, after = (driver.cuda.event() for _ in range(2))
        before.record(driver.stream())
        launch(kernel, *arguments)
        after.record(driver.stream())
        marks.append((kernel.name, before, after))

    setattr(driver.Kernel, "run", watched)  # noqa: B010  (put back below)
    try:
        step()
    finally:
        setattr(driver.Kernel, "run", launch)  # noqa: B010
    driver.stream().synchronize()
    found: dict[str, list[float]] = defaultdict(list)
    for name, before, after in marks:
        found[name].append(driver.cuda.event_elapsed_time(before, after) if not driver.SIMULATED else 0.0)
    kernels = [
        {"name": name, "launches": len(times), "milliseconds": round(sum(times), 4)}
        for name, times in found.items()
    ]
    return sorted(kernels, key=lambda kernel: -kernel["milliseconds"])
