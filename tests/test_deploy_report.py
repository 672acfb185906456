"""Reports of deployed models: what is measured is what the file does, and damage is found where it is."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from test_report import Page

import minicnn
from minicnn import compress, data, deploy, models, nn
from minicnn.deploy.report import damage, measure_artefact, point, write_report
from minicnn.deploy.report.gradients import fgsm, input_gradient, saliency_drift, summed_loss, true_logits
from minicnn.deploy.report.latency import latency
from minicnn.deploy.report.tables import page
from minicnn.training.evaluate import evaluate

NAMES = ["a|b", "<i>", "c"]
NOTES = [{"layer": "fc1", "words": "fc1: 90% zeros, dense"}]


@pytest.fixture(scope="module")
def loader():
    images = np.random.default_rng(0).random((40, 1, 12, 12)).astype(np.float32)
    return data.DataLoader(data.ArrayDataset(images, np.arange(40) % 3), 16)


def network():
    minicnn.manual_seed(0)
    return models.create("simple", image_size=12, num_classes=3, width=0.25)


@pytest.fixture(scope="module")
def measured(loader, tmp_path_factory):
    """A model, its file and what was measured of it."""
    model, path = network(), tmp_path_factory.mktemp("file") / "a.mcnn"
    size = deploy.save(
        model, path, next(iter(loader))[0][:1], about={"class_names": NAMES, "stopwatch": NOTES}
    )
    return SimpleNamespace(
        model=model,
        path=path,
        size=size,
        numbers=measure_artefact(path, loader, batches=(1, 4), seconds=0.02),
    )


def test_a_file_is_measured_as_it_is(measured, loader):
    numbers, expected = measured.numbers, evaluate(measured.model, loader)
    assert numbers["bytes"] == measured.size == measured.path.stat().st_size
    assert numbers["macs"] == 12 * 12 * 8 * 9 + 6 * 6 * 16 * 8 * 9 + 3 * 3 * 16 * 32 + 32 * 3
    assert (numbers["images"], numbers["accuracy"]) == (40, expected.accuracy)
    assert numbers["loss"] == pytest.approx(expected.loss, rel=1e-4)
    assert numbers["per_class"] == expected.by_class(NAMES)
    assert [entry["batch"] for entry in numbers["latency"]] == [1, 4]
    assert all(0 < e["low_ms"] <= e["median_ms"] <= e["high_ms"] for e in numbers["latency"])
    if numbers["memory"] is not None:  # measured on Linux only
        assert 0 < numbers["memory"]["before_mib"] < numbers["memory"]["peak_mib"]
    assert numbers["threads"] == minicnn.get_num_threads()
    assert json.loads(json.dumps(numbers)) == numbers
    assert point(numbers)["latency_batch_ms"] == numbers["latency"][1]["median_ms"]


def test_latency_is_a_median_of_many_calls():
    naps = iter([0.0] * 3 + [0.002] * 8 + [0.05] * 3 + [0.002] * 100)
    found = latency(lambda images: time.sleep(next(naps)), np.zeros((2, 1)), seconds=0)
    assert (found["batch"], found["calls"]) == (2, 11)
    assert 2 <= found["low_ms"] <= found["median_ms"] < 20 < found["high_ms"]


def test_gradients_by_the_image_leave_the_model_alone(loader):
    images, targets = (x.numpy() for x in next(iter(loader)))
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 3)).train()
    gradient = input_gradient(model, images, targets, true_logits)
    weight = model[2].weight.detach().numpy()
    np.testing.assert_allclose(gradient.reshape(16, -1), weight[targets], rtol=1e-6)
    assert model[1].training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_an_attack_stays_in_its_range_and_hurts(loader):
    images, targets = (x.numpy() for x in next(iter(loader)))
    model, low, high = network(), np.zeros(1), np.ones(1)
    moved = fgsm(model, images, targets, 0.1, low, high)
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert np.abs(moved - images).max() == pytest.approx(0.1, abs=1e-6)
    with minicnn.no_grad():
        losses = [
            summed_loss(model.eval()(minicnn.tensor(x)), minicnn.tensor(targets)) for x in (images, moved)
        ]
    assert losses[1].item() > losses[0].item()
    wide = fgsm(model, 10 * images, targets, 0.1, 10 * low, 10 * high)  # the same share of another range
    assert np.abs(wide - 10 * images).max() == pytest.approx(1, abs=1e-5)


def test_maps_of_a_scaled_model_have_not_moved_and_of_another_have(loader):
    batches = [(x.numpy(), y.numpy()) for x, y in loader]
    one, scaled, other = (nn.Sequential(nn.Flatten(), nn.Linear(144, 3)) for _ in range(3))
    scaled.load_state_dict({name: 3 * value for name, value in one.state_dict().items()})
    same = saliency_drift(one, scaled, batches)
    assert same["images"] == 40
    assert same["cosine"]["mean"] == pytest.approx(1)
    assert same["rank"]["mean"] == pytest.approx(1)
    assert abs(saliency_drift(one, other, batches)["cosine"]["mean"]) < 0.5
    scaled[1].weight.data[:] = 0
    assert saliency_drift(one, scaled, batches) == {"images": 0, "without_gradient": 40}


class Fixed(nn.Module):
    """Answers image i, whose first pixel is i, with the i-th answer."""

    def __init__(self, answers):
        super().__init__()
        self.table = nn.Parameter(minicnn.tensor(np.eye(3, dtype=np.float32)[answers]))

    def forward(self, x):
        places = minicnn.tensor(np.arange(6, dtype=np.float32).reshape(1, 6))
        near = (x[:, :, 0, 0] - places) ** 2
        return (near * -20.0).softmax(dim=1) @ self.table


def test_changed_answers_are_listed_by_hand():
    images = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1)
    loader = data.DataLoader(data.ArrayDataset(images, np.array([0, 0, 1, 1, 2, 2])), 4)
    before, after = Fixed([0, 0, 1, 0, 1, 2]), Fixed([1, 0, 2, 1, 0, 2])
    found = damage(before, after, loader, class_names=["x", "y", "z"], epsilons=(0.5,), images=5)
    assert (found["images"], found["changed"]) == (6, 4)
    assert (found["forgotten"], found["learned"]) == ([0, 2], [3])
    assert found["by_class"]["y"] == {"forgotten": 1, "learned": 1}
    assert {"class": "z", "before": "y", "after": "x", "images": 1} in found["moves"]
    assert found["attack"]["images"] == 5
    assert found["attack"]["pixel_range"] == [[0.0], [5.0]]
    assert found["attack"]["before"]["0"] == pytest.approx(3 / 5)


def test_quantized_models_have_gradients_too(loader):
    before, after = network(), network()
    compress.quantize(after, [next(iter(loader))[0]], bits=8)
    found = damage(before, after.eval(), loader, epsilons=(0.05,), images=20)
    assert found["saliency"]["cosine"]["mean"] > 0.9
    assert found["attack"]["after"].keys() == {"0", "0.05"}


def test_models_of_other_classes_are_told(loader):
    other = models.create("simple", image_size=12, num_classes=4, width=0.25)
    with pytest.raises(ValueError, match=r"they give \(1, 3\) and \(1, 4\)"):
        damage(network(), other, loader)
    with pytest.raises(ValueError, match="is its data set empty"):
        damage(network(), network(), [])


def test_the_report_shows_what_was_measured_and_needs_nothing_else(measured, loader, tmp_path):
    pytest.importorskip("matplotlib")
    after = network()
    compress.prune(after, 0.9)
    hurt = damage(measured.model, after, loader, class_names=NAMES, epsilons=(0.1,), images=10)
    other = {"other": {"accuracy": 0.5, "bytes": 10, "latency_ms": 0.01}}
    numbers = measured.numbers
    written = write_report(
        tmp_path / "a.report", numbers, name="a & b", before=numbers, damage=hurt, compare=other
    )
    assert written == ["a.report.md", "a.report.json", "a.report.html"]
    held = json.loads((tmp_path / "a.report.json").read_text())
    assert (held["file"], held["damage"], held["compare"]) == (numbers, hurt, other)
    text = " ".join((tmp_path / "a.report.md").read_text().split())
    assert f"| bytes on disk | {measured.size:,} | {measured.size:,} |" in text
    assert "- fc1: 90% zeros, dense" in text
    assert f"{hurt['changed']} of 40 images are answered otherwise" in text
    assert "a\\|b" in text
    html = (tmp_path / "a.report.html").read_text()
    shown = Page()
    shown.feed(html)
    assert shown.open == []
    assert shown.tags.count("svg") == 5
    assert "http" not in html
    assert "a &amp; b" in html


def test_a_report_of_one_file_alone(measured, tmp_path):
    write_report(tmp_path / "a", measured.numbers)
    titles = [table.title for table in page(json.loads((tmp_path / "a.json").read_text())).tables]
    assert titles == ["What it costs", "Class by class"]
