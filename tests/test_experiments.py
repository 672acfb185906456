"""Experiments keep what is finished, go on from there, and say what they compare with what."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_cli import write_folder

pytest.importorskip("bench", reason="the benchmarks are not part of an installed package")

from bench.experiments import deep_compression, fashion, lenet, rows
from bench.experiments.deployed import count_errors, deployed
from bench.experiments.record import Record, across
from bench.experiments.rows import Options, Row, run_rows, table
from minicnn.compress.recipe import Distill, Prune, Recipe

ROOT = Path(__file__).parent.parent


def lines(folder):
    """A dense network, one pruned from it, and a student of it."""
    base = {"data": str(folder), "epochs": 1, "batch_size": 10, "lr": 0.02, "warmup": 0, "augment": []}
    base |= {"model_options": {"width": 0.25}, "report": ("json",)}
    return [
        Row("dense", Recipe(**base)),
        Row("pruned", Recipe(**base, steps=(Prune(rate=0.5, start=0),)), base="dense", goal="0.5"),
        Row("student", Recipe(**base, steps=(Distill(teacher="dense"),)), teacher="dense"),
    ]


def test_finished_rows_are_kept_and_not_run_again(tmp_path, monkeypatch, capsys):
    plan = lines(write_folder(tmp_path / "bands"))
    options = Options(seeds=2, work=tmp_path / "work")
    path = tmp_path / "record.json"
    run_rows(plan[:2], Record(path, options.settings()), Options(seeds=1, work=options.work))
    first = json.loads(path.read_text())["rows"]
    assert first.keys() == {"dense", "pruned"}

    count, original = [0], rows.run_recipe
    monkeypatch.setattr(rows, "run_recipe", lambda *a, **k: (count.append(1), original(*a, **k))[1])
    record = Record(path, options.settings())
    run_rows(plan, record, options)
    assert sum(count) == 1 + 3  # the student of the first seed, and all of the second
    held = json.loads(path.read_text())["rows"]
    assert {(name, seed) for name in held for seed in held[name]} == {
        (name, seed) for name in ("dense", "pruned", "student") for seed in ("0", "1")
    }
    assert held["dense"]["0"] == first["dense"]["0"]
    assert held["pruned"]["0"]["total"]["nonzeros"] < held["dense"]["0"]["total"]["nonzeros"]
    text = table(plan, record)
    assert [cell.strip() for cell in text.splitlines()[0].split("|")][2:5] == [
        "seeds",
        "accuracy, %",
        "points",
    ]
    assert "| pruned" in text


def test_a_row_whose_recipe_changed_is_run_again(tmp_path, capsys):
    plan = lines(write_folder(tmp_path / "bands"))[:2]
    options = Options(seeds=1, work=tmp_path / "work")
    record = Record(tmp_path / "record.json", options.settings())
    run_rows(plan, record, options)
    before = {name: record.get(name, 0) for name in ("dense", "pruned")}
    steps = (Prune(rate=0.8, start=0),)
    run_rows([plan[0], replace(plan[1], recipe=replace(plan[1].recipe, steps=steps))], record, options)
    assert record.get("dense", 0) == before["dense"]
    assert record.get("pruned", 0)["total"]["nonzeros"] < before["pruned"]["total"]["nonzeros"]


def test_results_of_other_settings_are_not_mixed(tmp_path):
    Record(tmp_path / "a.json", {"epochs": 1}).add("dense", 0, {"accuracy": 0.5})
    assert Record(tmp_path / "a.json", {"epochs": 1}).get("dense", 0) == {"accuracy": 0.5}
    with pytest.raises(ValueError, match=r"holds results for {'epochs': 1}, not for {'epochs': 2}"):
        Record(tmp_path / "a.json", {"epochs": 2})


def test_mean_and_deviation_over_seeds():
    seeds = {"0": {"x": 1.0}, "1": {"x": 3.0}}
    assert across(seeds, lambda numbers: numbers["x"]) == (2.0, pytest.approx(2**0.5))
    assert across({"0": {"x": 1.0}}, lambda numbers: numbers["x"]) == (1.0, 0.0)


def test_a_deployed_row_counts_what_its_file_gets_wrong(tmp_path, capsys):
    plan = lines(write_folder(tmp_path / "bands"))[:2]
    options = Options(seeds=1, work=tmp_path / "work")
    record = Record(tmp_path / "record.json", options.settings())
    run_rows(plan, record, options)
    known = {row.name: row for row in plan}
    dense, pruned = (count_errors(deployed(row, 0, known, record, options)) for row in plan)
    numbers = record.get("pruned", 0)
    assert pruned["images"] == numbers["images"]
    assert pruned["errors"] == round((1 - numbers["accuracy"]) * numbers["images"])
    assert pruned["bytes"] == next((tmp_path / "work").glob("pruned-*/seed-0/*.mcnn")).stat().st_size
    assert pruned["bytes"] < 0.7 * dense["bytes"]


@pytest.mark.parametrize("experiment", [fashion, lenet, deep_compression])
def test_every_row_begins_with_one_that_comes_before(experiment):
    known = set()
    for row in experiment.rows(Options(seeds=1, work=Path(), data="mnist")):
        assert {row.base, row.teacher} - {None} <= known
        assert "," not in row.name  # names are chosen by a list with commas
        known.add(row.name)


def test_experiments_on_mnist_ask_for_it():
    done = subprocess.run(
        [sys.executable, "-m", "bench.experiments", "lenet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "lenet needs --data DIR" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "name", ["fashion", "pareto", "lenet", "deep-compression", "lottery", "hinton", "binary"]
)
def test_a_quick_run_of_everything(name, tmp_path):
    folder = write_folder(tmp_path / "digits", train=400, test=100, size=28, classes=7)
    done = subprocess.run(
        [sys.executable, "-m", "bench.experiments", name, "--quick", "--data", folder, "--work", tmp_path],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=1140,
    )
    assert any(column in done.stdout for column in ("| seeds", "by seed", "unbeaten |"))
    assert str(folder) not in (tmp_path / f"{name}-quick" / f"{name}-quick.md").read_text()
