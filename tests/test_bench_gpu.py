"""The script for a GPU: what it keeps of parts that fail, its table, the program for compute-sanitizer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from simulated import in_simulator

pytest.importorskip("bench", reason="the benchmarks are not part of an installed package")

from bench import bursts, gpu

ROOT = Path(__file__).parent.parent


def compared(mode, milliseconds):
    times = {name: [[1e-3 * value] * 3] for name, value in milliseconds.items()}
    return {"mode": mode, "missing": {"torch": "none"}, "engines": bursts.summarise(times)}


def test_goals_are_judged_by_the_fastest_of_the_others_and_the_table_shows_every_part(monkeypatch):
    found = {
        "facts": [{"device": "H100"}],
        "products": [compared("float32", {"minicnn": 4, "cublas by torch": 3, "cublas by cupy": 5})],
        "steps": [compared("W3, batch 512", {"minicnn": 10, "torch": 9})],
        "ladder": [{"mode": "tensor cores", "milliseconds": 0.5, "gflops": 274877.9}],
        "profile": [
            {
                "mode": "W3",
                "step_ms": 10.0,
                "share_of_gaps": 0.25,
                "kernels": [{"name": "gemm", "launches": 3, "milliseconds": 7.5}],
            }
        ],
    }

    def part(name, seconds, *, simulate):
        error = None if name in found else "it failed"
        return {"entries": found.get(name, []), "error": error, "seconds": 1.0}

    monkeypatch.setattr(gpu, "in_a_process", part)
    results = gpu.measure(simulate=False)
    verdicts = {goal["row"]: (goal["verdict"], goal.get("worst")) for goal in results["goals"]}
    assert verdicts["float32 product of 4096"][0] == "reached"
    assert verdicts["float32 product of 4096"][1]["middle"] == 0.75
    assert verdicts["TF32 product of 4096, mma.sync"] == ("not measured", None)
    assert verdicts["W3 and R20 step, batch 512"][1]["middle"] == 0.9
    text = gpu.table(results)
    for words in (
        "device: H100",
        "25% are gaps",
        "**memcheck** (1 s): it failed",
        "274878",
        "cublas by torch ms",
    ):
        assert words in text
    simulated = gpu.measure(simulate=True)
    assert {goal["verdict"] for goal in simulated["goals"]} == {"not measured"}
    assert "milliseconds" not in json.dumps(simulated)


def test_a_part_that_fails_or_hangs_says_why():
    assert "KeyError: 'nonsense'" in gpu.in_a_process("nonsense", 60, simulate=True)["error"]
    assert gpu.in_a_process("facts", 0.05, simulate=True)["error"] == "not finished after 0.05 s"


def test_without_a_gpu_every_figure_stays_blank(monkeypatch):
    missing = {"entries": [], "error": "NoDeviceError: no NVIDIA GPU", "seconds": 0.1}
    monkeypatch.setattr(gpu, "in_a_process", lambda name, seconds, *, simulate: missing)
    results = gpu.measure(simulate=False)
    assert {goal["verdict"] for goal in results["goals"]} == {"not measured"}
    assert all(part["error"] == missing["error"] for part in results["parts"].values())
    assert gpu.table(results).endswith("- nothing was measured: no NVIDIA GPU")


def test_the_program_for_the_sanitizer_launches_every_kernel_with_shared_memory():
    assert "kernels that meet in shared memory were launched" in in_simulator(
        "-m", "bench.gpu.shared_memory", threads=2
    )


@pytest.mark.slow
def test_the_whole_script_runs_in_the_simulator(tmp_path):
    path = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "bench", "gpu", "--simulate", "--output", path]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=560)
    parts = json.loads(path.read_text())["results"]["parts"]
    assert {name: part["error"] for name, part in parts.items()} == dict.fromkeys(gpu.SECONDS)
    assert not any(entry.get("errors") for entry in parts["racecheck"]["entries"])
    assert [entry["ran"][0] for part in ("products", "steps") for entry in parts[part]["entries"]] == [
        "minicnn"
    ] * 5
