"""How long one waits: imports, and from the start of a process to a first finished batch of W2.

Whole processes are timed from outside, in turn. `first_batch` is what they run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from bench.record import markdown

_IMPORTS = {
    "python, nothing imported": "pass",
    "import numpy": "import numpy",
    "import minicnn": "import minicnn",
    "import torch": "import torch",
}
_FIRST_BATCH = "from bench.startup import first_batch; first_batch({engine!r}, {data!r})"
_FIRST_BATCHES = {
    "first batch of W2, minicnn": _FIRST_BATCH.format(engine="minicnn", data="random"),
    "the same and loading Fashion-MNIST": _FIRST_BATCH.format(engine="minicnn", data="fashion-mnist"),
    "first batch of W2, torch": _FIRST_BATCH.format(engine="torch", data="random"),
}
_COLD = "first batch of W2, minicnn, nothing compiled yet"


def first_batch(engine: str, data: str) -> None:
    """One training step of W2 on random images; 'fashion-mnist' also loads the first batch of real ones."""
    from bench.engines import make
    from bench.record import available_cores

    step = make(engine, "W2", batch=64, threads=available_cores()).prepare("step").run
    if data == "fashion-mnist":
        from minicnn.data import DataLoader, FashionMNIST

        next(iter(DataLoader(FashionMNIST(), 64, shuffle=True)))
    step()


def measure(*, rounds: int, cold_rounds: int) -> list[dict[str, Any]]:
    """Seconds of each process. Those whose engine is not installed have no times."""
    programs = {**_IMPORTS, **_FIRST_BATCHES}
    for program in programs.values():  # fills the caches of the file system and of compiled kernels
        _seconds(program)
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            elapsed = _seconds(program)
            if elapsed is not None:
                times[name].append(elapsed)
    times[_COLD] = []
    for _ in range(cold_rounds):
        with tempfile.TemporaryDirectory() as folder:
            elapsed = _seconds(_FIRST_BATCHES["first batch of W2, minicnn"], MINICNN_CACHE_DIR=folder)
            if elapsed is not None:
                times[_COLD].append(elapsed)
    return [{"what": name, "seconds": [round(t, 4) for t in values]} for name, values in times.items()]


def _seconds(program: str, **environment: str) -> float | None:
    """How long a fresh Python takes for `program`; None if it needs a module that is not there."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"MINICNN_QUIET": "1"} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    elapsed = time.perf_counter() - start
    if done.returncode == 0:
        return elapsed
    if any(line in done.stderr for line in ("No module named 'torch'", "PyTorch is not installed")):
        return None
    raise RuntimeError(f"{program!r} failed:\n{done.stderr}")


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: the median and the range of each process's seconds."""
    rows = []
    for entry in results:
        times = entry["seconds"]
        if times:
            rows.append([entry["what"], f"{median(times):.2f}", f"{min(times):.2f} to {max(times):.2f}"])
        else:
            rows.append([entry["what"], "not installed", "-"])
    return markdown(["process", "median s", "range"], rows)
