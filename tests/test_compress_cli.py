"""`minicnn compress`, `sensitivity` and `search`: what a person types, what is left, what is wrong."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from test_cli import error_of, interrupt_after, write_folder

from minicnn.cli import main
from minicnn.compress.model_file import load_trained
from minicnn.compress.recipe import load_recipe, recipe_names

RECIPE = """
data = "bands"
epochs = 3
batch_size = 10
lr = 0.02
warmup = 0
augment = []
description = "half of it"

[[steps]]
do = "prune"
rate = 0.5
start = 1
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working folder with a small data set and a recipe; gives the arguments of a short compression."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "bands")
    Path("half.toml").write_text(RECIPE)
    return ["compress", "--recipe", "half.toml"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data and a finished training."""
    folder = tmp_path_factory.mktemp("trained")
    write_folder(folder / "bands")
    arguments = ["train", "--data", str(folder / "bands"), "--output", str(folder / "run"), "--quiet"]
    assert main([*arguments, "--epochs", "2", "--warmup", "0", "--batch-size", "6", "--lr", "0.02"]) == 0
    return folder


def test_compress_leaves_a_model_a_report_and_a_table(work, capsys):
    assert main(work) == 0
    out, err = capsys.readouterr()
    folder = Path("runs/half-bands")
    reports = {"report.md", "report.json", "report.html"}
    assert {"checkpoint.npz", "metrics.jsonl", "model.npz"} | reports == set(os.listdir(folder))
    assert "after epoch 1: prune, rate = 0.5" in err
    assert "epoch 3/3" in err
    assert "computed bytes" in out
    assert "conv2" in out
    report = json.loads((folder / "report.json").read_text())
    assert report["before"]["epochs"] == 1
    zeros = report["after"]["total"]["parameters"] - report["after"]["total"]["nonzeros"]
    assert zeros == sum(round(0.5 * size) for size in (9 * 32, 9 * 32 * 64, 576 * 128, 128 * 3))

    assert main(["evaluate", str(folder / "model.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == report["after"]["accuracy"]


def test_a_trained_checkpoint_is_compressed_and_compared(work, trained, capsys):
    Path("int8.toml").write_text(f'data = "{trained / "bands"}"\nepochs = 0\n[[steps]]\ndo = "quantize"\n')
    checkpoint = ["--checkpoint", str(trained / "run" / "checkpoint.npz")]
    assert main(["compress", "--recipe", "int8.toml", "--output", "int8", "--quiet", *checkpoint]) == 0
    short = [*work, "--data", str(trained / "bands"), "--quiet"]
    assert main([*short, *checkpoint, "--output", "half", "--compare", "int8"]) == 0
    report = json.loads(Path("half/report.json").read_text())
    assert report["before"]["epochs"] == 1
    assert set(report["compare"]) == {"int8"}
    assert "| int8" in Path("half/report.md").read_text()
    assert capsys.readouterr().out == ""


def test_ctrl_c_says_how_to_go_on_and_the_resumed_model_is_the_same(work, capsys, monkeypatch):
    assert main([*work, "--quiet", "--output", "whole"]) == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, 14)
        line = error_of(capsys, [*work, "--output", "halved"], status=130)
    assert line.endswith("minicnn compress --recipe half.toml --resume --output halved")
    assert main([*work, "--resume", "--output", "halved", "--quiet"]) == 0
    whole, halved = (load_trained(f"{name}/model.npz")[0].state_dict() for name in ("whole", "halved"))
    for name, value in whole.items():
        np.testing.assert_array_equal(halved[name].numpy(), value.numpy(), err_msg=name)


def test_help_names_the_recipes_of_the_package(capsys):
    with pytest.raises(SystemExit):
        main(["compress", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(name in text for name in recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_of_the_package_run(name, work):
    assert main(["compress", "--recipe", name, "--limit", "64", "--output", "out", "--quiet"]) == 0
    report = json.loads(Path("out/report.json").read_text())
    assert report["after"]["total"]["bytes"] < 0.15 * report["before"]["total"]["bytes"]


def test_results_are_never_overwritten(work, capsys):
    for folder in ("half-bands", "half-bands-2"):
        assert main([*work, "--quiet"]) == 0
        assert Path("runs", folder, "model.npz").exists()
    line = error_of(capsys, [*work, "--output", "runs/half-bands"])
    assert "holds a training already; go on with --resume" in line


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["compress"], "required: --recipe"),
        (["compress", "--recipe", "prune-9"], "did you mean prune-90?"),
        (["compress", "--recipe", "nowhere.toml"], "there is no such file"),
        (["compress", "--recipe", "wrong.toml"], "unknown key 'epoch'; did you mean epochs?"),
        (["compress", "--recipe", "half.toml", "--resum"], "unknown option --resum; did you mean --resume?"),
        (
            ["compress", "--recipe", "half.toml", "--compare", "bands"],
            "expected a folder with the report.json",
        ),
        (["compress", "--recipe", "half.toml", "--checkpoint", "a.npz"], "there is no such file"),
        (["compress", "--recipe", "half.toml", "--data", "nowhere"], "there is no such folder"),
        (["compress", "--recipe", "layer.toml"], "has no layer 'conv3'"),
        (["sensitivity"], "required: --checkpoint"),
        (["sensitivity", "--checkpoint", "a.npz"], "there is no such file"),
        (["sensitivity", "--checkpoint", "a.npz", "--rates", "0.5,1"], "below 1, got '1'"),
        (["search"], "required: --space"),
        (["search", "--space", "nowhere.toml"], "nowhere.toml: No such file"),
        (["search", "--space", "half.toml"], "expected a table [space]"),
        (["search", "--space", "space.toml"], "'steps.2.rate' leads nowhere: there is no '2'"),
    ],
)
def test_wrong_options(work, capsys, arguments, expected):
    Path("wrong.toml").write_text("epoch = 3")
    Path("layer.toml").write_text(RECIPE + 'layers = ["conv3"]')
    Path("space.toml").write_text(RECIPE + '[space]\n"steps.2.rate" = [0.5]')
    assert expected in error_of(capsys, arguments)


def test_a_checkpoint_of_another_recipe_is_refused(work, capsys):
    assert main([*work, "--quiet", "--output", "out"]) == 0
    Path("half.toml").write_text(RECIPE.replace("0.5", "0.6"))
    line = error_of(capsys, [*work, "--resume", "--output", "out"])
    assert "belongs to another recipe: steps.1.rate is 0.5 in the checkpoint and 0.6 here" in line


def test_sensitivity_prints_a_table_and_picks_rates(trained, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    checkpoint = trained / "run" / "checkpoint.npz"
    before = checkpoint.read_bytes()
    arguments = ["sensitivity", "--checkpoint", str(checkpoint), "--rates", "0.5,0.99", "--max-drop", "0.1"]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    out, _ = capsys.readouterr()
    assert "accuracy on 60 training images with one layer pruned at a time" in out
    result = json.loads((tmp_path / "sensitivity.json").read_text())
    assert [(row["layer"], row["rate"]) for row in result["rows"][:2]] == [("conv1", 0.5), ("conv1", 0.99)]
    assert set(result["picked"]) == {"conv1", "conv2", "fc1", "fc2"}
    assert (tmp_path / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    assert checkpoint.read_bytes() == before

    step = out[out.index("[[steps]]") : out.index("\n\nin ")]
    (tmp_path / "picked.toml").write_text(step)
    assert load_recipe(str(tmp_path / "picked.toml")).steps[0].rate == result["picked"]


def test_search_tries_settings_on_held_out_images(work, capsys):
    Path("space.toml").write_text(
        RECIPE + 'layers = ["fc1"]\n[space]\n"steps.1.rate" = [0.5, 0.9]\nlr = [0.02, 1e9]'
    )
    assert main(["search", "--space", "space.toml", "--output", "out"]) == 0
    out, err = capsys.readouterr()
    trials = json.loads(Path("out/search.json").read_text())
    assert [trial["setting"]["steps.1.rate"] for trial in trials] == [0.5, 0.5, 0.9, 0.9]
    assert [trial["error"] is None for trial in trials] == [True, False, True, False]
    assert trials[2]["results"]["nonzeros"] < trials[0]["results"]["nonzeros"]
    assert "4/4  steps.1.rate = 0.9, lr = 1000000000.0: TrainingError" in err
    assert "Not beaten in both accuracy and bytes" in out
    assert out.startswith(Path("out/search.md").read_text())
