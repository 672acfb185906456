"""The benchmarks measure what they say: order of bursts, paired ratios, verdicts, tables, who is missing."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bench", reason="the benchmarks are not part of an installed package")

from bench import bursts, deploy, goals, growth, ops, record, startup, steps
from bench.cases import in_minicnn
from bench.worker import Unavailable, Worker, ask_all, start

ROOT = Path(__file__).parent.parent


# Times and ratios


def recorder(name, seconds, log):
    """A stopwatch that notes who was asked and answers with a constant time."""

    def run(count):
        log.append((name, count))
        return [seconds] * count

    return run


def test_bursts_take_turns_and_fill_the_same_time(monkeypatch):
    monkeypatch.setattr(bursts, "PAUSE", 0)
    log = []
    watches = {"fast": recorder("fast", 0.01, log), "slow": recorder("slow", 0.5, log)}
    times = bursts.alternate(watches, rounds=3, burst_seconds=0.1)
    assert log[2:] == [("fast", 10), ("slow", bursts.SHORTEST_BURST)] * 3
    assert [len(rounds) for rounds in times.values()] == [3, 3]


def test_ratios_are_paired_round_by_round():
    # The machine halves its speed in the second round: times spread, ratios do not.
    times = {"ours": [[0.01] * 3, [0.02] * 3], "theirs": [[0.03] * 3, [0.06] * 3]}
    summary = bursts.summarise(times)
    assert summary["theirs"]["times_first_engine"] == [3, 3, 3]
    assert summary["theirs"]["milliseconds"] == [30, 45, 60]
    assert summary["ours"]["times_first_engine"] == [1, 1, 1]


def test_the_best_of_several_engines_is_the_one_with_the_lowest_ratio():
    engines = {
        name: {"times_first_engine": [0, middle, 9]} for name, middle in (("a", 3), ("b", 2), ("c", 1))
    }
    assert bursts.fastest(engines, ["a", "b", "not installed"]) == "b"
    assert bursts.fastest(engines, ["not installed"]) is None


def test_growth_is_told_per_unit_and_against_the_best():
    times = {"small": [[0.002], [0.004]], "large": [[0.010], [0.020]]}
    small, large = growth.per_unit(times, {"small": 1000, "large": 10_000})
    assert small["nanoseconds"] == [2500, 3000, 3500]
    assert small["times_best"] == [2, 2, 2]
    assert large["times_best"] == [1, 1, 1]


def entry(milliseconds, *, missing=None, **place):
    """A result as `steps.compare` gives it, from one round of median times."""
    times = {name: [[1e-3 * value] * 3] for name, value in milliseconds.items()}
    return {"missing": missing or {}, "engines": bursts.summarise(times), **place}


# Tables


def test_the_table_of_deployment_holds_ratios_and_what_the_stopwatch_said():
    results = [
        {
            "kind": "bits",
            "what": "dense 64 x 784 x 300",
            "threads": 1,
            "times_as_fast": [7.0, 8.0, 9.0],
            "ms": {"sgemm": 0.32, "bits": 0.04},
        },
        {"kind": "sparse", "what": "W2", "threads": 2, "notes": [{"words": "3: 90% zeros: kept dense"}]},
    ]
    lines = deploy.table(results).splitlines()
    assert "dense 64 x 784 x 300" in lines[2]
    assert lines[2].endswith("8 (7 to 9) |")
    assert lines[-1] == "- W2, 2 threads, 3: 90% zeros: kept dense"
    bits = next(goal for goal in goals.judge({"deploy": results}) if goal["row"].startswith("XNOR"))
    assert (bits["verdict"], bits["worst"]["middle"]) == ("reached", 8.0)


def test_the_table_of_steps_says_what_is_not_installed():
    missing = {"torch": "PyTorch is not installed", "jax": "its process ended with status 1"}
    result = entry({"minicnn": 10}, missing=missing, net="W1", mode="step", threads=2)
    assert steps.table([result]).splitlines() == [
        "| net     | threads | minicnn ms |      torch ms | jax ms | torch / minicnn | jax / minicnn |",
        "| ------- | ------: | ---------: | ------------: | -----: | --------------: | ------------: |",
        "| W1 step |       2 |      10.00 | not installed |      - |               - |             - |",
        "",
        "- jax: its process ended with status 1",
        "- torch: PyTorch is not installed",
    ]


def test_the_table_of_processes_says_what_is_not_installed():
    table = startup.table([{"what": "a", "seconds": [0.3, 0.1, 0.2]}, {"what": "b", "seconds": []}])
    assert "| a       |          0.20 | 0.10 to 0.30 |" in table
    assert "| b       | not installed |            - |" in table


def test_ops_are_summed_up_by_group_kind_and_algorithm():
    place = {"group": ops.STRIDE_1, "threads": 1}
    results = [
        entry(
            {"minicnn": 1, "minicnn-winograd4": 0.5, "torch": 4, "torch-channels-last": 2},
            **place,
            mode="dX: a",
        ),
        entry({"minicnn": 1, "torch": 8}, **place, mode="dX: b"),
        entry({"minicnn": 1}, **place, mode="dX: c"),
    ]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in ops.summary(results).splitlines()]
    assert lines[2:] == [
        ["3x3, stride 1, dX", "2", "4.00", "2.00", "dX: a, 1 threads"],
        ["3x3, stride 1, dX, F(4x4)", "1", "4.00", "4.00", "dX: a, 1 threads"],
    ]


# Goals


def judged(results, row, against):
    found = [e for e in goals.judge(results) if (e["row"], e["against"]) == (row, against)]
    assert len(found) == 1
    return found[0]


def test_a_goal_for_several_nets_is_judged_by_the_worst_and_by_the_best_peer():
    results = {
        "steps": [
            entry({"minicnn": 10, "torch": 40, "torch-compile": 20}, net="W1", mode="step", threads=1),
            entry({"minicnn": 10, "torch": 24, "torch-compile": 50}, net="W2", mode="step", threads=2),
            entry({"minicnn": 10, "torch": 1}, net="W3", mode="step", threads=1),
        ]
    }
    eager = judged(results, "W1, W2 step", "PyTorch eager")
    assert (eager["worst"]["what"], eager["worst"]["middle"]) == ("W2, 2 threads, torch", 2.4)
    assert eager["verdict"] == "reached"
    best = judged(results, "W1, W2 step", "PyTorch's best")
    assert best["worst"]["what"] == "W1, 1 thread, torch-compile"
    assert best["geometric_mean"] == pytest.approx(np.sqrt(2 * 2.4), abs=1e-3)
    assert judged(results, "W3 step", "PyTorch eager")["verdict"] == "missed: 5% of the goal"


def test_what_is_compared_with_a_missing_engine_is_not_measured():
    results = {
        "steps": [entry({"minicnn": 10}, net="W1", mode="step", threads=1)],
        "memory": [],
        "growth": {},
    }
    assert {e["verdict"] for e in goals.judge(results)} == {"not measured"}
    reasons = {"torch": "PyTorch is not installed"}
    assert goals.missing({"steps": [entry({"minicnn": 1}, missing=reasons)], "growth": {}}) == [
        "torch (steps): PyTorch is not installed"
    ]


@pytest.mark.parametrize(
    ("less", "value", "verdict"),
    [
        (False, 2.5, "stretch goal"),
        (False, 2.0, "reached"),
        (False, 1.5, "missed: 75% of the goal"),
        (True, 1.0, "stretch goal"),
        (True, 1.9, "reached"),
        (True, 4.0, "missed: 50% of the goal"),
    ],
)
def test_verdicts(less, value, verdict):
    goal = goals.Goal("row", "peer", 2.0, 1.0 if less else 2.5, lambda results: [], less=less)
    assert goals.verdict(goal, value) == verdict


def test_memory_and_start_up_are_judged_where_less_is_better():
    results = {
        "memory": [
            {"engine": "minicnn", "net": "W3", "peak_mib": 300.0},
            {"engine": "torch", "net": "W3", "peak_mib": 400.0},
            {"engine": "torch-channels-last", "net": "W3", "unavailable": "broken"},
        ],
        "startup": [
            {"what": "import minicnn", "seconds": [0.1, 0.2]},
            {"what": "import torch", "seconds": [1.0, 1.0]},
            {"what": "first batch of W2, minicnn", "seconds": [1.2, 1.4, 1.3]},
        ],
    }
    memory = judged(results, "peak memory of a W3 step, ours / theirs", "PyTorch's least")
    assert (memory["worst"]["middle"], memory["verdict"]) == (0.75, "reached")
    assert judged(results, "import minicnn", "import torch")["worst"]["middle"] == 7.5
    assert judged(results, "second process: start to first batch of W2", "-")["verdict"] == "reached"


def test_the_table_of_goals_has_a_line_for_each_with_its_unit():
    results = {"startup": [{"what": "first batch of W2, minicnn", "seconds": [0.9, 1.25, 1.3]}]}
    found = {"goals": goals.judge(results), "missing": ["jax (frameworks): none"]}
    found["machines"] = {"startup": "an old one", "ops": "a new one", "steps": "an old one"}
    lines = goals.table(found).splitlines()
    assert len(lines) == 2 + len(goals.GOALS) + 4
    (line,) = [line for line in lines if "second process" in line]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[2:] == ["1.5 s", "1 s", "-", "1.25 s (0.9 s to 1.3 s)", "whole process", "reached"]
    assert lines[-3:] == ["- startup, steps: an old one", "- ops: a new one", "- jax (frameworks): none"]


# Processes

FAKE = """
from bench.worker import Engine, Mode, Unavailable, Wrong

def make(kind):
    if kind == "absent":
        raise Unavailable("Fake is not installed")
    def prepare(mode):
        if mode == "hard":
            raise Wrong("off by a mile")
        if mode == "deadly":
            raise SystemExit(3)
        print("chatter")  # must not disturb the protocol
        return Mode(lambda: None, 1e-6)
    return Engine(prepare, lambda: {"kind": kind})
"""


@pytest.fixture
def fake(tmp_path):
    """Makes workers of an engine that computes nothing."""
    (tmp_path / "fake_engine.py").write_text(FAKE)
    path = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "kernels")])
    return lambda kind: Worker("fake_engine:make", environment={"PYTHONPATH": path}, kind=kind)


def test_engines_that_cannot_are_missing_with_their_reason(fake):
    with ExitStack() as stack:
        workers = {"ours": fake("fine"), "theirs": fake("absent"), "others": fake("fine")}
        ready, missing = start(stack, workers)
        assert list(ready) == ["ours", "others"]
        assert missing == {"theirs": "Fake is not installed"}
        assert ready["ours"].prepare("easy") == 1e-6
        assert len(ready["ours"].times("easy", 4)) == 4
        assert ready["others"].facts() == {"kind": "fine"}
        modes = {ready["ours"]: "easy", ready["others"]: "hard"}
        errors, unable = ask_all(ready, lambda worker: worker.prepare(modes[worker]))
        assert errors == {"ours": 1e-6}
        assert unable == {"others": "off by a mile"}
        with pytest.raises(RuntimeError, match="others cannot be measured: off by a mile"):
            ask_all({"others": ready["others"]}, lambda worker: worker.prepare("hard"))


def test_a_process_that_ends_is_missing_from_then_on(fake):
    with fake("fine") as worker:
        worker.wait_until_ready()
        for mode in ("deadly", "easy"):
            with pytest.raises(Unavailable, match="ended with status 3"):
                worker.prepare(mode)


def test_every_op_has_one_name_and_a_reference():
    cases = [case for group in ops.groups(quick=False).values() for case in group]
    assert len({case.name for case in cases}) == len(cases)
    assert all(callable(in_minicnn(case, "reference", ())) for case in cases)
    quick = [case.name for group in ops.groups(quick=True).values() for case in group]
    assert set(quick) < {case.name for case in cases}


# The command


def test_a_record_holds_the_machine_and_the_command(tmp_path):
    results = [{"quartiles": [1.5, 2, 3], "names": ["a", "b"], "empty": []}]
    path = record.write("steps", record.machine(), results, tmp_path / "deep" / "file.json", quick=True)
    written = json.loads(path.read_text())
    assert written["results"] == results
    assert written["quick"] is True
    assert '"quartiles": [1.5, 2, 3]' in path.read_text().replace("[ ", "[").replace(" ]", "]")
    assert written["command"].startswith("python -m bench")
    assert {"cpu", "vector_features", "cores", "system", "versions"} <= written["machine"].keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nets", "W1,W9"], "unknown name 'W9': expected some of W1, W2, W3, R20"),
        (["--engines", "abacus"], "unknown name 'abacus'"),
        (["steps", "--engines", "ncnn"], "unknown name 'ncnn' for steps: expected some of minicnn, "),
        (["--threads", "0"], "expected a positive integer, got '0'"),
        (["--threads", "100000"], "this machine has"),
        (["--batch", "many"], "expected a positive integer, got 'many'"),
        (["everything"], "invalid choice: 'everything'"),
    ],
)
def test_wrong_options_are_explained(arguments, message):
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", ["steps", "forward", "integers", "growth", "narrow", "memory", "startup", "deploy"]
)
def test_a_short_run_of(what, tmp_path):
    options = ["--nets", "W2", "--threads", "1", "--rounds", "2", "--quick"]
    if what == "integers":
        options += ["--engines", "minicnn-int8,minicnn"]
    elif what not in ("growth", "startup", "deploy"):
        options += ["--engines", "minicnn"]
    path = tmp_path / f"{what}.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", what, *options, "--output", path],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=280,
    )
    assert "W2" in done.stdout
    assert json.loads(path.read_text())["results"]


def test_parts_of_the_goals_that_are_not_measured_anew_keep_their_results():
    memory = [{"net": "W2"}]
    earlier = {"parts": {"ops": [], "memory": memory}, "seconds": {"ops": 9.0, "memory": 8.0}}
    earlier["machines"] = {"ops": "an old one", "memory": "an old one"}
    results = goals.measure({"ops": lambda: []}, "a new one", earlier)
    assert results["machines"] == {"ops": "a new one", "memory": "an old one"}
    assert results["parts"]["memory"] == memory
    assert results["seconds"]["memory"] == 8.0
    assert results["seconds"]["ops"] < 9.0
