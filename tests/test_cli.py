"""The command line: what a person types, what comes back, and one clear line for everything that is wrong."""

import errno
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn import serialization
from minicnn.cli import main
from minicnn.training import TrainingInterrupted, load_checkpoint
from minicnn.training.options import DEFAULTS, make_scheduler

ROOT = Path(__file__).parents[1]


def write_idx(path, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_folder(folder, *, train=60, test=20, size=12, classes=3):
    """A data set that a net learns at once: class k is a bright band in rows 4k to 4k + 3."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", train), ("t10k", test)):
        labels = np.arange(n) % classes
        images = rng.integers(0, 80, (n, size, size))
        for image, label in zip(images, labels, strict=True):
            image[4 * label : 4 * label + 4] += 150
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return folder


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working folder with a small data set beside it; gives the arguments of a short training."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "bands")
    return [
        "train",
        "--data",
        "bands",
        "--epochs",
        "2",
        "--batch-size",
        "10",
        "--lr",
        "0.01",
        "--warmup",
        "0",
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data and a finished training."""
    folder = tmp_path_factory.mktemp("trained")
    write_folder(folder / "bands")
    arguments = ["train", "--data", str(folder / "bands"), "--output", str(folder / "run"), "--quiet"]
    assert main([*arguments, "--epochs", "3", "--batch-size", "6", "--lr", "0.02", "--augment", "none"]) == 0
    return folder


def error_of(capsys, arguments, status=2):
    """The one line on stderr of a command that must fail."""
    try:
        got = main([str(argument) for argument in arguments])
    except SystemExit as error:  # argparse ends the process itself
        got = error.code
    lines = capsys.readouterr().err.splitlines()
    assert got == status, lines
    assert lines[-1].startswith("minicnn: error: ") or status == 130
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


def test_train_leaves_checkpoint_metrics_result_picture_and_a_table(work, capsys):
    pytest.importorskip("matplotlib")
    assert main([*work, "--output", "out"]) == 0
    out, err = capsys.readouterr()
    assert sorted(os.listdir("out")) == ["checkpoint.npz", "metrics.jsonl", "report.png", "result.json"]
    assert [json.loads(line)["epoch"] for line in Path("out/metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
    ]
    assert Path("out/report.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads(Path("out/result.json").read_text())
    assert result["test_images"] == 20
    assert set(result["per_class_accuracy"]) == {"0", "1", "2"}
    assert f"test accuracy {result['test_accuracy']:.2%} of 20 images" in out
    assert f"{result['parameters']:,} parameters" in out
    assert "most often taken for" in out
    assert "epoch 2/2" in err
    assert "  test " in err  # without held-out images the test images are watched, and called so
    assert "validation" not in err


def test_quiet_says_nothing(work, capsys):
    assert main([*work, "--quiet", "--epochs", "1"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert [line for line in err.splitlines() if "compil" not in line and "CPU kernels" not in line] == []
    assert Path("runs/simple-bands/checkpoint.npz").exists()


def test_results_are_never_overwritten(work, capsys):
    short = [*work, "--quiet", "--epochs", "1"]
    for folder in ("simple-bands", "simple-bands-2", "simple-bands-3"):
        assert main(short) == 0
        assert Path("runs", folder, "result.json").exists()
    assert "holds a training already; go on with --resume" in error_of(
        capsys, [*short, "--output", "runs/simple-bands"]
    )


def test_without_matplotlib_the_picture_is_missing_and_the_extra_named(work, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([*work, "--epochs", "1"]) == 0
    out, err = capsys.readouterr()
    assert "pip install 'minicnn[plot]'" in err
    assert "report.png" not in out


def interrupt_after(monkeypatch, batches):
    """Ctrl-C in the n-th batch of the next training."""
    from minicnn.training import trainer

    original, count = trainer.Run.train_batch, [0]

    def train_batch(run, images, targets):
        original(run, images, targets)
        count[0] += 1
        run.interrupted = run.interrupted or count[0] == batches

    monkeypatch.setattr(trainer.Run, "train_batch", train_batch)


def test_ctrl_c_says_how_to_go_on_and_the_resumed_weights_are_the_same(work, capsys, monkeypatch):
    assert main([*work, "--quiet", "--output", "whole"]) == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, 8)
        line = error_of(capsys, [*work, "--output", "halved"], status=130)
    assert line.startswith("minicnn: interrupted in epoch 2 of 2 after batch 2; saved in ")
    assert line.endswith("minicnn train --resume --output halved")
    assert main(["train", "--resume", "--output", "halved", "--quiet"]) == 0
    whole, halved = (
        load_checkpoint(f"{name}/checkpoint.npz")["run"]["model"] for name in ("whole", "halved")
    )
    for name, value in whole.items():
        np.testing.assert_array_equal(halved[name].numpy(), value.numpy(), err_msg=name)


def test_resume_refuses_other_options_and_names_them(work, capsys):
    assert main([*work, "--quiet"]) == 0
    line = error_of(capsys, [*work, "--resume", "--lr", "0.5", "--seed", "3"])
    assert "configuration lr is 0.01 in the checkpoint and 0.5 here" in line
    assert "configuration seed is 0 in the checkpoint and 3 here" in line
    assert "no such file" in error_of(capsys, ["train", "--resume", "--output", "elsewhere"])


def test_early_stopping_holds_out_training_images(work, capsys):
    pytest.importorskip("matplotlib")
    assert main([*work, "--epochs", "30", "--early-stopping", "1", "--output", "out"]) == 0
    out, err = capsys.readouterr()
    assert "validation loss" in out
    assert "  validation " in err
    state = load_checkpoint("out/checkpoint.npz")
    assert state["configuration"]["validation_fraction"] == pytest.approx(1 / 12)
    assert Path("out/checkpoint.best.npz").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--optimizer", "adamw", "--schedule", "step", "--augment", "flip,shift:1,rotate:5,cutout:2,crop:1"],
        ["--optimizer", "rmsprop", "--schedule", "exponential", "--l1", "1e-4", "--label-smoothing", "0.1"],
        ["--optimizer", "adam", "--schedule", "constant", "--clip-norm", "1", "--max-norm", "2"],
        [
            "--momentum",
            "0",
            "--dropout",
            "0",
            "--limit",
            "25",
            "--threads",
            "1",
            "--validation-fraction",
            "0.2",
        ],
    ],
)
def test_options_train(work, options):
    assert main([*work, "--epochs", "1", "--quiet", *options]) == 0


def test_the_schedule_warms_up_and_comes_down():
    parameter = minicnn.zeros(2, 2).requires_grad_()
    optimizer = minicnn.optim.SGD([parameter], lr=1.0)
    scheduler = make_scheduler(DEFAULTS | {"epochs": 4, "warmup": 1.0}, optimizer, batches=10)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates == [*sorted(rates[:10]), *sorted(rates[10:], reverse=True)]
    assert 0 < rates[-1] < 0.01
    with pytest.raises(ValueError, match="warmup 4: expected fewer than the 4 epochs"):
        make_scheduler(DEFAULTS | {"epochs": 4, "warmup": 4.0}, optimizer, batches=10)


def test_evaluate_prints_what_train_found(trained, capsys):
    checkpoint = str(trained / "run" / "checkpoint.npz")
    result = json.loads((trained / "run" / "result.json").read_text())
    assert main(["evaluate", checkpoint, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["accuracy"] == result["test_accuracy"]
    assert numbers["loss"] == pytest.approx(result["test_loss"])
    assert np.sum(numbers["confusion"]) == 20
    assert main(["evaluate", checkpoint, "--batch-size", "7"]) == 0
    assert f"accuracy {result['test_accuracy']:.2%} of 20 test images" in capsys.readouterr().out


def test_predict_reads_pictures_of_any_size_and_colour(trained, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    checkpoint = str(trained / "run" / "checkpoint.npz")
    dark = np.zeros((60, 60, 3), np.uint8)
    dark[20:40] = (250, 240, 230)  # the band of class 1, five times as large, in colour
    image.fromarray(dark).save(tmp_path / "dark.png")
    assert main(["predict", checkpoint, str(tmp_path / "dark.png"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert next(iter(answer["classes"])) == "1"
    assert len(answer["classes"]) == 3
    assert sum(answer["classes"].values()) == pytest.approx(1, abs=1e-5)

    image.fromarray(255 - dark).convert("L").save(tmp_path / "bright.png")
    assert main(["predict", checkpoint, str(tmp_path / "dark.png"), str(tmp_path / "bright.png")]) == 0
    out, err = capsys.readouterr()
    assert [line.split(": ")[1].split(" ")[0] for line in out.splitlines()] == ["1", "1"]
    assert "bright.png: inverted, because its background is bright" in err
    assert "dark.png: inverted" not in err
    assert main(["predict", checkpoint, str(tmp_path / "bright.png"), "--invert", "no"]) == 0
    assert "inverted" not in capsys.readouterr().err


def test_predict_takes_transparent_paper_for_white(tmp_path):
    image = pytest.importorskip("PIL.Image")
    from minicnn.cli.predict import read_picture

    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[8:12, 10:20, 3] = 255  # black ink on nothing
    image.fromarray(pixels).save(tmp_path / "ink.png")
    with pytest.warns(UserWarning, match="inverted"):
        array = read_picture(str(tmp_path / "ink.png"), (1, 30, 30))
    assert array.shape == (1, 30, 30)
    assert array.dtype == np.uint8
    assert array[0, 15, 15] == 255
    assert array[0, 0].max() == 0
    assert read_picture(str(tmp_path / "ink.png"), (3, 10, 15)).shape == (3, 10, 15)


def test_predict_without_pillow_names_the_extra(trained, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    line = error_of(capsys, ["predict", trained / "run" / "checkpoint.npz", "any.png"])
    assert "pip install 'minicnn[image]'" in line


def test_info_as_text_and_json(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["minicnn"] == minicnn.__version__
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["backends"] == ["reference", "cpu"]
    assert facts["cpu"]["vector_bits"] in (128, 256, 512)
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for word in ("threads", "threading layer", "vector bits", "backends", "cache"):
        assert word in text


# -- bad input: one line, exit status 2 ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--epoch", "3"], "unknown option --epoch; did you mean --epochs?"),
        (["train", "--learning", "3"], "unknown option --learning"),
        (["train", "--epochs", "none"], "--epochs: expected an integer of at least 1, got 'none'"),
        (["train", "--epochs", "0"], "--epochs: expected an integer of at least 1, got '0'"),
        (["train", "--lr", "nan"], "--lr: expected a number above 0, got 'nan'"),
        (["train", "--momentum", "1"], "--momentum: expected a number of at least 0 and below 1, got '1'"),
        (
            ["train", "--optimizer", "sdg"],
            "unknown 'sdg': expected one of sgd, adam, adamw, rmsprop; did you mean sgd?",
        ),
        (["train", "--schedule", "cosin"], "did you mean cosine?"),
        (["train", "--augment", "flip,shfit"], "unknown augmentation 'shfit': expected none or a list"),
        (["train", "--augment", "shift:x"], "expected a whole number after shift:, got 'x'"),
        (["train", "--data", "nowhere"], "expected fashion-mnist or a folder of idx files"),
        (["train", "--model", "simpel", "--limit", "10"], "did you mean 'simple'?"),
        (["train", "--threads", "0"], "--threads: expected an integer of at least 1, got '0'"),
        (["train", "--threads", "4096"], "4096 threads asked for"),
        (["train", "--checkpoint-every", "often", "--limit", "10"], "expected '1 epoch', '200 batches'"),
        (["train", "extra"], "unexpected argument 'extra'"),
        (["trian"], "info; did you mean train?"),
        ([], "required"),
        (["evaluate", "nowhere.npz"], "there is no such file"),
        (["predict", "nowhere.npz", "a.png"], "there is no such file"),
        (["predict", "nowhere.npz"], "required: FILE"),
    ],
)
def test_wrong_options(tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    assert expected in error_of(capsys, arguments)


def test_damaged_data(work, capsys):
    images, labels = Path("bands/train-images-idx3-ubyte"), Path("bands/train-labels-idx1-ubyte")
    whole = images.read_bytes()
    images.write_bytes(whole[:-100])
    assert str(images) in error_of(capsys, work)
    images.write_bytes(b"GIF89a" + whole[6:])
    assert str(images) in error_of(capsys, work)
    images.write_bytes(whole)
    write_idx(labels, np.zeros(59, np.uint8))
    assert "59 labels for 60 images" in error_of(capsys, work)
    labels.unlink()
    assert labels.name in error_of(capsys, work)
    write_idx(images, np.zeros((0, 12, 12)))
    write_idx(labels, np.zeros(0))
    assert "no elements" in error_of(capsys, work)


def test_test_labels_that_training_never_saw(work, capsys):
    write_idx(Path("bands/t10k-labels-idx1-ubyte"), np.arange(20) % 5)
    assert "3" in error_of(capsys, work)


def test_foreign_and_truncated_checkpoints(trained, tmp_path, capsys):
    whole = (trained / "run" / "checkpoint.npz").read_bytes()
    path = tmp_path / "checkpoint.npz"
    for content in (b"", whole[: len(whole) // 2], b"hello" * 100):
        path.write_bytes(content)
        assert str(path) in error_of(capsys, ["evaluate", path])
        assert str(path) in error_of(capsys, ["train", "--resume", "--output", tmp_path])
    serialization.save({"a": 1}, path)
    assert "expected a file of format" in error_of(capsys, ["evaluate", path])
    state = serialization.load(trained / "run" / "checkpoint.npz")
    serialization.save(state | {"configuration": {}}, path)
    assert "lacks model, image_shape" in error_of(capsys, ["evaluate", path])
    assert "start anew without --resume" in error_of(capsys, ["train", "--resume", "--output", tmp_path])


def test_evaluate_on_images_of_another_shape(trained, tmp_path, capsys):
    other = write_folder(tmp_path / "other", size=16)
    line = error_of(capsys, ["evaluate", trained / "run" / "checkpoint.npz", "--data", other])
    assert "expected images (1, 12, 12) as the model was trained on, got (1, 16, 16)" in line


def test_pictures_that_are_none(trained, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    checkpoint, path = trained / "run" / "checkpoint.npz", tmp_path / "a.png"
    assert f"{path}: No such file" in error_of(capsys, ["predict", checkpoint, path])
    path.write_text("no picture")
    assert "expected a picture" in error_of(capsys, ["predict", checkpoint, path])
    image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:600])
    assert "is the file cut off?" in error_of(capsys, ["predict", checkpoint, path])


def test_a_full_disk_is_one_line_and_the_last_good_checkpoint_stays(work, capsys, monkeypatch):
    savez, count = np.savez, [0]

    def save(file, **arrays):
        count[0] += 1
        if count[0] > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        savez(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(serialization.np, "savez", save)
        line = error_of(capsys, [*work, "--epochs", "3", "--output", "out", "--quiet"])
    assert "No space left on device" in line
    assert "the last good checkpoint is out/checkpoint.npz (after epoch 1)" in line
    assert load_checkpoint("out/checkpoint.npz")["run"]["epoch"] == 1
    assert main(["train", "--resume", "--output", "out", "--quiet"]) == 0
    assert load_checkpoint("out/checkpoint.npz")["run"]["epoch"] == 3


def test_a_diverging_training_is_status_1(work, capsys):
    line = error_of(capsys, [*work, "--lr", "1e30", "--schedule", "constant"], status=1)
    assert "epoch 1, batch" in line
    assert "no earlier checkpoint" in line


def test_an_output_that_cannot_be_written(work, capsys):
    Path("file").write_text("in the way")
    error_of(capsys, [*work, "--output", "file/out"])


def test_traceback_shows_where(work):
    with pytest.raises(ValueError, match="no such folder"):
        main(["train", "--data", "nowhere", "--traceback"])


def test_interrupted_is_a_keyboard_interrupt():
    assert issubclass(TrainingInterrupted, KeyboardInterrupt)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["train"],
        ["compress"],
        ["sensitivity"],
        ["search"],
        ["evaluate"],
        ["predict"],
        ["deploy"],
        ["run"],
        ["verify"],
        ["inspect"],
        ["pick"],
        ["info"],
    ],
)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--help"])
    assert exit_.value.code == 0
    assert "usage: minicnn" in capsys.readouterr().out


def test_python_m_minicnn():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    done = subprocess.run(
        [sys.executable, "-m", "minicnn", "train", "--epoch", "1"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("minicnn: error: unknown option --epoch; did you mean --epochs?")
