"""fit, evaluate, predict, callbacks: on data small enough to reason about."""

import json
import math
import os
import signal
import sys

import numpy as np
import pytest

import minicnn
from minicnn import nn, optim
from minicnn.data import ArrayDataset, DataLoader
from minicnn.training import (
    Callback,
    EarlyStopping,
    TrainingError,
    TrainingInterrupted,
    confusion_matrix,
    evaluate,
    fit,
    predict,
)
from minicnn.training.metrics import Evaluation, History, Means
from minicnn.training.progress import duration


def stripes(n=64, seed=0):
    """Images (N, 1, 8, 8) of horizontal (0) or vertical (1) stripes under noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    wave = np.sign(np.sin(np.arange(8) * math.pi / 2 + 0.5)).astype(np.float32)
    images = np.where(labels[:, None, None] == 0, wave[:, None], wave[None, :])
    images = images + rng.normal(0, 0.3, images.shape)
    return ArrayDataset(images[:, None].astype(np.float32), labels)


def network(seed=0, *extra):
    minicnn.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), *extra, nn.Linear(64, 2)
    )


def loader(data=None, **options):
    return DataLoader(data or stripes(), 16, shuffle=True, **options)


def trained(model, batches=None, **options):
    options = {"epochs": 3, "progress": False} | options
    optimizer = options.pop("optimizer", None) or optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return fit(model, batches or loader(), optimizer=optimizer, **options)


def test_fit_learns_and_the_history_says_so():
    model = network()
    history = trained(model, epochs=5, validation=loader(stripes(seed=1)))
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    assert history["loss"][-1] < history["loss"][0]
    assert history[-1]["accuracy"] > 0.95
    assert history[-1]["validation_accuracy"] > 0.95
    assert history[-1]["learning_rate"] == 0.1
    assert history.stopped is None
    assert "5 epochs" in repr(history)
    with pytest.raises(KeyError, match="validation_loss"):
        history["val_loss"]


def test_means_weigh_batches_by_their_size():
    means = Means()
    means.add(1.0, 30, 15)
    means.add(4.0, 10, 10)
    assert means.loss == pytest.approx(1.75)
    assert means.accuracy == pytest.approx(25 / 40)
    other = Means()
    other.load_state_dict(means.state_dict())
    assert other.loss == means.loss


def test_evaluate_agrees_with_numpy_and_leaves_the_model_as_it_was():
    data = stripes(50)
    model = network(0, nn.Dropout(0.5))
    model[0].eval()
    before = minicnn.get_rng_state()
    result = evaluate(model, DataLoader(data, 16))
    assert model.training
    assert not model[0].training
    assert minicnn.get_rng_state() == before
    probabilities = predict(model, data.images)
    chosen = probabilities[np.arange(50), data.labels]
    assert result.images == 50
    assert result.loss == pytest.approx(-np.log(chosen).mean(), rel=1e-5)
    assert result.accuracy == pytest.approx((probabilities.argmax(1) == data.labels).mean())
    assert result.confusion.sum() == 50
    assert result.confusion.trace() == round(result.accuracy * 50)


def test_predict_takes_arrays_tensors_and_loaders():
    data, model = stripes(40), network()
    probabilities = predict(model, data.images, batch_size=7)
    assert probabilities.shape == (40, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(predict(model, minicnn.tensor(data.images)), probabilities, rtol=1e-6)
    np.testing.assert_allclose(predict(model, DataLoader(data, 16)), probabilities, rtol=1e-6)
    np.testing.assert_array_equal(predict(model, data.images, classes=True), probabilities.argmax(1))
    with pytest.raises(ValueError, match="at least one image"):
        predict(model, data.images[:0])


def test_confusion_matrix_counts_true_in_rows_and_predicted_in_columns():
    counts = confusion_matrix([0, 0, 1, 2], [0, 1, 1, 0], 4)
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    per_class = Evaluation(4, 0.0, 0.5, counts).per_class
    np.testing.assert_array_equal(per_class, [0.5, 1, 0, np.nan])
    with pytest.raises(ValueError, match=r"0 \.\.\. 1, got values from 0 to 2"):
        confusion_matrix([0, 2], [0, 1], 2)


def test_regression_trains_without_accuracy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 3)).astype(np.float32)
    y = x @ np.array([[1.0], [-2.0], [0.5]], np.float32)
    batches = [(minicnn.tensor(x[i : i + 8]), minicnn.tensor(y[i : i + 8])) for i in range(0, 32, 8)]
    model = nn.Linear(3, 1)
    history = trained(model, batches, loss=nn.functional.mse_loss, epochs=20, validation=batches)
    assert history[-1]["validation_loss"] < 1e-3
    assert "accuracy" not in history


class Course(Callback):
    """Gives the validation loss a course that is best in epoch 2, and remembers the weights."""

    def __init__(self, values=(3.0, 1.0, 2.0, 2.5, 2.6)):
        self.values, self.weights = values, []

    def on_epoch(self, run):
        run.history[-1]["validation_loss"] = self.values[run.epoch - 1]
        self.weights.append(run.model[0].weight.detach().numpy().copy())


def test_early_stopping_ends_training_and_restores_the_best_epoch():
    model, course = network(), Course()
    history = trained(model, epochs=5, callbacks=[course], early_stopping=2)
    assert len(history) == 4
    assert "since epoch 2" in history.stopped
    np.testing.assert_array_equal(model[0].weight.detach().numpy(), course.weights[1])


def test_early_stopping_can_keep_the_last_weights_and_wants_a_least_gain():
    model, course = network(), Course((3.0, 2.95, 2.9, 2.85, 2.8))
    stopping = EarlyStopping(3, min_delta=0.5, restore_best=False)
    history = trained(model, epochs=5, callbacks=[course], early_stopping=stopping)
    assert len(history) == 4
    np.testing.assert_array_equal(model[0].weight.detach().numpy(), course.weights[3])


def test_early_stopping_names_what_it_can_watch():
    with pytest.raises(ValueError, match=r"'validation_loss': expected one of epoch, loss.*validation="):
        trained(network(), early_stopping=2)
    with pytest.raises(ValueError, match="patience >= 1"):
        EarlyStopping(0)


def test_metrics_are_json_lines(tmp_path):
    path = tmp_path / "deep" / "metrics.jsonl"
    history = trained(network(), metrics=path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == history.rows
    trained(network(), metrics=path, epochs=1)
    assert len(path.read_text().splitlines()) == 1


def test_progress_is_one_line_per_epoch_away_from_a_terminal(capsys):
    trained(network(), progress=None, validation=loader())
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/3  loss 0.")
    assert "images/s" in lines[0]
    assert lines[0].endswith("left")
    assert not lines[-1].endswith("left")


def test_progress_bar_shows_loss_accuracy_and_speed(capsys):
    pytest.importorskip("tqdm")
    trained(network(), progress=True, epochs=1)
    shown = capsys.readouterr().err
    bar, _, line = shown.strip().rpartition("\r")
    assert "epoch 1/1" in bar
    for part in ("epoch 1/1", "loss", "accuracy", "images/s"):
        assert part in line


def test_progress_without_tqdm_is_lines(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    trained(network(), progress=True, epochs=1)
    assert "epoch 1/1  loss" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (61, "1:01"), (7199.6, "2:00:00"), (125, "2:05")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("per", ["batch", "epoch"])
def test_the_schedule_steps_per_batch_or_per_epoch(per):
    model = network()
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    scheduler = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    history = trained(
        model, optimizer=optimizer, scheduler=scheduler, scheduler_step=per, epochs=2, max_norm=1
    )
    steps = {"batch": [4, 8], "epoch": [0, 1]}[per]
    assert history["learning_rate"] == [0.5**n for n in steps]
    assert scheduler.last_epoch == {"batch": 8, "epoch": 2}[per]


def test_a_plateau_schedule_sees_the_validation_loss():
    model = network()
    optimizer = optim.SGD(model.parameters(), lr=0.0)
    scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
    trained(model, optimizer=optimizer, scheduler=scheduler, validation=loader(), epochs=3)
    assert scheduler.num_bad_epochs + scheduler.cooldown_counter <= 2
    assert scheduler.best == pytest.approx(evaluate(model, loader()).loss)


def test_max_norm_bounds_every_unit():
    model = network()
    trained(model, max_norm=0.3)
    norms = np.linalg.norm(model[-1].weight.detach().numpy(), axis=1)
    assert (norms <= 0.3 * (1 + 1e-5)).all()


def test_l1_makes_weights_small():
    plain, sparse = network(), network()
    trained(plain, epochs=5)
    trained(sparse, epochs=5, l1=0.05)
    size = [np.abs(model[-1].weight.detach().numpy()).sum() for model in (plain, sparse)]
    assert size[1] < 0.5 * size[0]


def test_clipping_bounds_the_step():
    for limit in ({"clip_norm": 1e-3}, {"clip_value": 1e-4}):
        model, start = network(), network()
        trained(model, optimizer=optim.SGD(model.parameters(), lr=1.0), epochs=1, **limit)
        for after, before in zip(model.parameters(), start.parameters(), strict=True):
            difference = after.detach().numpy() - before.detach().numpy()
            assert np.abs(difference).max() <= 4 * 1e-3  # four batches


def test_the_same_seed_gives_the_same_weights():
    models = [network(3, nn.Dropout(0.5)), network(3, nn.Dropout(0.5))]
    for model in models:
        minicnn.manual_seed(7)
        trained(model, loader(seed=1))
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


class Explode(nn.Module):
    """Turns everything into infinity from its n-th training batch on."""

    def __init__(self, after):
        super().__init__()
        self.after, self.calls = after, 0
        self.register_buffer("seen", minicnn.zeros(1))

    def forward(self, x):
        if self.training:
            self.calls += 1
            with minicnn.no_grad():
                self.seen.add_(1)
        return x if self.calls <= self.after else (x * 1e30).exp()


def test_a_loss_that_is_not_finite_names_batch_op_and_layer_and_keeps_the_checkpoint(tmp_path):
    model = network(0, Explode(5))
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(TrainingError) as failure:
        trained(model, checkpoint=path)
    message = str(failure.value)
    assert "epoch 2, batch 2" in message
    assert "Exp in layer '4'" in message or "Mul in layer '4'" in message
    assert f"the last good checkpoint is {path} (after epoch 1)" in message
    assert model[4].seen.item() == 5  # the buffer is as before the failing batch
    assert path.exists()


def test_weights_spoilt_by_an_update_are_named():
    model = network()
    with pytest.raises(TrainingError, match=r"batch 2.*the update before it made '0.weight' and 3 more NaN"):
        trained(model, optimizer=optim.SGD(model.parameters(), lr=math.inf))


def test_a_gradient_that_is_not_finite_is_found_when_it_is_clipped():
    class Root(nn.Module):
        def forward(self, x):
            return (x * 0).sqrt() + x

    model = network(0, Root())
    expected = r"norm of the gradient became .*Sqrt in layer '4'.*gradient"
    with np.errstate(all="ignore"), pytest.raises(TrainingError, match=expected):
        trained(model, clip_norm=1.0)


def test_nan_in_the_data_is_told_apart_from_a_diverging_model():
    images, labels = stripes(32)[np.arange(32)]
    images = images.copy()
    images[20, 0, 3, 3] = np.nan
    batches = [
        (minicnn.tensor(images[i : i + 8]), minicnn.tensor(labels[i : i + 8])) for i in range(0, 32, 8)
    ]
    expected = r"epoch 1, batch 3: expected finite images, got NaN or infinity in 1 of 8, first at position 4"
    with pytest.raises(ValueError, match=expected):
        trained(network(), batches)


def test_bad_arguments_of_fit():
    model = network()
    with pytest.raises(ValueError, match="epochs >= 1, got 0"):
        trained(model, epochs=0)
    with pytest.raises(ValueError, match="'batch' or 'epoch', got 'step'"):
        trained(model, scheduler_step="step")
    with pytest.raises(ValueError, match="train_loader has no batches"):
        fit(model, [], optimizer=optim.SGD(model.parameters(), lr=1), epochs=1)
    with pytest.raises(ValueError, match="validation has no batches"):
        trained(model, validation=[])
    with pytest.raises(ValueError, match="none was given"):
        trained(model, resume=True)
    with pytest.raises(ValueError, match="yields no images"):
        evaluate(model, [])


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (np.zeros((4, 3, 8, 8), np.float32), np.zeros(4, np.int64), "1 channel"),
        (np.zeros((4, 1, 5, 5), np.float32), np.zeros(4, np.int64), "64"),
        (np.zeros((4, 1, 8, 8), np.float32), np.array([0, 1, 2, 0]), "2"),
        (np.zeros((4, 1, 8, 8), np.float32), np.array([0, 1, -1, 0]), "-1"),
        (np.zeros((4, 1, 8, 8), np.float32), np.zeros(3, np.int64), "3"),
    ],
)
def test_wrong_shapes_and_labels_are_errors(images, labels, expected):
    batches = [(minicnn.tensor(images), minicnn.tensor(labels))]
    with pytest.raises((ValueError, IndexError), match=expected):
        trained(network(), batches)


def test_wrong_dtypes_are_errors():
    images = np.zeros((4, 1, 8, 8), np.float32)
    with pytest.raises((TypeError, ValueError)):
        trained(network(), [(minicnn.tensor(images.astype(np.int64)), minicnn.tensor(np.zeros(4, np.int64)))])
    with pytest.raises((TypeError, ValueError)):
        trained(network(), [(minicnn.tensor(images), minicnn.tensor(np.zeros(4, np.float32)))])


class PressCtrlC(Callback):
    """Sends SIGINT to this process in a batch."""

    def __init__(self, epoch, batch):
        self.moment = (epoch, batch)

    def on_batch(self, run):
        if (run.epoch, run.batch) == self.moment:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("moment", [(0, 2), (1, 4)])
def test_ctrl_c_finishes_the_batch_and_saves(tmp_path, moment):
    path = tmp_path / "checkpoint.npz"
    whole, halved = network(0, nn.Dropout(0.5)), network(0, nn.Dropout(0.5))
    handler = signal.getsignal(signal.SIGINT)
    minicnn.manual_seed(1)
    trained(whole)
    minicnn.manual_seed(1)
    with pytest.raises(TrainingInterrupted, match=f"saved in {path}, go on from there with resume"):
        trained(halved, checkpoint=path, callbacks=[PressCtrlC(*moment)])
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = network(9, nn.Dropout(0.5))
    trained(resumed, checkpoint=path, resume=True)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


def test_ctrl_c_without_a_checkpoint_says_what_is_missing():
    with pytest.raises(TrainingInterrupted, match="pass checkpoint="):
        trained(network(), callbacks=[PressCtrlC(0, 1)])


def test_history_of_no_epochs_prints():
    assert repr(History()) == "History(0 epochs)"
