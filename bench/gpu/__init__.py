"""Everything that only a GPU can show, in one run of under ten minutes: `python -m bench gpu`.

The parts of `parts.py` run one after the other, each in a process of its own with a limit of seconds: one
that fails or hangs is noted with its reason, and the others go on. What a part had found by then is kept.
Without a GPU no part runs and every figure stays blank. `--simulate` runs all parts on tiny inputs in Numba's
simulator, to test this script: its times mean nothing, and none is kept.

GOALS is the table of goals for one H100. `engines.py` holds what is timed, `rungs.py` times the ladders,
`profile.py` tells where the time of a step goes, `shared_memory.py` is what compute-sanitizer watches.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench import goals, steps
from bench.bursts import fastest
from bench.goals import Figure, Goal
from bench.record import markdown

__all__ = ["GOALS", "SECONDS", "in_a_process", "measure", "table"]

SECONDS = {  # that a part may take
    "facts": 20,
    "products": 80,
    "steps": 130,
    "profile": 40,
    "ladder": 40,
    "racecheck": 50,
    "memcheck": 50,
    "tests": 160,
}
_TIMED = ("products", "steps", "profile", "ladder")
SIMULATED = "simulated: this tries the script, no figure is kept"


def _ratios(part: str, modes: Sequence[str], engines: Sequence[str]) -> Callable[[Any], list[Figure]]:
    """How many times as long as ours the fastest of `engines` takes."""

    def find(results: Mapping[str, Any]) -> list[Figure]:
        figures = []
        for entry in results.get(part, {}).get("entries", ()):
            name = fastest(entry["engines"], engines)
            if entry["mode"] in modes and name is not None:
                figures.append(Figure(entry["mode"], *entry["engines"][name]["times_first_engine"]))
        return figures

    return find


_CUBLAS = ("cublas by torch", "cublas by cupy")
GOALS = (
    Goal("float32 product of 4096", "cuBLAS float32", 0.6, 0.8, _ratios("products", ["float32"], _CUBLAS)),
    Goal("TF32 product of 4096, mma.sync", "cuBLAS TF32", 0.2, 0.4, _ratios("products", ["tf32"], _CUBLAS)),
    Goal(
        "W3 and R20 step, batch 512",
        "PyTorch eager, TF32 off for both",
        *(0.5, 0.8),
        _ratios("steps", ["W3, batch 512", "R20, batch 512"], ["torch"]),
    ),
    Goal(
        "W2 step, batch 64, as a CUDA graph",
        "PyTorch eager",
        *(1.0, 2.0),
        _ratios("steps", ["W2, batch 64"], ["torch"]),
    ),
)


def measure(*, simulate: bool, only: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the parts (`only`: some of them) and judge the goals."""
    parts: dict[str, Any] = {}
    for name, seconds in SECONDS.items():
        if only is not None and name not in (*only, "facts"):
            continue
        absent = parts["facts"]["error"] if "facts" in parts else None
        if absent:
            parts[name] = {"entries": [], "error": absent, "seconds": 0.0}
            continue
        print(f"{name}: {seconds} s at most ...", file=sys.stderr, flush=True)
        parts[name] = in_a_process(name, seconds, simulate=simulate)
        if simulate and name in _TIMED:
            parts[name]["entries"] = [_without_figures(entry) for entry in parts[name]["entries"]]
    timed = {} if simulate else parts
    return {
        "simulated": simulate,
        "goals": [goals.judged(goal, goal.find(timed)) for goal in GOALS],
        "parts": parts,
    }


def _without_figures(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"mode": entry["mode"], "ran": list(entry.get("engines", ())), "missing": entry.get("missing", {})}


def in_a_process(name: str, seconds: float, *, simulate: bool) -> dict[str, Any]:
    """What a part found, line by line, why it ended early if it did, and how many seconds it took."""
    command = [sys.executable, "-m", "bench.gpu", name, *(["--simulate"] if simulate else [])]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1" if simulate else "0"}
    start, error = time.perf_counter(), None
    with tempfile.TemporaryFile("w+") as found, tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, stdout=found, stderr=said, env=environment, start_new_session=True
        )
        try:
            if process.wait(seconds):
                said.seek(0)
                lines = said.read().strip().splitlines() or [f"it ended with status {process.returncode}"]
                error = lines[-1]
        except subprocess.TimeoutExpired:
            error = f"not finished after {seconds} s"
        finally:
            _end(process)
        found.seek(0)
        entries = [json.loads(line) for line in found if line.endswith("\n")]
    return {"entries": entries, "error": error, "seconds": round(time.perf_counter() - start, 1)}


def _end(process: subprocess.Popen) -> None:
    """End it with the processes that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def table(results: Mapping[str, Any]) -> str:
    """Markdown: the goals, then each part in a few lines."""
    parts = results["parts"]
    absent = parts["facts"]["error"]
    remarks = (
        [SIMULATED]
        if results["simulated"]
        else [f"nothing was measured: {_message(absent)}"]
        if absent
        else []
    )
    texts = [goals.table({"goals": results["goals"], "machines": {}, "missing": remarks})]
    for name, part in ({} if absent else parts).items():
        lines = [f"**{name}** ({part['seconds']:.0f} s)" + (f": {part['error']}" if part["error"] else "")]
        texts.append("\n\n".join([*lines, *_described(name, part["entries"])]))
    return "\n\n".join(texts)


def _message(error: str) -> str:
    """What an error says, without the name of its type."""
    return error.partition(": ")[2] or error


def _described(name: str, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    if not entries:
        return []
    if any("ran" in entry for entry in entries):
        return ["\n".join(f"- {e['mode']}: {', '.join(e['ran']) or 'ran'}" for e in entries)]
    if name in ("products", "steps"):
        rows = [{**entry, "net": "", "threads": "-"} for entry in entries]
        return [steps.table(rows)]
    if name == "ladder":
        rows = [[e["mode"], f"{e['milliseconds']:.3g}", f"{e['gflops']:.0f}"] for e in entries]
        return [markdown(["rung", "ms", "GFLOP/s"], rows)]
    if name == "profile":
        return [_profile(entry) for entry in entries]
    return ["\n".join(f"- {what}: {value}" for entry in entries for what, value in entry.items())]


def _profile(entry: Mapping[str, Any]) -> str:
    """A step's kernels, the longest first."""
    total = sum(kernel["milliseconds"] for kernel in entry["kernels"])
    rows = [
        [k["name"], str(k["launches"]), f"{k['milliseconds']:.3f}", f"{k['milliseconds'] / total:.0%}"]
        for k in entry["kernels"][:15]
    ]
    head = (
        f"{entry['mode']}: {entry['step_ms']:.2f} ms a step, {total:.2f} ms of it in kernels; "
        f"{entry['share_of_gaps']:.0%} are gaps between launches"
    )
    return f"{head}\n\n{markdown(['kernel', 'launches', 'ms', 'of all kernels'], rows)}"
