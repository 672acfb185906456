"""Single ops against PyTorch, forward and both gradients apart: `python -m bench ops`.

Each group of cases has a row of its own in the summary: geometric mean and worst case of PyTorch's time,
the better of its two memory orders, divided by ours. `cases.py` has the computations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bench.bursts import fastest, geometric_mean, paired_ratios
from bench.cases import Case, Convolution, Dense, batch_norm, in_minicnn, in_torch, max_pooling, outcome
from bench.engines import import_torch, minicnn_facts, torch_facts
from bench.record import markdown
from bench.steps import compare, milliseconds, ratio, reasons
from bench.worker import Engine, Mode, Worker, Wrong

ENGINES = ("minicnn", "minicnn-winograd4", "torch", "torch-channels-last")
TOLERANCE = 2e-5  # of the largest element
STRIDE_1 = "3x3, stride 1"

# The 3x3 convolutions of W1, W2, W3 and R20: the layers with 1 or 3 channels come first in their nets.
_FIRST = [Convolution(1, 32, 28), Convolution(3, 32, 32), Convolution(3, 16, 32)]
_INNER = [
    *(Convolution(32, 64, 14), Convolution(32, 64, 16)),
    *(Convolution(64, 128, 8), Convolution(128, 256, 4)),
    *(Convolution(16, 16, 32), Convolution(32, 32, 16), Convolution(64, 64, 8)),
]
_OTHERS = {
    "1x1": [
        *(Convolution(64, 128, 16, kernel=1), Convolution(128, 256, 8, kernel=1)),
        *(Convolution(256, 64, 8, kernel=1), Convolution(64, 16, 32, kernel=1)),
        Convolution(64, 128, 16, kernel=1, stride=2),
    ],
    "3x3, stride 2": [Convolution(16, 32, 32, stride=2), Convolution(32, 64, 16, stride=2)],
    "5x5": [
        *(Convolution(32, 64, 14, kernel=5), Convolution(1, 6, 28, kernel=5)),
        Convolution(6, 16, 14, kernel=5, padding=0),
    ],
    "7x7": [Convolution(16, 32, 16, kernel=7), Convolution(3, 64, 32, kernel=7, stride=2)],
    "depthwise": [
        *(Convolution(64, 64, 16, groups=64), Convolution(128, 128, 8, groups=128)),
        Convolution(64, 64, 32, stride=2, groups=64),
    ],
    "grouped": [Convolution(64, 64, 16, groups=4), Convolution(128, 128, 8, groups=32)],
    "dilated": [Convolution(32, 64, 16, dilation=2), Convolution(64, 64, 8, dilation=2)],
}
_DENSE = [Dense(4096, 128), Dense(3136, 128), Dense(1024, 1024), Dense(1024, 10), Dense(128, 10)]


def groups(*, quick: bool) -> dict[str, list[Case]]:
    """Cases by group; quick: the first layer of each."""
    first, inner = (_FIRST[:1], _INNER[:1]) if quick else (_FIRST, _INNER)
    stride_1 = [*_all(layer.cases(first=True) for layer in first), *_all(layer.cases() for layer in inner)]
    found = {STRIDE_1: stride_1}
    for name, layers in _OTHERS.items():
        found[name] = _all(layer.cases() for layer in layers[: 1 if quick else None])
    found["dense"] = _all(layer.cases() for layer in _DENSE[: 1 if quick else None])
    found["max-pool, batch norm"] = [*max_pooling(32, 32), *batch_norm(32, 32)]
    if not quick:
        found["max-pool, batch norm"] += [*max_pooling(64, 16), *batch_norm(16, 32), *batch_norm(128, 8)]
    return found


def _all(parts: Iterable[Iterable[Case]]) -> list[Case]:
    return [case for part in parts for case in part]


def make(name: str, threads: int) -> Engine:
    """The engine called `name`; a mode is the name of a case. Raises Unavailable."""
    cases = {case.name: case for group in groups(quick=False).values() for case in group}
    torch = None
    if name.startswith("minicnn"):
        import minicnn_kernels as kernels

        kernels.set_threads(threads)
        if name == "minicnn-winograd4":
            kernels.set_algorithm("conv2d", "winograd4")
    else:
        torch = import_torch(threads)
        torch.set_grad_enabled(False)

    def prepare(mode: str) -> Mode:
        case = cases[mode]
        arguments = case.make(np.random.default_rng(0))
        if torch is None:
            run = in_minicnn(case, "cpu", arguments)
        else:
            run = in_torch(torch, case, arguments, channels_last=name == "torch-channels-last")
        error = relative_error(case, run())
        if not error <= TOLERANCE:
            raise Wrong(f"{mode} is off by {error:.1e} of the largest element, more than {TOLERANCE:.0e}")
        return Mode(run, error)

    return Engine(prepare, minicnn_facts if torch is None else torch_facts)


def relative_error(case: Case, result: Any) -> float:
    """The largest difference to the reference in float64 as a part of the largest element.

    Of what a kernel gives only the floating-point arrays count, as many as the reference has.
    """
    arguments = tuple(
        a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a
        for a in case.make(np.random.default_rng(0))
    )
    expected = outcome(in_minicnn(case, "reference", arguments)(), arguments)
    errors = [
        float(np.abs(ours - exact).max() / np.abs(exact).max())
        for ours, exact in zip(outcome(result, arguments), expected, strict=True)
        if exact.dtype == np.float64
    ]
    return max(errors)


def measure(
    *, threads: Sequence[int], rounds: int, burst_seconds: float, quick: bool
) -> list[dict[str, Any]]:
    """One entry per number of threads and case, with its group."""
    group_of = {case.name: group for group, cases in groups(quick=quick).items() for case in cases}
    results = []
    for count in threads:
        found = compare(
            {name: Worker("bench.ops:make", name=name, threads=count) for name in ENGINES},
            {mode: _engines(group) for mode, group in group_of.items()},
            f"{count} threads",
            rounds=rounds,
            burst_seconds=burst_seconds,
        )
        results += [{"group": group_of[entry["mode"]], "threads": count, **entry} for entry in found]
    return results


def _engines(group: str) -> Sequence[str]:
    """Those that have something of their own to show for a group."""
    if group == "dense":
        return "minicnn", "torch"  # no images, hence no order of channels
    return ENGINES if group == STRIDE_1 else [n for n in ENGINES if n != "minicnn-winograd4"]


def ratios(
    results: Sequence[dict[str, Any]], group: str, *, engine: str = "minicnn", kinds: Sequence[str] = ()
) -> dict[str, list[float]]:
    """Quartiles of PyTorch's best time / `engine`'s by case, for a group; kinds: 'forward', 'dX', ..."""
    found = {}
    for entry in results:
        kind, engines = entry["mode"].split(":")[0], entry["engines"]
        theirs = fastest(engines, ("torch", "torch-channels-last"))
        if (
            entry["group"] != group
            or theirs is None
            or engine not in engines
            or (kinds and kind not in kinds)
        ):
            continue
        name = f"{entry['mode']}, {entry['threads']} threads"
        ours, medians = engines[engine]["round_medians_ms"], engines[theirs]["round_medians_ms"]
        found[name] = paired_ratios(medians, ours)
    return found


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: every case, then a summary by group and kind."""
    rows = [
        [
            entry["mode"],
            str(entry["threads"]),
            *(milliseconds(entry, name) for name in ENGINES),
            *(ratio(entry, name) for name in ENGINES[1:]),
        ]
        for entry in results
    ]
    header = ["op", "threads", *(f"{n} ms" for n in ENGINES), *(f"{n} / minicnn" for n in ENGINES[1:])]
    return "\n".join([markdown(header, rows), *reasons(results), "", summary(results)])


def summary(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: geometric mean and worst case of PyTorch's best / ours by group, kind and algorithm."""
    rows = []
    for group in dict.fromkeys(entry["group"] for entry in results):
        kinds = dict.fromkeys(e["mode"].split(":")[0] for e in results if e["group"] == group)
        for engine in ("minicnn", "minicnn-winograd4"):
            for kind in kinds:
                found = ratios(results, group, engine=engine, kinds=[kind])
                if not found:
                    continue
                worst = min(found, key=lambda name: found[name][1])
                name = f"{group}, {kind}" + (", F(4x4)" if engine.endswith("4") else "")
                mean = geometric_mean([middle for _, middle, _ in found.values()])
                rows.append([name, str(len(found)), f"{mean:.2f}", f"{found[worst][1]:.2f}", worst])
    return markdown(["PyTorch's best / minicnn", "cases", "geometric mean", "worst", "at"], rows)
