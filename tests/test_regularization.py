"""What regularization does to training, each kind against the same training without it."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

import minicnn
from minicnn import nn, optim
from minicnn.nn import functional as F

FEATURES, USEFUL = 40, 4


pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def problem():
    """A few noisy rows with many features, of which few matter: easy to learn by heart. Train, then test."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((560, FEATURES)).astype(np.float32)
    clean = x[:, :USEFUL] @ np.array([2, -2, 1.5, -1.5], np.float32)
    y = (clean + rng.standard_normal(560) > 0).astype(np.int64)
    return (x[:60], y[:60]), (x[60:], y[60:])


def mlp(dropout=0.0):
    minicnn.manual_seed(0)
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(FEATURES, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 2)
    )


def train(model, steps=300, penalty=None, after=None, l1=0.0, weight_decay=0.0, lr=0.1):
    (x, y), _ = problem()
    x, y = minicnn.tensor(x), minicnn.tensor(y)
    groups = optim.parameter_groups(model, weight_decay=weight_decay, l1=l1)
    optimizer = optim.SGD(groups, lr=lr, momentum=0.9)
    for _ in range(steps):
        loss = F.cross_entropy(model(x), y)
        if penalty is not None:
            loss = loss + penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if after is not None:
            after(model)
    return model


def weights(model):
    return [p for p in model.parameters() if p.ndim > 1]


def values(model):
    return np.concatenate([w.detach().numpy().ravel() for w in weights(model)])


def losses(model):
    """Loss on the training rows and on the test rows."""
    model.eval()
    with minicnn.no_grad():
        return [F.cross_entropy(model(minicnn.tensor(x)), minicnn.tensor(y)).item() for x, y in problem()]


@functools.cache
def plain():
    return train(mlp())


def test_without_regularization_the_rows_are_learned_by_heart():
    train_loss, test_loss = losses(plain())
    assert train_loss < 0.01
    assert test_loss > 1


def test_l1_drives_most_weights_to_nearly_zero_and_narrows_the_gap():
    sparse = train(mlp(), l1=0.01)
    near_zero = [np.mean(abs(values(model)) < 0.01) for model in (plain(), sparse)]
    assert near_zero[0] < 0.1
    assert near_zero[1] > 0.7
    assert losses(sparse)[1] < losses(plain())[1] / 2


def test_l1_keeps_the_features_that_matter():
    first = abs(train(mlp(), l1=0.01)[1].weight.detach().numpy()).sum(0)
    assert first[:USEFUL].min() > first[USEFUL:].mean()


def test_l2_makes_weights_small_but_not_zero_and_narrows_the_gap():
    decayed = train(mlp(), weight_decay=0.03)
    norms = [np.linalg.norm(values(model)) for model in (plain(), decayed)]
    assert norms[1] < norms[0] / 2
    assert losses(decayed)[1] < losses(plain())[1] / 2


@pytest.mark.parametrize(
    ("option", "penalty"),
    [
        ({"l1": 0.01}, lambda model: nn.l1_penalty(weights(model), 0.01)),
        ({"weight_decay": 0.02}, lambda model: nn.l2_penalty(weights(model), 0.01)),
    ],
)
def test_a_penalty_in_the_loss_and_the_option_of_the_optimizer_are_the_same(option, penalty):
    by_option, by_penalty = train(mlp(), steps=20, **option), train(mlp(), steps=20, penalty=penalty)
    np.testing.assert_allclose(values(by_option), values(by_penalty), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_decay_and_l1_touch_weights_only_unless_asked(name):
    def moved(decay_all):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
        with minicnn.no_grad():
            for p in model.parameters():
                p.fill_(1)
        groups = optim.parameter_groups(model, weight_decay=0.1, l1=0.1, decay_all=decay_all)
        optimizer = getattr(optim, name)(groups, lr=0.1)
        for p in model.parameters():
            p.grad = minicnn.zeros(p.shape)
        optimizer.step()
        return {key for key, p in model.named_parameters() if (p.detach().numpy() < 1).all()}

    assert moved(decay_all=False) == {"0.weight", "3.weight"}
    assert moved(decay_all=True) == {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"}


def test_bare_parameters_all_decay_as_in_pytorch():
    layer = nn.Linear(2, 2)
    optimizer = optim.SGD(layer.parameters(), lr=1.0, weight_decay=0.5)
    before = layer.bias.detach().numpy().copy()
    for p in layer.parameters():
        p.grad = minicnn.zeros(p.shape)
    optimizer.step()
    np.testing.assert_allclose(layer.bias.detach().numpy(), before / 2, rtol=1e-6)


def test_max_norm_holds_after_every_step_and_narrows_the_gap():
    largest = []

    def constrain(model):
        optim.max_norm_(model.parameters(), 0.5)
        largest.extend(np.linalg.norm(w.detach().numpy(), axis=1).max() for w in weights(model))

    model = train(mlp(), after=constrain)
    assert max(largest) <= 0.5 * (1 + 1e-6)
    assert losses(model)[1] < losses(plain())[1] / 2


def test_max_norm_leaves_short_rows_and_biases_alone():
    weight = nn.Parameter(np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], np.float32))
    bias = nn.Parameter(np.array([9.0], np.float32))
    optim.max_norm_([weight, bias], 2.0)
    np.testing.assert_allclose(weight.detach().numpy(), [[1.2, 1.6], [0.3, 0.4], [0, 0]], rtol=1e-6)
    assert bias.item() == 9
    optim.max_norm_(weight, 1.0, dim=1)
    np.testing.assert_allclose(np.linalg.norm(weight.detach().numpy(), axis=0), [1, 1], rtol=1e-6)


def test_max_norm_of_a_convolution_is_per_filter():
    conv = nn.Conv2d(3, 4, 3)
    optim.max_norm_(conv.weight, 0.1)
    norms = np.linalg.norm(conv.weight.detach().numpy().reshape(4, -1), axis=1)
    np.testing.assert_allclose(norms, 0.1, rtol=1e-5)


def test_clipped_weights_stay_within_their_limit():
    model = train(mlp(), steps=50, after=lambda model: optim.clip_weights_(weights(model), 0.05))
    assert abs(values(model)).max() <= np.float32(0.05)
    assert losses(model)[1] < losses(plain())[1]


def test_constraints_refuse_negative_limits():
    for constrain in (optim.max_norm_, optim.clip_weights_):
        with pytest.raises(ValueError, match="must be a number of at least 0, got -1"):
            constrain([nn.Linear(2, 2).weight], -1)


def test_dropout_narrows_the_gap():
    noisy = train(mlp(dropout=0.5))
    gaps = [test - train for train, test in (losses(plain()), losses(noisy))]
    assert gaps[1] < 0.6 * gaps[0]


def test_dropout_keeps_the_expectation_and_drops_the_right_share():
    minicnn.manual_seed(0)
    ones = minicnn.ones(200, 500)
    out = nn.Dropout(0.3)(ones).numpy()
    assert (out == 0).mean() == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / out.size))
    assert out.mean() == pytest.approx(1, abs=0.01)
    channels = nn.Dropout2d(0.5)(minicnn.ones(20, 50, 3, 3)).numpy()
    assert set(np.unique(channels.reshape(1000, 9).sum(1))) == {0, 18}  # a channel lives or dies as one


def badly_scaled(normalized):
    """Six layers whose weights are a third of what they should be, so that signals fade towards the end."""
    minicnn.manual_seed(0)
    layers = []
    for i in range(6):
        linear = nn.Linear(FEATURES if i == 0 else 32, 32)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        with minicnn.no_grad():
            linear.weight.mul_(0.2)
        layers += [linear, *([nn.BatchNorm1d(32)] if normalized else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 2))


def test_batch_norm_makes_a_badly_scaled_deep_net_train():
    without, with_norm = (losses_after(badly_scaled(normalized), 60) for normalized in (False, True))
    assert without > 0.9 * math.log(2)  # has learned nothing
    assert with_norm < 0.1


def losses_after(model, steps):
    train(model, steps=steps, lr=0.05)
    return losses(model)[0]
