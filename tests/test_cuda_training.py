"""Training on device "cuda": `cuda_training.py` in the simulator, the command line, and what is said without
a GPU."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from simulated import in_simulator
from test_cli import write_folder

from minicnn import data, nn, optim
from minicnn.cli import main
from minicnn.training import fit

NO_EXTRA = importlib.util.find_spec("numba_cuda") is None


@pytest.mark.parametrize(
    "name",
    [
        "fit_follows_the_host",
        "limits_follow_the_host",
        "a_resumed_training_is_the_unbroken_one",
        "a_loss_that_is_not_finite_is_found",
        "a_norm_that_is_not_finite_is_found",
        "copies_are_their_own",
        "batches_are_never_overwritten",
        "compression_follows_the_host",
    ],
)
def test_on_the_device(name):
    in_simulator(str(Path(__file__).parent / "cuda_training.py"), name)


def test_the_command_line_trains_evaluates_and_predicts_there(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    folder = write_folder(tmp_path / "bands", train=9, test=4)
    pillow.fromarray(np.zeros((12, 12), np.uint8)).save(tmp_path / "black.png")
    program = """
import sys
from minicnn.cli import main
folder, out, picture = sys.argv[1:]
train = ["train", "--device", "cuda", "--data", folder, "--model", "mlp", "--epochs", "1", "--limit", "6",
         "--batch-size", "4", "--augment", "none", "--warmup", "0", "--quiet", "--output", out]
for command in (train, ["evaluate", out + "/checkpoint.npz", "--device", "cuda", "--json"],
                ["predict", out + "/checkpoint.npz", picture, "--device", "cuda", "--invert", "no"]):
    assert main(command) == 0
"""
    said = in_simulator("-c", program, str(folder), str(tmp_path / "out"), str(tmp_path / "black.png"))
    assert '"images": 4' in said
    assert "black.png" in said
    assert (tmp_path / "out" / "result.json").exists()


@pytest.mark.skipif(not NO_EXTRA, reason="numba-cuda is installed")
def test_without_the_extra_training_says_how_to_get_it_and_changes_nothing(capsys, tmp_path):
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    loader = data.DataLoader(data.ArrayDataset(np.ones((4, 3, 1, 1), np.float32), np.zeros(4, np.int64)), 2)
    with pytest.raises(ImportError, match=r"pip install 'minicnn\[gpu\]'"):
        fit(model, loader, optimizer=optimizer, epochs=1, device="cuda")
    with pytest.raises(ValueError, match="unknown device 'tpu': expected one of cpu, cuda"):
        fit(model, loader, optimizer=optimizer, epochs=1, device="tpu")
    assert model.weight.device == "cpu"
    for command in (["train"], ["compress", "--recipe", "prune-90"]):
        assert main([*command, "--device", "cuda", "--output", str(tmp_path / "out")]) == 2
        assert "pip install 'minicnn[gpu]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_importing_minicnn_does_not_look_for_a_gpu():
    program = "import sys, minicnn, minicnn.training, minicnn.cli; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_moving_a_model_to_where_it_is_changes_nothing():
    model = nn.Linear(2, 2)
    before = model.weight._version.count
    assert model.to("cpu") is model
    assert model.weight._version.count == before
