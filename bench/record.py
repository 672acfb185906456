"""What a result needs beside its numbers: the machine, versions, the command; and how it is written down."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_OURS = ("numpy", "numba", "llvmlite", "scipy")
_PEERS = ("torch", "onnx", "onnxruntime", "openvino", "ai-edge-litert", "ncnn", "jax", "tinygrad", "dezero")
_VECTOR_FEATURES = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512", "amx", "asimd", "sve")


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """The processor, its vector extensions, cores, memory, system and library versions."""
    model, flags = _cpuinfo()
    facts: dict[str, Any] = {
        "cpu": model,
        "vector_features": [flag for flag in flags if flag.startswith(_VECTOR_FEATURES)],
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **versions((*_OURS, *_PEERS))},
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    if hasattr(os, "getloadavg"):
        facts["load_average_before"] = round(os.getloadavg()[0], 2)
    return facts


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpuinfo() -> tuple[str, list[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), []
    entries = dict(line.replace("\t", "").split(":", 1) for line in reversed(lines) if ":" in line)
    model = entries.get("model name", platform.processor() or platform.machine()).strip()
    return model, sorted((entries.get("flags") or entries.get("Features") or "").split())


def write(
    name: str, machine_facts: dict[str, Any], results: Any, path: Path | None = None, *, quick: bool = False
) -> Path:
    """Write results as JSON to `path`, default `bench/results/NAME-TIME.json`. Returns the path.

    quick: whether it is a short run, whose figures are rough.
    """
    now = datetime.now(UTC)
    if path is None:
        path = RESULTS / f"{name}-{now:%Y%m%d-%H%M%S}.json"
    record = {
        "benchmark": name,
        "date": now.isoformat(timespec="seconds"),
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
        "quick": quick,
        "machine": machine_facts,
        "results": results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_json(record) + "\n", encoding="utf-8")
    return path


def read(name: str) -> Any:
    """The results of the record `bench/results/NAME.json`. Raises FileNotFoundError if there is none."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["results"]


def _json(record: Any) -> str:
    """Indented JSON with lists of numbers and words on one line."""
    text = json.dumps(record, indent=1)
    return re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text)


def describe(facts: dict[str, Any]) -> str:
    """One line about the machine for the head of a table."""
    widest = "no AVX-512"
    if any(flag.startswith("avx512") for flag in facts["vector_features"]):
        widest = "AVX-512"
    names = ", ".join(f"{package} {number}" for package, number in facts["versions"].items())
    return f"{facts['cpu']} ({facts['cores']} cores, {widest}), {facts['system']}; {names}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with aligned columns; the first is left-aligned, the others right."""
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    table.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
