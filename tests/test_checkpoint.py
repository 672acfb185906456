"""Checkpoints: whole at every moment, exact on resume, and refused where they do not belong."""

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
from test_training import Course, loader, network, stripes, trained

import minicnn
from minicnn import nn, optim, serialization
from minicnn.training import (
    Callback,
    Checkpoint,
    CheckpointError,
    CheckpointWarning,
    EarlyStopping,
    TrainingError,
    load_checkpoint,
)

ROOT = Path(__file__).parents[1]


class Stop(Exception):
    """Ends a training at a chosen moment as a crash would, without any farewell."""


class CrashAt(Callback):
    def __init__(self, epoch, batch):
        self.moment = (epoch, batch)

    def on_batch(self, run):
        if (run.epoch, run.batch) == self.moment:
            raise Stop


def assert_same_weights(a, b):
    for (name, x), (_, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        np.testing.assert_array_equal(x.numpy(), y.numpy(), err_msg=name)


def noisy_network(seed):
    """A network with everything that has a state: dropout, and batch norm's running statistics."""
    return network(seed, nn.Dropout(0.5), nn.BatchNorm1d(64))


def thorough(model, **options):
    """A training with everything that has a state: momentum, a schedule, early stopping, metrics."""
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, 16)
    options = {"early_stopping": 5, "epochs": 4} | options
    return trained(
        model,
        optimizer=optimizer,
        scheduler=scheduler,
        scheduler_step="batch",
        validation=loader(stripes(32, seed=1)),
        **options,
    )


@pytest.mark.parametrize("moment", [(0, 1), (1, 3), (2, 4), (3, 2)])
def test_a_resumed_training_ends_with_the_same_bits(tmp_path, moment):
    path, metrics = tmp_path / "checkpoint.npz", tmp_path / "metrics.jsonl"
    whole = noisy_network(0)
    minicnn.manual_seed(5)
    uninterrupted = thorough(whole, checkpoint=tmp_path / "other.npz", checkpoint_every="1 batch")

    crashed, resumed = noisy_network(0), noisy_network(9)
    minicnn.manual_seed(5)
    options = {"checkpoint": path, "checkpoint_every": "1 batch", "metrics": metrics}
    # Callbacks run in order: this one crashes before the batch is saved, so that it is done again.
    with pytest.raises(Stop):
        thorough(crashed, callbacks=[CrashAt(*moment)], **options)
    if moment == (0, 1):
        assert not path.exists()
        minicnn.manual_seed(5)
        resumed = noisy_network(0)
        minicnn.manual_seed(5)
    history = thorough(resumed, resume=True, **options)

    assert_same_weights(whole, resumed)
    for column in ("loss", "accuracy", "validation_loss", "learning_rate"):
        assert history[column] == uninterrupted[column]
    assert len(metrics.read_text().splitlines()) == len(history)


def test_resume_from_a_path_and_after_the_end(tmp_path):
    path = tmp_path / "checkpoint.npz"
    model, again = network(0), network(1)
    trained(model, checkpoint=path)
    history = trained(again, resume=path)
    assert len(history) == 3
    assert_same_weights(model, again)
    trained(again, resume=path, epochs=5)
    longer = network(0)
    trained(longer, epochs=5)
    assert_same_weights(longer, again)


def test_a_list_of_batches_resumes_in_the_middle_of_an_epoch(tmp_path):
    path, batches = tmp_path / "checkpoint.npz", list(loader())
    whole, crashed, resumed = network(0), network(0), network(1)
    trained(whole, batches)
    options = {"checkpoint": path, "checkpoint_every": "1 batch"}
    with pytest.raises(Stop):
        trained(crashed, batches, callbacks=[CrashAt(1, 3)], **options)
    trained(resumed, batches, resume=True, **options)
    assert_same_weights(whole, resumed)


def test_early_stopping_goes_on_counting_and_keeps_its_best_weights(tmp_path):
    path = tmp_path / "checkpoint.npz"
    whole, crashed, resumed = network(0), network(0), network(1)
    options = {"epochs": 5, "early_stopping": EarlyStopping(2)}
    trained(whole, callbacks=[Course()], **options)
    options = {"epochs": 5, "early_stopping": 2, "checkpoint": path}
    with pytest.raises(Stop):
        trained(crashed, callbacks=[Course(), CrashAt(2, 1)], **options)
    history = trained(resumed, callbacks=[Course(), Callback()], resume=True, **options)
    assert "since epoch 2" in history.stopped
    assert_same_weights(whole, resumed)
    assert_same_weights(whole, _loaded(path))  # what was saved at the end is what fit returned


def _loaded(path):
    model = network(2)
    model.load_state_dict(load_checkpoint(path)["run"]["model"])
    return model


def test_the_best_epoch_is_kept_beside_the_last(tmp_path):
    path = tmp_path / "checkpoint.npz"
    model, course = network(), Course()
    trained(
        model,
        epochs=4,
        callbacks=[course],
        checkpoint=Checkpoint(path, keep_best=True, monitor="validation_loss"),
    )
    best = load_checkpoint(tmp_path / "checkpoint.best.npz")["run"]
    assert best["epoch"] == 2
    np.testing.assert_array_equal(best["model"]["0.weight"].numpy(), course.weights[1])
    assert load_checkpoint(path)["run"]["epoch"] == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.best.npz", "checkpoint.npz"]


@pytest.mark.parametrize(
    ("every", "saves"),
    [("1 epoch", 3), ("2 epochs", 2), ("3 batches", 6), ("1000 seconds", 3), ("1e-9 seconds", 12)],
)
def test_checkpoint_every(tmp_path, monkeypatch, every, saves):
    seen = []
    save = serialization.save
    monkeypatch.setattr(serialization, "save", lambda state, path: (seen.append(path), save(state, path)))
    trained(network(), checkpoint=tmp_path / "checkpoint.npz", checkpoint_every=every)
    assert len(seen) == saves


@pytest.mark.parametrize("every", ["", "often", "0 epochs", "1.5 batches", "3 weeks", "epoch"])
def test_bad_intervals_are_explained(tmp_path, every):
    with pytest.raises(ValueError, match="expected '1 epoch', '200 batches' or '60 seconds', got"):
        Checkpoint(tmp_path / "checkpoint.npz", every=every)


def test_a_path_must_end_in_npz(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.npz"):
        Checkpoint(tmp_path / "checkpoint")


def test_a_checkpoint_of_another_training_is_refused_with_every_difference(tmp_path):
    path = tmp_path / "checkpoint.npz"
    trained(network(), checkpoint=path, configuration={"lr": 0.1, "data": {"name": "a"}})
    wider = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())
    with pytest.raises(CheckpointError) as failure:
        trained(
            wider,
            optimizer=optim.Adam(wider.parameters()),
            resume=path,
            clip_norm=1.0,
            configuration={"lr": 0.2, "data": {"name": "b"}},
        )
    message = str(failure.value)
    for part in (
        "optimizer is SGD in the checkpoint and Adam here",
        "clip_norm is None in the checkpoint and 1.0 here",
        "configuration lr is 0.1 in the checkpoint and 0.2 here",
        "configuration data.name is a in the checkpoint and b here",
        "'0.weight' is float32(4, 1, 3, 3) in the checkpoint and float32(8, 1, 3, 3) here",
    ):
        assert part in message


def test_missing_truncated_and_foreign_files_are_explained(tmp_path):
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path)
    trained(network(), checkpoint=path, epochs=1)
    whole = path.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="state file"):
            load_checkpoint(path)
    path.write_bytes(whole[:2000] + bytes([whole[2000] ^ 255]) + whole[2001:])
    with pytest.raises(CheckpointError, match="state file"):
        load_checkpoint(path)
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(CheckpointError, match="state file"):
        load_checkpoint(path)
    serialization.save(network().state_dict(), path)
    with pytest.raises(CheckpointError, match=r"weights alone are read with minicnn\.load"):
        load_checkpoint(path)


def test_a_file_that_goes_away_under_resume_true_begins_anew(tmp_path):
    path = tmp_path / "checkpoint.npz"
    assert len(trained(network(), checkpoint=path, resume=True)) == 3


def full_disk(monkeypatch, failing):
    """Let the n-th writes named in `failing` run out of space after some bytes, as a full disk does."""
    savez, count = np.savez, iter(range(1, 1000))

    def save(file, **arrays):
        if next(count) in failing:
            file.write(b"PK" * 50)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        savez(file, **arrays)

    monkeypatch.setattr(serialization.np, "savez", save)


def test_a_full_disk_costs_one_checkpoint_and_not_the_training(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.npz"
    full_disk(monkeypatch, {2})
    with pytest.warns(
        CheckpointWarning, match=r"No space left.*last good checkpoint is .*\(after epoch 1\).*tries again"
    ):
        history = trained(network(), checkpoint=path)
    assert len(history) == 3
    assert load_checkpoint(path)["run"]["epoch"] == 3
    assert os.listdir(tmp_path) == ["checkpoint.npz"]


def test_a_disk_that_stays_full_is_an_error_at_the_end_and_the_last_good_checkpoint_stays(
    tmp_path, monkeypatch
):
    path, model = tmp_path / "checkpoint.npz", network()
    full_disk(monkeypatch, {2, 3})
    warnings.simplefilter("ignore", CheckpointWarning)  # pytest puts the filters back
    with pytest.raises(CheckpointError, match=r"No space left.*\(after epoch 1\)"):
        trained(model, checkpoint=path)
    assert load_checkpoint(path)["run"]["epoch"] == 1
    reference = network()
    trained(reference)
    assert_same_weights(model, reference)  # nothing of the training is lost for the caller


def test_a_best_checkpoint_that_could_not_be_written_is_not_taken_for_the_best(tmp_path, monkeypatch):
    full_disk(monkeypatch, {3})  # last, best, best, ...: the second epoch's best
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz", keep_best=True, monitor="validation_loss")
    with pytest.warns(CheckpointWarning):
        trained(network(), epochs=4, callbacks=[Course()], checkpoint=checkpoint)
    assert load_checkpoint(checkpoint.best_path)["run"]["epoch"] in (3, 4)


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    class Spoil(Callback):
        def on_epoch(self, run):
            if run.epoch == 2:
                with minicnn.no_grad():
                    run.model[0].weight[0, 0, 0, 0] = float("nan")

    path = tmp_path / "checkpoint.npz"
    with pytest.raises(TrainingError, match=r"'0.weight' holds NaN.*last good checkpoint.*after epoch 1"):
        trained(network(), checkpoint=path, callbacks=[Spoil()])
    assert load_checkpoint(path)["run"]["epoch"] == 1


# -- killed by the system ---------------------------------------------------------------------------

CHILD = """
    import sys, time
    sys.path[:0] = {paths!r}
    import io
    import numpy as np
    import minicnn, minicnn_kernels
    from minicnn import serialization
    from minicnn.training import Callback
    from test_checkpoint import noisy_network, thorough

    class Tell(Callback):
        def on_batch(self, run):
            print("batch", flush=True)

    def slowly(file, savez=np.savez, **arrays):
        whole = io.BytesIO()
        savez(whole, **arrays)
        whole = whole.getvalue()
        for i in range(0, len(whole), 4096):
            file.write(whole[i : i + 4096])
            file.flush()
            if i == 4096:
                print("saving", flush=True)
            time.sleep(0.002)

    checkpoint, backend, threads, result = sys.argv[1:]
    minicnn.set_num_threads(int(threads))
    options = {{}}
    if checkpoint != "none":
        np.savez, options = slowly, dict(checkpoint=checkpoint, resume=True)
    with minicnn_kernels.use(backend):
        model = noisy_network(0)
        minicnn.manual_seed(5)
        thorough(model, callbacks=[Tell()], checkpoint_every="2 batches", **options)
    serialization.save(model.state_dict(), result)
    print("done", flush=True)
"""


def child(tmp_path, checkpoint, result, *, backend, threads=2):
    paths = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "tests")]
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(CHILD).format(paths=paths))
    return subprocess.Popen(
        [sys.executable, str(script), str(checkpoint), backend, str(threads), str(result)],
        stdout=subprocess.PIPE,
        text=True,
    )


def run_and_kill(process, event, count):
    """Kill the process when it has said `event` for the count-th time. False if it was done before."""
    for line in process.stdout:
        count -= line.strip() == event
        if count == 0:
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    return process.wait() == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
@pytest.mark.parametrize(
    ("backend", "kills"),
    [("reference", 3), pytest.param("cpu", 12, marks=pytest.mark.slow)],
)
def test_killed_anywhere_and_resumed_the_weights_are_the_same_bits(tmp_path, backend, kills):
    checkpoint = tmp_path / "checkpoint.npz"
    whole, result = tmp_path / "whole.npz", tmp_path / "result.npz"
    assert not run_and_kill(child(tmp_path, "none", whole, backend=backend), "never", 1)

    chance, killed = random.Random(0), []
    for i in range(kills):
        event = ("saving", "batch")[i % 2]
        process = child(tmp_path, checkpoint, result, backend=backend)
        if run_and_kill(process, event, chance.randint(1, 3)):
            killed.append(event)
            if checkpoint.exists():
                load_checkpoint(checkpoint)  # whole, whatever was being written
    assert set(killed) == {"saving", "batch"}
    assert not run_and_kill(child(tmp_path, checkpoint, result, backend=backend), "never", 1)

    expected, got = serialization.load(whole), serialization.load(result)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name].numpy(), value.numpy(), err_msg=name)
    assert not list(tmp_path.glob(".checkpoint*")), "temporary files of killed saves are swept up"


@pytest.mark.slow
def test_one_thread_and_two_give_the_same_bits(tmp_path):
    results = []
    for threads in (1, 2):
        result = tmp_path / f"{threads}.npz"
        assert not run_and_kill(child(tmp_path, "none", result, backend="cpu", threads=threads), "never", 1)
        results.append(serialization.load(result))
    for name, value in results[0].items():
        np.testing.assert_array_equal(results[1][name].numpy(), value.numpy(), err_msg=name)
