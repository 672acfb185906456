"""`minicnn deploy`, `run`, `verify` and `inspect`: what a person types, what is left, what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import error_of, write_folder

from minicnn import deploy
from minicnn.cli import main
from minicnn.deploy.container import read, write


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data, a finished training, and what a compression to 4 bits left."""
    folder = tmp_path_factory.mktemp("trained")
    write_folder(folder / "bands")
    arguments = ["train", "--data", str(folder / "bands"), "--output", str(folder / "run"), "--quiet"]
    assert main([*arguments, "--epochs", "2", "--warmup", "0", "--batch-size", "6", "--lr", "0.02"]) == 0
    recipe = folder / "four.toml"
    recipe.write_text(f'data = "{folder / "bands"}"\nepochs = 0\n[[steps]]\ndo = "quantize"\nbits = 4\n')
    checkpoint, output = str(folder / "run" / "checkpoint.npz"), str(folder / "small")
    compress = ["compress", "--recipe", str(recipe), "--quiet"]
    assert main([*compress, "--checkpoint", checkpoint, "--output", output]) == 0
    return folder


@pytest.fixture
def picture(tmp_path):
    """A PNG file of noise."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 255, (20, 24)).astype(np.uint8)
    image.fromarray(pixels).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def test_what_sparse_kernels_are_worth_is_measured_and_said(trained, tmp_path, capsys):
    recipe, file = tmp_path / "sparse.toml", str(tmp_path / "sparse.mcnn")
    recipe.write_text(f'data = "{trained / "bands"}"\nepochs = 0\n[[steps]]\ndo = "prune"\nrate = 0.9\n')
    checkpoint, output = str(trained / "run" / "checkpoint.npz"), str(tmp_path / "sparse")
    assert (
        main(["compress", "--recipe", str(recipe), "--quiet", "--checkpoint", checkpoint, "--output", output])
        == 0
    )
    capsys.readouterr()
    assert main(["deploy", "--checkpoint", f"{output}/model.npz", "--output", file, "--limit", "4"]) == 0
    said = capsys.readouterr().out
    sentence = next(line for line in said.splitlines() if "fc1: " in line and "zeros, sparse rows" in line)
    assert main(["inspect", file]) == 0
    assert "stopwatch:\n" in (shown := capsys.readouterr().out)
    assert f"  {sentence}\n" in shown
    assert main(["verify", file, "--checkpoint", f"{output}/model.npz"]) == 0


def test_a_compressed_model_is_deployed_verified_and_run(trained, tmp_path, picture, capsys):
    file, model = str(tmp_path / "small.mcnn"), str(trained / "small" / "model.npz")
    assert main(["deploy", "--checkpoint", model, "--output", file]) == 0
    said = capsys.readouterr().out
    assert f"{file}: {Path(file).stat().st_size:,} bytes" in said
    assert "steps on integers" in said

    assert main(["verify", file, "--checkpoint", model]) == 0
    said = capsys.readouterr().out
    assert "reference: 20 of 20 images equal" in said
    assert said.endswith("answers like the model, bit for bit\n")

    assert main(["run", file, picture, "--invert", "no", "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)
    assert main(["predict", model, picture, "--invert", "no", "--json"]) == 0
    theirs = json.loads(capsys.readouterr().out)
    assert ours["file"] == theirs["file"]
    assert ours["classes"] == pytest.approx(theirs["classes"])


def test_a_deployed_file_carries_what_it_costs_and_pick_reads_it(trained, tmp_path, capsys):
    model, dense = str(trained / "small" / "model.npz"), str(trained / "run" / "checkpoint.npz")
    file = tmp_path / "small.mcnn"
    assert main(["deploy", "--checkpoint", model, "--output", str(file), "--before", dense]) == 0
    said = capsys.readouterr().out
    assert "peak MiB" in said
    report = json.loads((tmp_path / "small.report.json").read_text())
    assert report["file"]["bytes"] == file.stat().st_size
    assert report["before"]["bytes"] > report["file"]["bytes"]
    assert report["damage"]["images"] == report["file"]["images"] == 20
    assert (tmp_path / "small.report.html").exists()
    stored = deploy.load(file).about["report"]
    assert stored == {key: value for key, value in report["file"].items() if key != "bytes"}
    assert main(["pick", str(tmp_path), "--json"]) == 0
    picked = json.loads(capsys.readouterr().out)
    assert picked["picked"] == str(file)
    assert picked["files"][str(file)]["latency_ms"] == stored["latency"][0]["median_ms"]
    assert main(["verify", str(file), "--checkpoint", model]) == 0


def test_a_model_of_floats_is_quantized_on_the_way(trained, tmp_path, capsys):
    checkpoint, file = str(trained / "run" / "checkpoint.npz"), str(tmp_path / "w.mcnn")
    assert (
        main(
            [
                "deploy",
                "--checkpoint",
                checkpoint,
                "--bits",
                "8",
                "--calibration",
                "20",
                "--output",
                file,
                "--no-report",
            ]
        )
        == 0
    )
    assert f"{tmp_path / 'w.npz'}: the model on lattices" in capsys.readouterr().out
    verify = ["verify", file, "--checkpoint", str(tmp_path / "w.npz"), "--images", "7", "--json"]
    assert main(verify) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["equal"]
    assert found["exact"]
    assert {route["images"] for route in found["routes"]} == {7}


def test_without_bits_it_stays_in_floats(trained, tmp_path, capsys):
    checkpoint, file = str(trained / "run" / "checkpoint.npz"), str(tmp_path / "w.mcnn")
    assert main(["deploy", "--checkpoint", checkpoint, "--output", file, "--no-huffman", "--no-report"]) == 0
    assert "0 of" in capsys.readouterr().out
    assert main(["verify", file, "--checkpoint", checkpoint]) == 0
    assert "up to rounding" in capsys.readouterr().out


def test_inspect_shows_layers_arrays_and_bytes(trained, tmp_path, capsys):
    file, model = str(tmp_path / "small.mcnn"), str(trained / "small" / "model.npz")
    main(["deploy", "--checkpoint", model, "--output", file, "--no-report"])
    capsys.readouterr()
    assert main(["inspect", file]) == 0
    shown = capsys.readouterr().out
    assert "fc1" in shown
    assert "uint8" in shown
    assert f"{Path(file).stat().st_size:,} bytes" in shown
    assert main(["inspect", file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    weights = {a["name"]: a for layer in found["layers"] for a in layer["arrays"] if layer["layer"] == "fc1"}
    largest = max(weights.values(), key=lambda array: array["elements"])
    assert largest["shape"] == [128, 576]
    assert largest["bits"] <= 4
    assert found["bytes"] == found["totals"]["array_bytes"] + found["totals"]["header_bytes"]
    assert found["about"]["class_names"] == deploy.load(file).about["class_names"]


def test_a_file_that_answers_differently_is_told_with_the_layer(trained, tmp_path, capsys):
    file, model = str(tmp_path / "small.mcnn"), str(trained / "small" / "model.npz")
    main(["deploy", "--checkpoint", model, "--output", file, "--no-report"])
    meta, arrays = read(file)
    name = next(n for n, array in arrays.items() if array.shape == (128, 576))
    arrays[name][:, 100] *= -1
    write(file, meta, arrays)
    capsys.readouterr()
    assert main(["verify", file, "--checkpoint", model]) == 1
    said = capsys.readouterr().out
    assert "first difference: 'fc1', image " in said
    assert "does NOT answer like the model" in said


def test_what_is_wrong_is_told_in_one_line(trained, tmp_path, picture, capsys):
    file, model = str(tmp_path / "small.mcnn"), str(trained / "small" / "model.npz")
    main(["deploy", "--checkpoint", model, "--output", file, "--no-report"])
    capsys.readouterr()
    assert "holds a quantized model already" in error_of(
        capsys, ["deploy", "--checkpoint", model, "--bits", "4"]
    )
    assert "no such file" in error_of(capsys, ["deploy", "--checkpoint", str(tmp_path / "none.npz")])
    assert "No such file" in error_of(capsys, ["run", str(tmp_path / "none.mcnn"), picture])
    assert "does not begin like one" in error_of(capsys, ["inspect", picture])
    meta, arrays = read(file)
    write(tmp_path / "bare.mcnn", meta | {"about": {}}, arrays)
    assert "does not say its classes" in error_of(capsys, ["run", str(tmp_path / "bare.mcnn"), picture])
    write(tmp_path / "odd.mcnn", meta | {"about": meta["about"] | {"class_names": ["one"]}}, arrays)
    assert "1 names of classes" in error_of(capsys, ["run", str(tmp_path / "odd.mcnn"), picture])
    other = ["verify", file, "--checkpoint", model, "--data", "fashion-mnist"]
    assert "it takes images (1, 12, 12)" in error_of(capsys, other)
