"""The stopwatch: candidates give what the layer gives, the faster is chosen, what was measured is said."""

from __future__ import annotations

import numpy as np
import pytest

import minicnn
import minicnn_kernels as kernels
from minicnn import deploy, nn
from minicnn.compress import binarize, prune, quantize
from minicnn.deploy.candidates import candidates, with_choices
from minicnn.deploy.routes import route_of
from minicnn.deploy.stopwatch import choices, measure
from minicnn.graph.plan import Plan
from minicnn.tensor import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")


def net():
    minicnn.manual_seed(4)
    return nn.Sequential(
        {
            "conv": nn.Conv2d(1, 6, 5, padding=2),
            "relu": nn.ReLU(),
            "pool": nn.MaxPool2d(2),
            "flatten": nn.Flatten(),
            "fc1": nn.Linear(54, 20),
            "relu1": nn.ReLU(),
            "fc2": nn.Linear(20, 4),
        }
    ).eval()


def signs_net():
    minicnn.manual_seed(5)
    return nn.Sequential(
        {
            "conv1": nn.Conv2d(1, 6, 3, padding=1),
            "bn1": nn.BatchNorm2d(6),
            "conv2": nn.Conv2d(6, 8, 3, padding=1, stride=2),
            "bn2": nn.BatchNorm2d(8),
            "flatten": nn.Flatten(),
            "fc1": nn.Linear(72, 20),
            "bn3": nn.BatchNorm1d(20),
            "fc2": nn.Linear(20, 4, bias=False),
        }
    ).eval()


@pytest.fixture
def images(rng):
    return rng.standard_normal((5, 1, 6, 6)).astype(np.float32)


@pytest.fixture
def pruned(images):
    """90% of the weights of `conv` and `fc1` are 0."""
    model = net()
    prune(model, 0.9, layers=["conv", "fc1"])
    return deploy.lower(model, images[:2])


def clock(**factors):
    """A timer by which a candidate takes so many times the milliseconds of the dense layer."""

    def timer(runs):
        return {name: 1e-3 * factors.get(name.replace(" ", "_"), 1.0) for name in runs}

    return timer


def result(graph, images):
    return Plan(deploy.program.of_batch(graph, len(images)), None)(Tensor(images))[0].numpy()


def test_a_90_percent_sparse_convolution_is_not_sold_as_faster(pruned, images):
    graph, notes = deploy.choose(pruned, images, timer=clock(sparse_rows=3.0))
    assert [note["layer"] for note in notes] == ["conv", "fc1"]
    assert notes[0]["words"] == (
        "conv: 90% zeros, sparse rows 3.0 times slower at batch 1 and 3.0 times slower at batch 64 here: "
        "kept dense, stored sparse"
    )
    assert [note["chosen"] for note in notes] == ["dense", "dense"]
    assert [node.name for node in graph.nodes] == [node.name for node in pruned.nodes]


def test_what_is_clearly_faster_is_chosen_and_computes_the_same(pruned, images):
    graph, notes = deploy.choose(pruned, images, batches=(2, 5), timer=clock(sparse_rows=0.5))
    assert {note["chosen"] for note in notes} == {"sparse rows"}
    assert [node.name for node in graph.nodes] == [
        "SparseConv2d", "ReLU", "MaxPool2d", "Reshape", "SparseLinear", "ReLU", "Linear",
    ]  # fmt: skip
    assert notes[1]["milliseconds"] == {
        "2": {"dense": 1.0, "sparse rows": 0.5},
        "5": {"dense": 1.0, "sparse rows": 0.5},
    }
    assert notes[1]["words"].endswith("2.0 times faster at batch 5 here: computed by sparse rows")
    with minicnn.no_grad():
        np.testing.assert_allclose(result(graph, images), result(pruned, images), atol=1e-5)


@pytest.mark.parametrize(("factor", "chosen"), [(0.96, "dense"), (0.94, "sparse rows")])
def test_a_candidate_must_be_five_percent_faster(pruned, images, factor, chosen):
    _, notes = deploy.choose(pruned, images, batches=(1,), timer=clock(sparse_rows=factor))
    assert {note["chosen"] for note in notes} == {chosen}


def test_a_candidate_must_be_faster_at_every_batch(pruned, images):
    calls = []

    def timer(runs):
        calls.append(1)
        return {"dense": 1.0, "sparse rows": 0.1 if len(calls) % 2 else 1.2}

    _, notes = deploy.choose(pruned, images, timer=timer)
    assert {note["chosen"] for note in notes} == {"dense"}


@pytest.mark.parametrize("ternary", [False, True], ids=["binary", "ternary"])
def test_counted_bits_give_the_bits_of_the_quantized_layer(ternary, images, rng):
    model = signs_net()
    binarize(model, images, activations=True, ternary=ternary)
    model.train()(minicnn.tensor(rng.standard_normal((20, 1, 6, 6)).astype(np.float32)))
    model.eval()
    plain = deploy.lower(model, images)
    kind = "Ternary" if ternary else "Binary"
    graph, notes = deploy.choose(plain, images, timer=clock(counted_bits=0.2))
    assert [note["layer"] for note in notes if note["chosen"] == "counted bits"] == ["conv2", "fc1", "fc2"]
    names = [node.name for node in graph.nodes]
    assert [name for name in names if name.startswith(kind)] == [
        f"{kind}Conv2d",
        f"{kind}Linear",
        f"{kind}Linear",
    ]
    assert "Binarize" not in names  # layers that count bits take signs themselves
    with minicnn.no_grad():
        np.testing.assert_array_equal(result(graph, images), result(plain, images))
        np.testing.assert_array_equal(result(graph, images), model(minicnn.tensor(images)).numpy())


def test_a_file_runs_by_what_was_chosen(tmp_path, images, rng):
    model = signs_net()
    binarize(model, images, activations=True)
    model.eval()
    path = tmp_path / "signs.mcnn"
    _, notes = deploy.choose(deploy.lower(model, images), images, timer=clock(counted_bits=0.2))
    deploy.save(model, path, images[:2], about={"stopwatch": notes})
    artefact = deploy.load(path)
    assert artefact.about["stopwatch"] == notes
    assert [node.name for node in artefact.engine.nodes].count("BinaryLinear") == 2
    with minicnn.no_grad():
        np.testing.assert_array_equal(artefact(images), model(minicnn.tensor(images)).numpy())


@pytest.mark.parametrize(
    "notes", [None, 7, ["x"], [{"layer": "fc1", "chosen": "magic"}], [{"layer": [1], "chosen": None}]]
)
def test_notes_that_make_no_sense_choose_nothing(notes, pruned):
    graph = with_choices(pruned, choices(notes))
    assert [node.op for node in graph.nodes] == [node.op for node in pruned.nodes]


def test_layers_with_few_zeros_have_no_candidates(images):
    assert not list(candidates(deploy.lower(net(), images)))
    graph, notes = deploy.choose(deploy.lower(net(), images), images)
    assert notes == []
    assert len(graph.nodes) == 7


def test_a_wrong_candidate_is_not_timed(pruned, images, monkeypatch):
    from minicnn.functions.sparse import SparseLinear

    right = SparseLinear.forward
    monkeypatch.setattr(SparseLinear, "forward", lambda self, *arrays: right(self, *arrays) * 1.01)
    with pytest.raises(RuntimeError, match=r"sparse rows of layer 'fc1' are off by 1\.0e-02"):
        deploy.choose(pruned, images, timer=clock())


@pytest.mark.parametrize(("plain", "route"), [(2.0, "auto"), (0.5, "plain")])
def test_the_route_of_integers_is_chosen_and_used(plain, route, tmp_path, images):
    model = quantize(net(), images)
    graph = deploy.lower(model.eval(), images)
    note = deploy.choose_route(graph, images, batches=(1, 3), timer=clock(plain=plain, float=1.5))
    assert note["route"] == route_of([note]) == route
    assert note["words"].endswith(f"plain {plain:.3g} ms: route {route}")
    path = tmp_path / "integers.mcnn"
    deploy.save(model, path, images, about={"stopwatch": [note]})
    artefact = deploy.load(path)
    used = []
    whole = artefact._whole
    artefact._whole = lambda array: used.append(kernels.algorithm("integer")) or whole(array)
    with minicnn.no_grad():
        np.testing.assert_array_equal(artefact(images), model(minicnn.tensor(images)).numpy())
    assert used == [route]


def test_models_without_integers_have_no_route(images):
    assert deploy.choose_route(deploy.lower(net(), images), images) is None
    assert route_of([{"route": "magic"}, "x"]) == route_of(None) == "auto"


def test_an_empty_sample_is_refused(pruned, images):
    with pytest.raises(ValueError, match="at least one input"):
        deploy.choose(pruned, images[:0])


def test_the_real_timer_tells_slow_from_fast():
    small, large = np.ones(1000), np.ones(2_000_000)
    seconds = measure({"dense": small.sum, "other": large.sum})
    assert 0 < seconds["dense"] < seconds["other"]


@pytest.mark.parametrize("place", [1, 2], ids=["weight", "bias"])
def test_a_weight_that_is_no_constant_has_no_candidate(place, images):
    graph = deploy.lower(binarize(signs_net(), images, activations=True).eval(), images)
    node = next(node for node in graph.nodes if node.layer == "fc1" and node.name == "QuantizedLinear")
    assert [found.layer for found, _ in candidates(graph)] == ["conv2", "fc1", "fc2"]
    node.inputs = (*node.inputs[:place], graph.inputs[0], *node.inputs[place + 1 :])
    assert [found.layer for found, _ in candidates(graph)] == ["conv2", "fc2"]
