"""The goals for speed on the CPU, and what was measured beside them: `python -m bench goals`.

GOALS is the table. A row that stands for several nets, shapes or thread counts is judged by the worst of
them; the record keeps them all. `measure` runs the other commands, `judge` compares.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from bench import narrow, ops
from bench.bursts import fastest, geometric_mean, paired_ratios
from bench.record import markdown

TORCH = ("torch", "torch-channels-last", "torch-compile")
INFERENCE = (*TORCH, "onnxruntime", "openvino", "litert", "ncnn")
Results = Mapping[str, Any]  # by command


class Figure(NamedTuple):
    """One measured number with its quartiles, and what it is of."""

    what: str
    low: float
    middle: float
    high: float


class Goal(NamedTuple):
    """A row. find: its figures among the results; none if what is compared with is missing.

    Ratios are theirs / ours, so that more is better, unless `less` says that the figure should be small.
    """

    row: str
    against: str
    goal: float
    stretch: float | None
    find: Callable[[Results], list[Figure]]
    less: bool = False
    unit: str = ""


def _whole_nets(
    part: str, nets: Sequence[str], engines: Sequence[str], mode: str = "step"
) -> Callable[[Results], list[Figure]]:
    """The fastest of `engines` against ours, by net and number of threads."""

    def find(results: Results) -> list[Figure]:
        figures = []
        for entry in results.get(part, ()):
            name = fastest(entry["engines"], engines)
            if entry["net"] in nets and entry["mode"] == mode and name is not None:
                what = f"{entry['net']}, {_threads(entry)}, {name}"
                figures.append(Figure(what, *entry["engines"][name]["times_first_engine"]))
        return figures

    return find


def _ops(
    groups: Sequence[str], kinds: Sequence[str] = (), engine: str = "minicnn"
) -> Callable[[Results], list[Figure]]:
    """PyTorch's better memory order against ours, by case and number of threads."""

    def find(results: Results) -> list[Figure]:
        return [
            Figure(what, *quartiles)
            for group in groups
            for what, quartiles in ops.ratios(
                results.get("ops", ()), group, engine=engine, kinds=kinds
            ).items()
        ]

    return find


def _growth(part: str, field: str) -> Callable[[Results], list[Figure]]:
    def find(results: Results) -> list[Figure]:
        return [Figure(entry["what"], *entry[field]) for entry in results.get("growth", {}).get(part, ())]

    return find


def _memory(results: Results) -> list[Figure]:
    """Ours / the least of PyTorch's; one run each, so without a spread."""
    peaks = {
        entry["engine"]: entry["peak_mib"]
        for entry in results.get("memory", ())
        if entry["net"] == "W3" and "peak_mib" in entry
    }
    theirs = min((peaks[name] for name in TORCH if name in peaks), default=None)
    if theirs is None or "minicnn" not in peaks:
        return []
    share = round(peaks["minicnn"] / theirs, 3)
    return [Figure(f"{peaks['minicnn']:.0f} of {theirs:.0f} MiB", share, share, share)]


def _imports(results: Results) -> list[Figure]:
    ours, theirs = (_seconds(results, f"import {name}") for name in ("minicnn", "torch"))
    if not theirs or not ours:
        return []
    return [Figure(f"{median(theirs):.2f} s against {median(ours):.2f} s", *paired_ratios(theirs, ours))]


def _start(what: str) -> Callable[[Results], list[Figure]]:
    def find(results: Results) -> list[Figure]:
        seconds = _seconds(results, what)
        return [Figure("whole process", min(seconds), median(seconds), max(seconds))] if seconds else []

    return find


def _seconds(results: Results, what: str) -> list[float]:
    return next((e["seconds"] for e in results.get("startup", ()) if e["what"] == what), [])


def _deployed(kind: str) -> Callable[[Results], list[Figure]]:
    """How many times as fast, by shape or net and number of threads."""

    def find(results: Results) -> list[Figure]:
        return [
            Figure(f"{entry['what']}, {_threads(entry)}", *entry["times_as_fast"])
            for entry in results.get("deploy", ())
            if entry["kind"] == kind
        ]

    return find


def _threads(entry: Mapping[str, Any]) -> str:
    return "1 thread" if entry["threads"] == 1 else f"{entry['threads']} threads"


_SMALL, _NETS, _ALL = ("W1", "W2"), ("W1", "W2", "W3"), ("W1", "W2", "W3", "R20")
_PEERS_OF_FORWARD = "the best of PyTorch, ONNX Runtime, OpenVINO, LiteRT, ncnn"
_ODD = ("1x1", "depthwise", "3x3, stride 2", "5x5")
_LOOSE = "minicnn-winograd4"
_RUNTIME = "onnxruntime-int8"
_INTEGERS = (_RUNTIME, "openvino-int8", "litert-int8", "torch-int8")
_PEERS_OF_INTEGERS = "the best of ONNX Runtime, OpenVINO, LiteRT, PyTorch, all in 8 bits"
GOALS = (
    Goal("W1, W2 step", "PyTorch eager", 2.3, 3.0, _whole_nets("steps", _SMALL, ["torch"])),
    Goal("W1, W2 step", "PyTorch's best", 1.7, 2.2, _whole_nets("steps", _SMALL, TORCH)),
    Goal("W3 step", "PyTorch eager", 2.0, 2.6, _whole_nets("steps", ["W3"], ["torch"])),
    Goal("W3 step", "PyTorch's best", 1.5, 2.0, _whole_nets("steps", ["W3"], TORCH)),
    Goal("R20 step", "PyTorch's best", 1.4, 2.0, _whole_nets("steps", ["R20"], TORCH)),
    *(
        Goal(
            f"W1, W2, W3 forward, batch {batch}",
            _PEERS_OF_FORWARD,
            goal,
            stretch,
            _whole_nets("forward", _NETS, INFERENCE, f"batch {batch}"),
        )
        for batch, goal, stretch in ((64, 1.5, 2.0), (1, 1.1, 1.4))
    ),
    *(
        Goal(f"{what} forward in 8 bits, batch {batch}", against, goal, stretch, figures)
        for what, nets, against, engines, batch, goal, stretch in (
            ("W1, W2", _SMALL, "ONNX Runtime in 8 bits", [_RUNTIME], 64, 2.0, 2.5),
            ("W1, W2", _SMALL, _PEERS_OF_INTEGERS, _INTEGERS, 64, 1.2, 1.4),
            ("W3", ["W3"], "ONNX Runtime in 8 bits", [_RUNTIME], 64, 1.6, 2.5),
            ("W3", ["W3"], "OpenVINO in 8 bits", ["openvino-int8"], 64, 0.7, 1.0),
            ("W1, W2, W3", _NETS, _PEERS_OF_INTEGERS, _INTEGERS, 1, 1.5, 2.0),
            ("W1, W2, W3", _NETS, "our own float32", ["minicnn"], 64, 2.5, 3.5),
        )
        for figures in [_whole_nets("integers", nets, engines, f"batch {batch}")]
    ),
    Goal(
        "3x3 convolution, stride 1, forward and data gradient",
        "PyTorch's better memory order",
        *(1.5, 1.9),
        _ops([ops.STRIDE_1], ("forward", "dX")),
    ),
    Goal(
        "the same with F(4x4) allowed, errors up to 2e-5",
        "PyTorch's better memory order",
        *(2.0, 2.5),
        _ops([ops.STRIDE_1], ("forward", "dX"), _LOOSE),
    ),
    Goal(
        "1x1, depthwise, strided, 5x5 convolution",
        "PyTorch's better memory order",
        *(1.0, 1.3),
        _ops(_ODD),
    ),
    Goal("any step, all threads", "one thread", 1.7, 1.9, _growth("threads", "times_as_fast")),
    Goal(
        "time per image of a W2 step, batch 16 to 1,024",
        "the best batch",
        *(1.25, 1.1),
        _growth("batch", "times_best"),
        less=True,
    ),
    Goal(
        "3x3 convolution per multiply-accumulate, 16 to 512 channels, 8 to 128 pixels",
        "the best shape",
        *(1.25, 1.1),
        _growth("convolution", "times_best"),
        less=True,
    ),
    *(
        Goal("W2 step", against, goal, None, _whole_nets("frameworks", ["W2"], [name]))
        for against, name, goal in (
            ("MiniTorch, Numba", "minitorch", 200),
            ("DeZero", "dezero", 15),
            ("tinygrad, CPU", "tinygrad", 15),
            ("JAX", "jax", 5),
        )
    ),
    Goal("peak memory of a W3 step, ours / theirs", "PyTorch's least", 1, 0.7, _memory, less=True),
    Goal("import minicnn", "import torch", 2, 4, _imports),
    Goal(
        "second process: start to first batch of W2",
        "-",
        *(1.5, 1),
        _start("first batch of W2, minicnn"),
        less=True,
        unit=" s",
    ),
    Goal(
        "nothing compiled yet: start to first batch of W2",
        "-",
        *(30, 15),
        _start("first batch of W2, minicnn, nothing compiled yet"),
        less=True,
        unit=" s",
    ),
    Goal("XNOR layer, packing included", "sgemm of the same shape", 4, 9, _deployed("bits")),
    Goal("half of the channels removed", "our own dense model", 1.8, 2.0, _deployed("channels")),
    Goal(
        "without AVX-512, any step: no slower than half as fast",
        "PyTorch's best, held to AVX2",
        *(0.5, None),
        _whole_nets("narrow", _ALL, narrow.ENGINES[1:]),
    ),
)


def judge(results: Results) -> list[dict[str, Any]]:
    """Every goal with its figures, the worst of them, and the verdict."""
    return [judged(goal, goal.find(results)) for goal in GOALS]


def judged(goal: Goal, figures: Sequence[Figure]) -> dict[str, Any]:
    """A goal with its figures, the worst of them, and the verdict."""
    entry = {"row": goal.row, "against": goal.against, "goal": goal.goal, "stretch": goal.stretch}
    entry |= {"unit": goal.unit, "less_is_better": goal.less}
    if not figures:
        return entry | {"verdict": "not measured", "figures": []}
    worst = (max if goal.less else min)(figures, key=lambda figure: figure.middle)
    return entry | {
        "verdict": verdict(goal, worst.middle),
        "worst": worst._asdict(),
        "geometric_mean": round(geometric_mean([figure.middle for figure in figures]), 3),
        "figures": [figure._asdict() for figure in figures],
    }


def verdict(goal: Goal, value: float) -> str:
    """'stretch goal', 'reached', or by what part of the goal it was missed."""
    share = goal.goal / value if goal.less else value / goal.goal
    if share < 1:
        return f"missed: {share:.0%} of the goal"
    reached_more = goal.stretch is not None and (
        value <= goal.stretch if goal.less else value >= goal.stretch
    )
    return "stretch goal" if reached_more else "reached"


def table(results: Mapping[str, Any]) -> str:
    """Markdown: one line per goal; then the machines, and who was missing, and why."""
    rows = []
    for entry in results["goals"]:
        row = [entry["row"], entry["against"], *(_number(entry[key], entry) for key in ("goal", "stretch"))]
        if entry["figures"]:
            worst = entry["worst"]
            middle, low, high = (_number(worst[key], entry) for key in ("middle", "low", "high"))
            mean = _number(entry["geometric_mean"], entry) if len(entry["figures"]) > 1 else "-"
            row += [mean, f"{middle} ({low} to {high})", worst["what"]]
        else:
            row += ["-", "-", "-"]
        rows.append([*row, entry["verdict"]])
    header = ["what", "against", "goal", "stretch", "mean", "worst (quartiles)", "at", "verdict"]
    lines = [*machines(results["machines"]), *results["missing"]]
    return "\n".join([markdown(header, rows), "", *(f"- {line}" for line in lines)])


def machines(of_parts: Mapping[str, str]) -> list[str]:
    """'commands: the machine that they ran on', each machine once."""
    parts: dict[str, list[str]] = {}
    for part, machine in of_parts.items():
        parts.setdefault(machine, []).append(part)
    return [f"{', '.join(names)}: {machine}" for machine, names in parts.items()]


def _number(value: float | None, entry: Mapping[str, Any]) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}{entry['unit']}"


def missing(results: Results) -> list[str]:
    """'engine (command): reason', each once."""
    found = {
        f"{name} ({part}): {reason}"
        for part, entries in results.items()
        if isinstance(entries, list)
        for entry in entries
        for name, reason in entry.get("missing", {}).items()
    }
    return sorted(found)


def measure(
    parts: Mapping[str, Callable[[], Any]], machine: str, earlier: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Run the commands that `parts` names and judge: goals, missing engines, and every part's results.

    machine: the one that this is, in words. earlier: what an earlier call returned, perhaps on another
    machine, for the parts that are not measured anew.
    """
    results = dict(earlier["parts"]) if earlier else {}
    seconds = dict(earlier["seconds"]) if earlier else {}
    machines = dict(earlier["machines"]) if earlier else {}
    for name, run in parts.items():
        start = time.perf_counter()
        results[name] = run()
        seconds[name], machines[name] = round(time.perf_counter() - start, 1), machine
        print(f"{name}: {seconds[name]:.0f} s", file=sys.stderr, flush=True)
    goals = {"goals": judge(results), "missing": missing(results)}
    return {**goals, "seconds": seconds, "machines": machines, "parts": results}
