"""The parts of `python -m bench gpu`: functions that yield what they find, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench import record, steps
from bench.gpu import profile
from bench.gpu.engines import PRODUCT_ENGINES, STEP_ENGINES
from bench.worker import Worker

ROOT = Path(__file__).parent.parent.parent
Findings = Iterator[dict[str, Any]]
_PACKAGES = ("numba-cuda", "cuda-core", "nvidia-nvvm", "torch", "cupy-cuda13x", "cupy-cuda12x")


def facts(simulate: bool) -> Findings:
    """The device, its driver and the versions of what compiles for it. Raises what is missing."""
    from minicnn_kernels.cuda import driver

    driver.require_device()
    if simulate:
        yield {"device": "Numba's simulator"}
        return
    device = driver.cuda.get_current_device()
    major, minor = device.compute_capability
    yield {
        "device": device.name.decode() if isinstance(device.name, bytes) else device.name,
        "compute capability": f"{major}.{minor}",
        "multiprocessors": device.MULTIPROCESSOR_COUNT,
        "versions": record.versions(_PACKAGES),
    }
    if shutil.which("nvidia-smi"):
        asked = "driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit,persistence_mode"
        command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        first = answer.splitlines()[0].split(", ")
        yield dict(zip(asked.split(","), first, strict=True))


def products(simulate: bool) -> Findings:
    """Matrix products of ours and cuBLAS."""
    for precision in ("float32", "tf32"):
        arguments = {"size": 8 if simulate else 4096, "precision": precision}
        workers = {name: Worker("bench.gpu.engines:make_product", name=name, **arguments)
                   for name in PRODUCT_ENGINES}  # fmt: skip
        yield _compared(workers, precision, simulate)


def training(simulate: bool) -> Findings:
    """Training steps of ours and PyTorch."""
    for net, batch in (("W3", 512), ("R20", 512), ("W2", 64)):
        mode = f"{net}, batch {batch}"
        arguments = {"net": "tiny" if simulate else net, "batch": 2 if simulate else batch}
        workers = {name: Worker("bench.gpu.engines:make_step", name=name, **arguments)
                   for name in STEP_ENGINES}  # fmt: skip
        yield _compared(workers, mode, simulate)


def _compared(workers: dict[str, Worker], mode: str, simulate: bool) -> dict[str, Any]:
    pace = {"rounds": 1, "burst_seconds": 0.0} if simulate else {"rounds": 8, "burst_seconds": 0.4}
    try:
        return steps.compare(workers, [mode], mode, **pace)[0]
    except RuntimeError as error:  # ours failed: the next comparison may go well
        return {"mode": mode, "engines": {}, "missing": {next(iter(workers)): str(error)}}


def profiles(simulate: bool) -> Findings:
    """Where the time of a step goes."""
    for net, batch in (("W3", 512), ("W2", 64)):
        name, count = ("tiny", 2) if simulate else (net, batch)
        yield {"mode": f"{net}, batch {batch}", **profile.of_step(name, count)}


def rungs(simulate: bool) -> Findings:
    """The ladders from one thread a result to tensor cores."""
    from bench.gpu.rungs import measure  # loads the ladders' kernels

    yield from measure(simulate)


def sanitizer(tool: str) -> Callable[[bool], Findings]:
    """The program of `shared_memory.py` under a tool of compute-sanitizer; simulated, under our own watch."""

    def run(simulate: bool) -> Findings:
        program = [sys.executable, "-m", "bench.gpu.shared_memory"]
        environment = dict(os.environ)
        if simulate:
            environment["MINICNN_SIMULATED_THREADS"] = "2"
        elif shutil.which("compute-sanitizer") is None:
            raise RuntimeError("compute-sanitizer is not on the PATH")
        else:
            program = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *program]
        done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).strip().splitlines()
        yield {"verdict": lines[-1] if lines else "silence", "errors": bool(done.returncode)}

    return run


_SHARDS = 8  # processes: each compiles the kernels that its rows need


def tests(simulate: bool) -> Findings:
    """The op table on the device, every row and edge against the reference; then small nets, one trained."""
    rows = "relu and equal_to_the_reference" if simulate else "equal_to_the_reference"
    environment = {**os.environ, "MINICNN_TEST_BACKENDS": "sim" if simulate else "cuda"}
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    table = [*pytest, "tests/test_functions.py", "-m", "not peers", "-k", rows]
    listed = subprocess.run(
        [*table, "--collect-only"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    names = [line for line in listed.stdout.splitlines() if "::" in line]
    shards = min(_SHARDS, max(record.available_cores() // 2, 1))
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for shard in range(shards):
            chosen, report = Path(folder, f"{shard}.txt"), Path(folder, f"{shard}.xml")
            chosen.write_text("\n".join(names[shard::shards]), encoding="utf-8")
            running.append(
                subprocess.Popen(
                    [*pytest, f"@{chosen}", f"--junitxml={report}"],
                    cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
            )  # fmt: skip
        for process in running:
            process.wait()
        cases = [case for path in sorted(Path(folder).glob("*.xml")) for case in _cases(path)]
    failed = sorted(case.get("name", "") for case in cases if _failed(case))
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - len(failed) - skipped
    yield {"op table": f"{passed} passed, {skipped} skipped, {len(failed)} failed of {len(names)}"}
    if failed:
        yield {"failed": failed}
    for what, program in (
        ("rungs of the ladders, the last that was right", "tests/cuda_ladder.py"),
        ("losses of a small net, [host, device] by optimizer", "tests/cuda_step.py"),
        ("layers and files of quantized nets, bit for bit", "tests/cuda_lattice.py"),
    ):
        done = subprocess.run(
            [sys.executable, program], cwd=ROOT, capture_output=True, text=True, check=False
        )
        answer = done.stdout.strip() if done.returncode == 0 else done.stderr.strip()
        yield {what: answer.splitlines()[-1]}


def _cases(path: Path) -> list[ElementTree.Element]:
    return list(ElementTree.parse(path).getroot().iter("testcase"))


def _failed(case: ElementTree.Element) -> bool:
    return case.find("failure") is not None or case.find("error") is not None


PARTS: dict[str, Callable[[bool], Findings]] = {
    "facts": facts,
    "products": products,
    "steps": training,
    "profile": profiles,
    "ladder": rungs,
    "racecheck": sanitizer("racecheck"),
    "memcheck": sanitizer("memcheck"),
    "tests": tests,
}
