"""The benchmarks measure what they say: order of bursts, paired ratios, tables, one real short run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("bench", reason="the benchmarks are not part of an installed package")

from bench import bursts, record, startup, steps

ROOT = Path(__file__).parent.parent


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


def test_the_table_of_steps_says_what_is_not_installed():
    entry = {
        "net": "W1",
        "mode": "step",
        "threads": 2,
        "missing": {"torch": "PyTorch is not installed", "jax": "its process ended with status 1"},
        "engines": bursts.summarise({"minicnn": [[0.01, 0.01]]}),
    }
    assert steps.table([entry]).splitlines() == [
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


def test_a_record_holds_the_machine_and_the_command(tmp_path):
    path = record.write("steps", record.machine(), [1, 2], tmp_path / "deep" / "file.json")
    written = json.loads(path.read_text())
    assert written["results"] == [1, 2]
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
def test_a_short_run_of_everything(tmp_path):
    for what in ("steps", "memory", "startup"):
        options = ["--nets", "W2", "--engines", "minicnn", "--threads", "1", "--rounds", "2", "--quick"]
        path = tmp_path / f"{what}.json"
        done = subprocess.run(
            [sys.executable, "-m", "bench", what, *options, "--output", path],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=280,
        )
        assert "| minicnn" in done.stdout or "minicnn |" in done.stdout or "import minicnn" in done.stdout
        assert json.loads(path.read_text())["results"]
