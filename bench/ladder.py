"""The ladders, measured: GFLOP/s of every rung, its share of BLAS and of the roofline, as table and picture.

A rung is checked against the reference before it is timed. All rungs are timed in turn, A B C A B C ...,
with a pause before each so that another library's threads have gone to sleep; the median counts. Compile
time stands apart. BLAS beside a convolution is the matrix product of the same size, im2col for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import minicnn_kernels as kernels
from bench import roofline
from bench.record import markdown
from minicnn.viz import speed
from minicnn_kernels import memory, reference
from minicnn_kernels.ladder import CONVOLUTION, MATMUL, Rung, convolution, matmul

_PAUSE = 0.03  # s: idle threads of OpenBLAS and OpenMP spin for less


@dataclass
class Candidate:
    """One rung on one problem: what to call, how much work that is, and the times it took."""

    rung: Rung
    problem: str
    call: Callable[[], np.ndarray]
    threads: int
    flops: int
    traffic: int  # bytes: every operand once
    compile_seconds: float
    times: list[float]

    def time_burst(self, seconds: float) -> None:
        """Add the times of one burst; its first call only warms the caches, unless it is long."""
        kernels.set_threads(self.threads)
        time.sleep(_PAUSE)
        elapsed = _timed(self.call)
        if elapsed > seconds:
            self.times.append(elapsed)
            return
        for _ in range(max(1, min(20, int(seconds / elapsed)))):
            self.times.append(_timed(self.call))

    @property
    def gflops(self) -> float:
        return self.flops / median(self.times) / 1e9


def measure(*, threads: int, rounds: int, quick: bool) -> dict[str, Any]:
    """Everything: the rooflines and one result per rung, with `threads` threads for the parallel ones."""
    before = kernels.get_threads()
    try:
        rooflines = roofline.measure([1, threads] if threads > 1 else [1], rounds=rounds)
        ladders = {
            "matmul": _matmul_candidates(512 if quick else 1024, threads),
            "convolution": _convolution_candidates(16 if quick else 64, threads),
        }
        everything = [candidate for ladder in ladders.values() for candidate in ladder]
        for _ in range(rounds):
            for candidate in everything:
                candidate.time_burst(0.05 if quick else 0.2)
    finally:
        kernels.set_threads(before)
    limits = {r.threads: r for r in rooflines}
    return {
        "threads": threads,
        "threading_layer": _threading_layer(),
        "roofline": roofline.as_records(rooflines),
        **{name: _results(ladder, limits) for name, ladder in ladders.items()},
    }


def _matmul_candidates(size: int, threads: int) -> list[Candidate]:
    rng = np.random.default_rng(0)
    candidates = []
    for rung in MATMUL:
        n = 64 if rung.interpreted else size
        a, b = _random(rng, n, n), _random(rng, n, n)
        arguments = matmul.arguments(rung, a, b)
        exact = a.astype(np.float64) @ b.astype(np.float64)
        bound = np.abs(a) @ np.abs(b)
        candidates.append(
            _candidate(
                rung,
                f"{n} x {n} x {n}",
                arguments,
                lambda y: y,
                (exact, bound * n),
                threads,
                flops=2 * n**3,
                traffic=3 * a.nbytes,
            )
        )
    return candidates


def _convolution_candidates(images: int, threads: int) -> list[Candidate]:
    """The second convolution of W1 and the block it stands in."""
    rng = np.random.default_rng(0)
    x = _random(rng, images, 32, 16, 16)
    weight, bias = _random(rng, 64, 32, 3, 3), _random(rng, 64)
    problem = f"{images} images, 32 to 64 channels, 16 x 16 pixels, 3 x 3"
    exact = _convolved(*(operand.astype(np.float64) for operand in (x, weight, bias)))
    depth = weight[0].size
    bound = depth * _convolved(np.abs(x), np.abs(weight), np.abs(bias))
    flops = 2 * exact.size * depth
    candidates = [
        _candidate(
            rung,
            problem,
            convolution.arguments(rung, x, weight, bias),
            lambda y, rung=rung: convolution.as_images(rung, y),
            (_pooled(exact), _pooled(bound)) if rung.pooled else (exact, bound),
            threads,
            flops=flops,
            traffic=x.nbytes + weight.nbytes + exact.size * 4 // (4 if rung.pooled else 1),
        )
        for rung in CONVOLUTION
    ]
    columns, matrix = _random(rng, exact.size // 64, depth), _random(rng, depth, 64)
    product = columns.astype(np.float64) @ matrix.astype(np.float64)
    for rung in (rung for rung in MATMUL if rung.function is matmul.blas):
        candidates.append(
            _candidate(
                rung,
                f"{columns.shape[0]} x {depth} x 64",
                matmul.arguments(rung, columns, matrix),
                lambda y: y,
                (product, np.abs(columns) @ np.abs(matrix) * depth),
                threads,
                flops=flops,
                traffic=columns.nbytes + matrix.nbytes + 4 * product.size,
            )
        )
    return candidates


def _candidate(rung, problem, arguments, view, expected, threads, *, flops, traffic) -> Candidate:
    """The rung, compiled and found right."""
    from minicnn_kernels.cpu import compiler

    threads = threads if rung.parallel else 1
    kernels.set_threads(threads)
    seconds = compiler.compiled()[1]
    arguments[-1].fill(np.nan)  # the output: what is not written will show
    result = view(rung.function(*arguments))
    check(rung, result, *expected)
    return Candidate(
        rung,
        problem,
        lambda: rung.function(*arguments),
        threads,
        flops,
        traffic,
        compiler.compiled()[1] - seconds,
        [],
    )


def check(rung: Rung, result: np.ndarray, exact: np.ndarray, bound: np.ndarray) -> None:
    """Raise ArithmeticError where `result` is further from `exact` than rounding can explain.

    bound: n times the sums of magnitudes, where every sum has n products: it is off by at most eps of that.
    """
    excess = np.abs(result - exact) - np.finfo(np.float32).eps * bound
    if not (excess <= 0).all():  # false for NaN
        raise ArithmeticError(f"{rung.name}: a wrong result, off by {np.abs(result - exact).max():.3g}")


def _convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """conv2d of the reference with 3 x 3 taps and padding 1."""
    return reference.conv2d_forward(x, weight, bias, (1, 1), (1, 1), (1, 1), 1)


def _pooled(x: np.ndarray) -> np.ndarray:
    """max_pool2d(relu(x), 2)."""
    window = (2, 2)
    return reference.max_pool2d_forward(reference.relu_forward(x), window, window, (0, 0), (1, 1), False)[0]


def _random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = memory.empty(shape)
    x[...] = rng.standard_normal(shape, np.float32)
    return x


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _threading_layer() -> str:
    import numba

    return numba.threading_layer()


def _results(ladder: Sequence[Candidate], limits: dict[int, roofline.Roofline]) -> list[dict[str, Any]]:
    """One record per rung. Shares are of BLAS and of the roofline with the same number of threads."""
    marks = {c.threads: c.gflops for c in ladder if c.rung.function is matmul.blas}
    naive = next(c for c in ladder if not c.rung.interpreted)
    results = []
    for candidate in ladder:
        attainable = limits[candidate.threads].attainable(candidate.flops / candidate.traffic)
        results.append(
            {
                "rung": candidate.rung.name,
                "what_changed": candidate.rung.what_changed,
                "why": candidate.rung.why,
                "problem": candidate.problem,
                "threads": candidate.threads,
                "median_s": median(candidate.times),
                "calls": len(candidate.times),
                "compile_s": round(candidate.compile_seconds, 2),
                "gflops": round(candidate.gflops, 4),
                "times_naive": round(candidate.gflops / naive.gflops, 5),
                "of_blas": round(candidate.gflops / marks[candidate.threads], 5),
                "of_roofline": round(candidate.gflops / attainable, 5),
                "attainable_gflops": round(attainable, 1),
            }
        )
    return results


def table(report: dict[str, Any]) -> str:
    """Markdown: the rooflines and a table per ladder. Compile time 0 says: it came from the cache on disk."""
    parts = [roofline.table([roofline.Roofline(**entry) for entry in report["roofline"]])]
    for name in ("matmul", "convolution"):
        rows = [
            [
                entry["rung"],
                str(entry["threads"]),
                f"{1e3 * entry['median_s']:.3g}",
                f"{entry['gflops']:.3g}",
                f"{entry['times_naive']:.3g}",
                speed.percent(entry["of_blas"]),
                speed.percent(entry["of_roofline"]),
                f"{entry['compile_s']:.1f}",
            ]
            for entry in report[name]
        ]
        header = [name, "threads", "ms", "GFLOP/s", "times naive", "of BLAS", "of roofline", "compile s"]
        parts.append(f"{report[name][1]['problem']}:\n\n{markdown(header, rows)}")
    return "\n\n".join(parts)


def plot(report: dict[str, Any], path: Path) -> None:
    """Both ladders as bars, with BLAS and the roofline as lines; needs Matplotlib."""
    speed.ladder(report).savefig(path, dpi=130, bbox_inches="tight")
