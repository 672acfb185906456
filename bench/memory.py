"""Peak memory of a training step, one fresh process per engine (Linux: it reads /proc/self/status)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.record import markdown

_STEPS = 5


def child(engine: str, net: str, batch: int, threads: int) -> None:
    """Run some steps and print, in MiB, the memory before them and the peak after them."""
    from bench.engines import make
    from bench.worker import Unavailable

    try:
        step = make(engine, net, batch=batch, threads=threads).prepare("step").run
    except Unavailable as error:
        print(json.dumps({"unavailable": str(error)}))
        return
    before = _status("VmRSS")
    for _ in range(_STEPS):
        step()
    print(json.dumps({"before_mib": before, "peak_mib": _status("VmHWM")}))


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return round(int(line.split()[1]) / 1024, 1)
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure(engines: Sequence[str], *, net: str, batch: int, threads: int) -> list[dict[str, Any]]:
    """Per engine, memory before the steps and at its peak, in MiB."""
    results = []
    for engine in engines:
        program = f"from bench.memory import child; child({engine!r}, {net!r}, {batch}, {threads})"
        for _ in range(2):  # the first run compiles kernels, which is not what is asked
            done = subprocess.run(
                [sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True
            )
        entry = {"engine": engine, "net": net, "batch": batch, "threads": threads}
        results.append(entry | json.loads(done.stdout.splitlines()[-1]))
    return results


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: MiB of the whole process at its peak, before the first step, and the difference."""
    rows = []
    for entry in results:
        name = f"{entry['net']} step, {entry['engine']}"
        if "unavailable" in entry:
            rows.append([name, "not installed", "-", "-"])
        else:
            peak, before = entry["peak_mib"], entry["before_mib"]
            rows.append([name, f"{peak:.0f}", f"{before:.0f}", f"{peak - before:.0f}"])
    return markdown(["process", "peak MiB", "before the steps", "grown by"], rows)
