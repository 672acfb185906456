"""The articles' listings on pruning and regularization, each as what it means; a name is article and item.

Most of the listings do not run, or do not do what their text says. Quantization, transfer and distillation
are in the tests of those parts.
"""

import copy

import numpy as np
import pytest
from test_training import Callback, loader, network, stripes, trained

import minicnn
from minicnn import nn, optim
from minicnn.compress import (
    PolynomialPruning,
    Proximal,
    iterative_pruning,
    lasso_reconstruction,
    masks,
    prune,
    prune_below,
    sensitivity,
    sparsities,
    sparsity,
)
from minicnn.models import SimpleCNN
from minicnn.nn import functional as F
from minicnn.nn.transform import raw

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def learned():
    """A network that tells the stripes apart; tests work on copies."""
    model = network()
    trained(model, epochs=5)
    return model


def arrays(model):
    """The weights of all layers as they are used."""
    return {name: model.get_submodule(name).weight.detach().numpy() for name in sparsities(model)}


def accuracy(model):
    return minicnn.evaluate(model, loader(stripes(64, seed=1))).accuracy


# -- 000 ------------------------------------------------------------------------------------------


def test_000_3_4_and_4_4_clipping_saturates_what_is_large_and_a_threshold_zeroes_what_is_small(learned):
    """The text zeroes small weights and the code limits large ones; `tau` does both, by two names."""
    tau = 0.1
    clipped, pruned = copy.deepcopy(learned), copy.deepcopy(learned)
    optim.clip_weights_([raw(clipped[0], "weight"), raw(clipped[4], "weight")], tau)
    prune_below(pruned, tau)
    for name, w in arrays(learned).items():
        np.testing.assert_array_equal(arrays(clipped)[name], np.clip(w, -np.float32(tau), np.float32(tau)))
        np.testing.assert_array_equal(arrays(pruned)[name], np.where(np.abs(w) > tau, w, 0))
    assert 0 < sparsity(pruned) < 1 == np.count_nonzero(arrays(clipped)["4"]) / 128


# -- 001 ------------------------------------------------------------------------------------------


def test_001_4_1_a_pruning_by_rate_and_retraining(learned):
    model = copy.deepcopy(learned)

    def retrain(m):
        trained(m, epochs=2)
        return accuracy(m)

    results = iterative_pruning(model, (0.5, 0.8, 0.9), retrain)
    assert results[-1] >= 0.95
    assert sparsities(model) == {"0": 32 / 36, "4": 115 / 128}


def test_001_4_1_b_the_norm_of_a_weight_is_limited_not_set():
    """The listing's factor is min(1, c / norm), per output unit; it prunes nothing."""
    model = network()
    before = arrays(model)["4"].copy()
    norms = np.linalg.norm(before, axis=1, keepdims=True)
    limit = float(norms.mean())
    optim.max_norm_([raw(model[4], "weight")], limit)
    np.testing.assert_allclose(arrays(model)["4"], before * np.minimum(1, limit / norms), rtol=1e-6)
    assert np.count_nonzero(arrays(model)["4"]) == before.size


@pytest.mark.parametrize(("score", "value"), [("l1", np.abs), ("l2", np.square)])
@pytest.mark.parametrize("unit", ["weight", "filter"])
def test_001_3_1_importance_by_l1_or_l2_of_each_weight_or_filter(score, value, unit, learned):
    model = copy.deepcopy(learned)
    importance = value(arrays(model)["0"].astype(np.float64))
    importance = importance.sum(axis=(1, 2, 3)) if unit == "filter" else importance.ravel()
    prune(model, 0.5, score=score, unit=unit, layers=["0"])
    keep = masks(model)["0"]
    keep = keep.all(axis=(1, 2, 3)) if unit == "filter" else keep.ravel()
    assert importance[~keep].max() <= importance[keep].min()
    assert (~keep).sum() == keep.size // 2


def test_001_3_2_and_4_2_the_penalty_is_l1_plus_squared_l2_of_the_weights_alone():
    model = network()
    weights = [raw(model[0], "weight"), raw(model[4], "weight")]
    x, y = next(iter(loader()))
    loss = F.cross_entropy(model(x), y)
    plain = loss.item()
    total = loss + nn.l1_penalty(weights, 0.001) + nn.l2_penalty(weights, 0.0001)
    w = np.concatenate([v.ravel() for v in arrays(model).values()]).astype(np.float64)
    assert total.item() == pytest.approx(
        plain + 0.001 * np.abs(w).sum() + 0.0001 * np.square(w).sum(), rel=1e-6
    )

    total.backward()
    by_penalty = {name: p.grad.numpy().copy() for name, p in model.named_parameters()}
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    for name, p in model.named_parameters():
        v = p.detach().numpy()
        extra = 0.001 * np.sign(v) + 0.0002 * v if name.endswith("weight") else 0
        np.testing.assert_allclose(by_penalty[name], p.grad.numpy() + extra, rtol=1e-4, atol=1e-6)


# -- 002 ------------------------------------------------------------------------------------------


def test_002_cutting_and_pruning_are_two_scores_magnitude_and_change_of_the_loss():
    """A large weight on an input that is always 0 is kept by its magnitude and dropped by what it does."""
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    model[0].weight = nn.Parameter([[9.0, 0.5, -0.4], [8.0, -0.3, 0.6]])
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 3)).astype(np.float32)
    x[:, 0] = 0
    data = [(minicnn.tensor(x), minicnn.tensor((x[:, 1] < x[:, 2]).astype(np.int64)))]
    by_magnitude, by_loss = copy.deepcopy(model), copy.deepcopy(model)
    prune(by_magnitude, 1 / 3)
    prune(by_loss, 1 / 3, score="taylor", data=data)
    assert arrays(by_magnitude)["0"][:, 0].tolist() == [9, 8]
    assert arrays(by_loss)["0"][:, 0].tolist() == [0, 0]
    losses = [F.cross_entropy(m(data[0][0]), data[0][1]).item() for m in (model, by_loss, by_magnitude)]
    assert losses[0] == losses[1] < losses[2]


def test_002_the_threshold_makes_a_mask_of_the_same_shape_in_every_layer():
    """The listing compares rows with a number, and would have changed the weight's shape."""
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    before = {name: w.copy() for name, w in arrays(model).items()}
    prune_below(model, 0.05)
    for name, keep in masks(model).items():
        assert keep.shape == arrays(model)[name].shape
        np.testing.assert_array_equal(keep, np.abs(before[name]) > 0.05)
    assert list(masks(model)) == ["0", "2"]
    assert model(minicnn.tensor(np.ones((3, 32), np.float32))).shape == (3, 10)


def test_002_the_lasso_as_training_makes_weights_exactly_zero(learned):
    model = copy.deepcopy(learned)
    trained(model, epochs=6, callbacks=[Proximal(0.1)])
    zeros = sum(np.count_nonzero(w == 0) for w in arrays(model).values())
    assert zeros > 80
    assert accuracy(model) >= 0.95
    prune_below(model, 0)
    assert sparsity(model) == zeros / 164
    trained(model, epochs=1)
    assert sparsity(model) == zeros / 164


def test_002_the_lasso_as_reconstruction_regresses_a_layers_output_on_its_inputs(learned):
    """Not the labels on the images, as the listing would have."""
    model = copy.deepcopy(learned)
    images = [images for images, _ in loader(stripes(64, seed=2))]
    error = lasso_reconstruction(model, "4", 0.5, images)
    keep = masks(model)["4"]
    assert (~keep).all(axis=0).sum() == 32
    assert (keep.all(axis=0) | (~keep).all(axis=0)).all()
    assert error < 0.1
    assert accuracy(model) >= 0.95


# -- 003 ------------------------------------------------------------------------------------------


def test_003_3_1_ranking_changes_the_output_less_than_choosing_at_random(learned):
    images = minicnn.tensor(stripes(64, seed=1).images)

    def change(**options):
        model = copy.deepcopy(learned)
        prune(model, 0.5, **options)
        return (model(images) - learned(images)).square().mean().item()

    by_chance = [change(score="random", seed=seed) for seed in range(5)]
    assert change() < min(by_chance)


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.75])
def test_003_3_1_equal_parts_of_the_ranking_are_rates_and_tau_is_their_quantile(rate, learned):
    by_rate, by_threshold = copy.deepcopy(learned), copy.deepcopy(learned)
    w = np.sort(np.abs(arrays(learned)["4"]), axis=None)
    tau = float(w[round(rate * w.size) - 1])
    prune(by_rate, rate, layers=["4"])
    prune_below(by_threshold, tau, layers=["4"])
    np.testing.assert_array_equal(arrays(by_rate)["4"], arrays(by_threshold)["4"])


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_003_4_1_weight_pruning_by_rate_zeroes_the_k_smallest_and_keeps_every_shape(scope):
    """The listing indexes rows out of range, and in one dimension keeps the smallest."""
    minicnn.manual_seed(0)
    model = SimpleCNN()
    before = {name: np.abs(w) for name, w in arrays(model).items()}
    prune(model, 0.5, scope=scope)
    after = arrays(model)
    groups = [list(before)] if scope == "global" else [[name] for name in before]
    for names in groups:
        was = np.concatenate([before[name].ravel() for name in names])
        zero = np.concatenate([after[name].ravel() for name in names]) == 0
        assert zero.sum() == round(0.5 * was.size)
        assert was[zero].max() <= was[~zero].min()
    assert all(after[name].shape == w.shape for name, w in before.items())


def test_003_3_4_importance_by_the_error_of_the_output():
    """First order: the score of a filter is what the loss changes by, as the filter shrinks a little."""
    model = network().double()
    images, targets = next(iter(loader()))
    data = [(images.numpy().astype(np.float64), targets)]
    scores = minicnn.compress.scores.unit_scores(
        "taylor", model, {"0": model[0]}, "filter", data=data, loss=F.cross_entropy
    )["0"]

    def loss(m):
        return F.cross_entropy(m(minicnn.tensor(data[0][0])), targets).item()

    for i in range(4):
        smaller = copy.deepcopy(model)
        raw(smaller[0], "weight").data[i] *= 1 - 1e-6
        assert scores[i] == pytest.approx(abs(loss(smaller) - loss(model)) / 1e-6, rel=1e-3)


def test_003_4_3_the_schedule_prunes_while_the_model_is_fitted_not_after():
    rates = []

    class Watch(Callback):
        def on_epoch(self, run):
            rates.append(sparsities(run.model)["4"])

    model = network()
    history = trained(
        model,
        epochs=6,
        callbacks=[PolynomialPruning(1, 4, 0.25, 0.9), Watch()],
        validation=loader(stripes(64, seed=1)),
    )
    expected = [0.9 - 0.65 * (1 - p) ** 3 for p in (0, 1 / 3, 2 / 3, 1, 1, 1)]
    assert rates == [round(rate * 128) / 128 for rate in expected]
    assert history[-1]["validation_accuracy"] >= 0.9


def test_003_2_2_how_much_to_prune_is_picked_by_what_it_costs(learned):
    model = copy.deepcopy(learned)
    picked = sensitivity(model, accuracy, rates=(0.5, 0.7, 0.9)).pick(0.02)
    prune(model, picked)
    assert max(picked.values()) > 0
    trained(model, epochs=1)
    assert accuracy(model) >= accuracy(learned) - 0.02
