"""The sensitivity scan: what it measures, what it leaves alone, and the rates picked from it."""

import copy

import numpy as np
import pytest
from test_training import loader, network, stripes, trained

import minicnn
from minicnn.compress import Sensitivity, prune, sensitivity, sparsities
from minicnn.compress.sensitivity import Row
from minicnn.nn.transform import attached

pytestmark = pytest.mark.usefixtures("one_thread")


def state(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def assert_untouched(model, before):
    after = state(model)
    assert list(before) == list(after)
    for name, value in before.items():
        assert value.tobytes() == after[name].tobytes(), name
    assert not list(attached(model))


def nonzeros(model):
    return {name: np.count_nonzero(model.get_submodule(name).weight.detach().numpy()) for name in ("0", "4")}


def accuracy(model):
    return minicnn.evaluate(model, loader(stripes(64, seed=1))).accuracy


def test_each_layer_is_pruned_alone_at_each_rate():
    model, seen = network(), []

    def evaluate(trial):
        seen.append(nonzeros(trial))
        return -len(seen)

    result = sensitivity(model, evaluate, rates=(0.75, 0.5))
    assert seen == [
        {"0": 36, "4": 128},
        {"0": 18, "4": 128},
        {"0": 9, "4": 128},
        {"0": 36, "4": 64},
        {"0": 36, "4": 32},
    ]
    assert result.baseline == -1
    assert result.rows == [
        Row("0", 0.5, 0.5, -2, 1),
        Row("0", 0.75, 0.75, -3, 2),
        Row("4", 0.5, 0.5, -4, 3),
        Row("4", 0.75, 0.75, -5, 4),
    ]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_weights_are_the_same_bits_afterwards_whatever_happens(error):
    model = network()
    before = state(model)
    calls = []

    def evaluate(trial):
        calls.append(1)
        trained(trial, epochs=1)  # it may even train what it gets
        if len(calls) == 4:
            raise error
        return 0.0

    with pytest.raises(error):
        sensitivity(model, evaluate, rates=(0.5, 0.9))
    assert_untouched(model, before)
    calls[:] = [1] * 4
    sensitivity(model, evaluate, rates=(0.5,))
    assert_untouched(model, before)
    assert model.training


def test_a_compiled_model_is_scanned_as_well():
    model = network()
    trained(model, epochs=4)
    plain = sensitivity(model, accuracy, rates=(0.5, 0.9))
    compiled = sensitivity(minicnn.compile(model), accuracy, rates=(0.5, 0.9))
    assert plain == compiled
    assert plain.baseline > 0.9


def test_options_of_prune_are_handed_on():
    seen = []

    def evaluate(trial):
        seen.append(trial.get_submodule("0").weight.detach().numpy())
        return 0.0

    result = sensitivity(network(), evaluate, rates=(0.5, 0.95), layers=["0"], unit="filter", score="l2")
    assert [(row.layer, row.rate) for row in result.rows] == [("0", 0.5)], "0.95 would leave no filter"
    assert (seen[1] == 0).all(axis=(1, 2, 3)).sum() == 2


def test_the_rates_that_are_picked_stay_within_the_drop_and_can_be_pruned():
    drops = {"0": (0.001, 0.03, 0.002), "4": (0.0, -0.01, 0.009), "8": (0.5, 0.6, 0.7)}
    rows = [
        Row(layer, rate, rate, 0.9 - drop, drop)
        for layer, row in drops.items()
        for rate, drop in zip((0.5, 0.7, 0.9), row, strict=True)
    ]
    picked = Sensitivity(0.9, rows).pick(0.01)
    assert picked == {"0": 0.5, "4": 0.9, "8": 0.0}, "0.9 of layer 0 comes after a rate that failed"
    model = network()
    prune(model, {name: picked[name] for name in ("0", "4")})
    assert sparsities(model) == {"0": 0.5, "4": round(0.9 * 128) / 128}


def test_picked_rates_keep_the_accuracy_of_each_layer_alone():
    model = network()
    trained(model, epochs=4)
    result = sensitivity(model, accuracy)
    for name, rate in result.pick(0.02).items():
        trial = copy.deepcopy(model)
        prune(trial, {name: rate})
        assert accuracy(trial) >= result.baseline - 0.02


def test_the_table_reads_row_by_row():
    text = str(Sensitivity(0.925, [Row("conv1", 0.5, 0.5, 0.9, 0.025), Row("fc", 0.9, 0.9, 0.93, -0.005)]))
    assert text.splitlines() == [
        "layer   rate  sparsity   value     drop",
        "none                    0.9250",
        "conv1   0.50    0.5000  0.9000  +0.0250",
        "fc      0.90    0.9000  0.9300  -0.0050",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": (0.5, 1.0)}, r"sensitivity: rate must be a number in \[0, 1\), got 1.0"),
        ({"layers": ["5"]}, "no layer '5'"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_evaluated(options, message):
    with pytest.raises(ValueError, match=message):
        sensitivity(network(), lambda model: pytest.fail("evaluated"), **options)
