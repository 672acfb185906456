"""prune: how many go, which ones, that they stay away, and what is refused."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minicnn
from minicnn import nn
from minicnn.compress import (
    layers_of,
    low_rank,
    masks,
    prune,
    prune_below,
    select_layers,
    sparsities,
    sparsity,
)
from minicnn.models import LeNet300_100, ResNet20, SimpleCNN
from minicnn.nn import functional as F
from minicnn.nn.transform import attached, find, raw
from minicnn_kernels import reference

pytestmark = pytest.mark.usefixtures("one_thread")


def net(seed=0):
    """3 (N, 2, 8, 8) images to 5 classes: conv, norm, conv of two groups, dense."""
    minicnn.manual_seed(seed)
    return nn.Sequential(
        {
            "conv1": nn.Conv2d(2, 8, 3, padding=1),
            "bn1": nn.BatchNorm2d(8),
            "relu1": nn.ReLU(),
            "conv2": nn.Conv2d(8, 6, 3, stride=2, padding=1, groups=2),
            "relu2": nn.ReLU(),
            "flatten": nn.Flatten(),
            "fc": nn.Linear(96, 5),
        }
    )


def batch(n=8, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((n, 2, 8, 8)).astype(np.float32)
    return minicnn.tensor(images), minicnn.tensor(rng.integers(0, 5, n))


def weight(model, name):
    """The weight of a layer as it is used, an array."""
    return model.get_submodule(name).weight.detach().numpy()


def state(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def assert_same_state(before, after):
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


# -- how many -------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0.0, -1.0, 1.0, 1.0, 0.5]), min_size=12, max_size=12), st.floats(0, 0.95))
def test_exactly_the_rounded_number_goes_in_spite_of_ties(entries, rate):
    layer = nn.Linear(4, 3)
    layer.weight = nn.Parameter(np.array(entries, np.float32).reshape(3, 4))
    model = nn.Sequential(layer)
    prune(model, rate)
    keep = find(layer, "weight", "mask").keep.numpy()
    assert keep.size - np.count_nonzero(keep) == round(rate * 12)
    gone, left = np.abs(np.array(entries))[~keep.ravel()], np.abs(np.array(entries))[keep.ravel()]
    assert gone.max(initial=0) <= left.min()


def test_of_equal_weights_the_first_go():
    model = nn.Sequential(nn.Conv2d(2, 3, 2))
    model[0].weight = nn.Parameter(np.ones((3, 2, 2, 2), np.float32))
    prune(model, 0.5)
    np.testing.assert_array_equal(weight(model, "0").ravel(), np.arange(24) >= 12)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 0.95])
def test_layer_by_layer_each_loses_its_share(rate):
    model = net()
    result = prune(model, rate)
    for name in ("conv1", "conv2", "fc"):
        size = weight(model, name).size
        assert np.count_nonzero(weight(model, name)) == size - round(rate * size)
        assert result[name] == pytest.approx(round(rate * size) / size)
    assert result == sparsities(model)


def test_globally_the_model_loses_its_share_where_it_weighs_least():
    model = net()
    raw(model.fc, "weight").data *= 0.4
    before = {name: np.abs(weight(model, name)) for name in ("conv1", "conv2", "fc")}
    prune(model, 0.5, scope="global")
    total = sum(w.size for w in before.values())
    zeros = {name: weight(model, name) == 0 for name in before}
    assert sum(z.sum() for z in zeros.values()) == round(0.5 * total)
    assert sparsity(model) == pytest.approx(round(0.5 * total) / total)
    gone = np.concatenate([before[name][zeros[name]] for name in before])
    left = np.concatenate([before[name][~zeros[name]] for name in before])
    assert gone.max() <= left.min()
    assert zeros["fc"].mean() > 0.6 > 2 * zeros["conv1"].mean()


def test_rates_by_layer_and_pattern():
    result = prune(net(), {"conv*": 0.5, "fc": 0.25})
    assert result == {"conv1": 0.5, "conv2": 0.5, "fc": 0.25}


def test_only_the_layers_that_are_named_are_touched():
    model = net()
    assert prune(model, 0.5, layers=["conv2"]) == {"conv2": 0.5}
    assert [found.path for found in attached(model, "mask")] == ["conv2"]


# -- units ----------------------------------------------------------------------------------------


def test_filters_go_as_a_whole_those_of_the_smallest_mean():
    model = net()
    norms = np.abs(weight(model, "conv1")).mean(axis=(1, 2, 3))
    prune(model, 0.25, unit="filter")
    dead = (weight(model, "conv1") == 0).all(axis=(1, 2, 3))
    assert set(np.flatnonzero(dead)) == set(np.argsort(norms)[:2])
    assert (weight(model, "conv1") == 0).sum() == 2 * 18
    assert "fc" not in masks(model), "the classes are no filters to prune"


def test_input_channels_of_a_grouped_convolution_are_those_of_its_groups():
    model = net()
    norms = np.abs(weight(model, "conv2")).reshape(2, 3, 4, 9).mean(axis=(1, 3)).ravel()
    prune(model, 0.5, unit="channel", layers=["conv2"])
    dead = (weight(model, "conv2").reshape(2, 3, 4, 9) == 0).all(axis=(1, 3)).ravel()
    assert set(np.flatnonzero(dead)) == set(np.argsort(norms)[:4])
    x, _ = batch()
    changed = model.relu1(model.bn1(model.conv1(x)))
    before = model.conv2(changed).detach().numpy()
    spoilt = changed.detach().numpy().copy()
    spoilt[:, dead] = 7
    np.testing.assert_array_equal(model.conv2(minicnn.tensor(spoilt)).detach().numpy(), before)


def test_channels_spare_the_images_and_filters_the_classes_unless_named():
    assert list(layers_of(net(), unit="channel")) == ["conv2", "fc"]
    assert list(layers_of(net(), unit="filter")) == ["conv1", "conv2"]
    assert list(layers_of(net(), ["fc"], unit="filter")) == ["fc"]


@pytest.mark.parametrize(("unit", "axis"), [("filter", 1), ("channel", 0)])
def test_a_transposed_convolution_has_its_filters_along_the_other_axis(unit, axis):
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3))
    prune(model, 0.5, unit=unit, layers=["0"])
    others = tuple(i for i in range(4) if i != axis)
    assert (weight(model, "0") == 0).all(axis=others).sum() == (4, 6)[axis] // 2


@pytest.mark.parametrize(("unit", "n", "m"), [("2:4", 2, 4), ("1:4", 1, 4), ("1:2", 1, 2)])
def test_n_of_m_keeps_the_n_largest_of_every_m_neighbours(unit, n, m):
    model = net()
    before = np.abs(weight(model, "conv2"))
    assert prune(model, unit=unit) == {
        name: 1 - n / m for name in layers_of(net(), unit=unit) if name in ("conv1", "conv2", "fc")
    }
    blocks = before.reshape(6, 4 // m, m, 3, 3)
    keep = weight(model, "conv2").reshape(blocks.shape) != 0
    assert (keep.sum(axis=2) == n).all()
    assert (np.where(keep, blocks, np.inf).min(axis=2) >= np.where(keep, 0, blocks).max(axis=2)).all()


def test_n_of_m_by_default_leaves_out_layers_that_do_not_divide():
    assert list(prune(net(), unit="2:4")) == ["conv2", "fc"]


# -- scores ---------------------------------------------------------------------------------------


def test_l2_squares_before_it_adds():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].weight = nn.Parameter([[3.0, 3.0], [5.0, 0.0]])
    l1, l2 = (copy.deepcopy(model) for _ in range(2))
    prune(l1, 0.5, unit="filter", layers="*")
    prune(l2, 0.5, unit="filter", layers="*", score="l2")
    np.testing.assert_array_equal(weight(l1, "0"), [[3, 3], [0, 0]])
    np.testing.assert_array_equal(weight(l2, "0"), [[0, 0], [5, 0]])


@pytest.mark.parametrize("unit", ["weight", "filter", "channel"])
def test_taylor_is_the_change_of_the_loss_to_first_order(unit):
    """Scaling a unit by 1 - t and differentiating at t = 0 gives the score, batch by batch, in eval mode."""
    model = net().double()
    data = [(x.numpy().astype(np.float64), y) for x, y in (batch(seed=1), batch(seed=2))]
    scores = minicnn.compress.scores.unit_scores(
        "taylor", model, select_layers(model), unit, data=data, loss=F.cross_entropy
    )
    model.eval()
    axis = {"filter": 0, "channel": 1}.get(unit)
    for name in ("conv1", "fc"):
        parameter = raw(model.get_submodule(name), "weight")
        start = parameter.detach().numpy().copy()
        for index in (0, 1, 4 if name == "fc" else 1):
            where = np.unravel_index(index, start.shape) if axis is None else (slice(None),) * axis + (index,)
            slopes = []
            for images, targets in data:
                sides = []
                for t in (1e-5, -1e-5):
                    changed = start.copy()
                    changed[where] *= 1 - t
                    parameter.data = changed
                    sides.append(F.cross_entropy(model(minicnn.tensor(images)), targets).item())
                slopes.append(abs(sides[0] - sides[1]) / 2e-5)
            parameter.data = start
            assert scores[name][index] == pytest.approx(np.mean(slopes), rel=1e-5, abs=1e-9)


def test_taylor_leaves_gradients_modes_and_frozen_weights_as_they_were():
    model = net()
    x, y = batch()
    F.cross_entropy(model(x), y).backward()
    raw(model.conv2, "weight").requires_grad_(False)
    before, grad = state(model), model.fc.weight.grad.numpy().copy()
    prune(model, 0.5, score="taylor", data=[(x, y)], layers=["conv2"])
    np.testing.assert_array_equal(model.fc.weight.grad.numpy(), grad)
    assert not raw(model.conv2, "weight").requires_grad
    assert all(module.training for module in model.modules())
    after = state(model)
    for name in before.keys() - {"conv2.weight"}:
        np.testing.assert_array_equal(before[name], after[name])


def test_random_depends_on_its_seed_alone():
    first, same, other = (net(seed) for seed in (0, 1, 0))
    for model, seed in ((first, 3), (same, 3), (other, 4)):
        before = minicnn.get_rng_state()
        prune(model, 0.5, score="random", seed=seed)
        assert minicnn.get_rng_state() == before
    keep = [masks(model)["fc"] for model in (first, same, other)]
    np.testing.assert_array_equal(keep[0], keep[1])
    assert (keep[0] != keep[2]).any()


@pytest.mark.parametrize(("unit", "layer"), [("filter", "conv1"), ("channel", "conv2")])
def test_bn_scale_ranks_by_the_norm_beside_the_layer(unit, layer):
    model = net()
    gamma = np.array([3, -0.1, 2, 5, 0.2, -4, 1, 6], np.float32)
    model.bn1.weight = nn.Parameter(gamma)
    prune(model, 0.25, unit=unit, score="bn_scale", layers=[layer])
    keep = masks(model)[layer]
    keep = keep.all(axis=(1, 2, 3)) if unit == "filter" else keep.reshape(2, 3, 4, 9).all(axis=(1, 3)).ravel()
    assert set(np.flatnonzero(~keep)) == {1, 4}


def test_bn_scale_by_default_takes_the_layers_that_have_such_a_norm():
    assert list(layers_of(net(), unit="filter", score="bn_scale")) == ["conv1"]
    assert len(layers_of(ResNet20(), unit="filter", score="bn_scale")) == 19


# -- again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["l1", "random"])
def test_a_hard_mask_only_grows(score):
    model = net()
    previous = None
    for i, rate in enumerate((0.3, 0.6, 0.9)):
        prune(model, rate, score=score, seed=i)
        keep = masks(model)["fc"]
        assert (~keep).sum() == round(rate * keep.size)
        if previous is not None:
            assert not (keep & ~previous).any()
        previous = keep


def test_a_hard_mask_refuses_to_shrink_and_a_soft_one_brings_weights_back():
    model = net()
    prune(model, 0.8, hard=False)
    before = state(model)
    with pytest.raises(
        ValueError, match=r"'conv1' has 115 of 144 weights pruned already, and rate 0\.2 is 29"
    ):
        prune(model, 0.2)
    assert_same_state(before, state(model))
    hidden = np.abs(raw(model.fc, "weight").detach().numpy())
    assert prune(model, 0.2, hard=False)["fc"] == 0.2
    assert np.count_nonzero(weight(model, "fc")) == hidden.size - round(0.2 * hidden.size)


def test_a_mask_ranks_what_it_gets_from_a_low_rank_form():
    model = net()
    low_rank(model, rank=2, layers=["fc"])
    before = np.abs(weight(model, "fc"))
    prune(model, 0.5, layers=["fc"])
    zero = weight(model, "fc") == 0
    assert zero.sum() == 240
    assert before[zero].max() <= before[~zero].min()
    with pytest.raises(ValueError, match="no gradient of the loss reaches the weight of layer 'fc'"):
        prune(model, 0.8, layers=["fc"], score="taylor", data=[batch()])


def test_filters_may_follow_weights():
    model = net()
    prune(model, 0.5)
    before = masks(model)["conv1"]
    prune(model, 0.25, unit="filter", layers=["conv1"])
    after = masks(model)["conv1"]
    assert not (after & ~before).any()
    assert (~after).all(axis=(1, 2, 3)).sum() == 2


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.0}, r"rate must be a number in \[0, 1\), got 1.0"),
        ({"rate": -0.1}, r"rate must be a number in \[0, 1\), got -0.1"),
        ({"rate": float("nan")}, "got nan"),
        ({"rate": "0.5"}, "got '0.5'"),
        ({"rate": True}, "got True"),
        ({}, "got None"),
        ({"rate": {"conv1": 0.5, "fc": 2}}, "got 2"),
        ({"rate": {}}, "rate is an empty dict"),
        ({"rate": {"fc": 0.5}, "layers": ["fc"]}, "rates by layer exclude layers="),
        ({"rate": {"fc": 0.5}, "scope": "global"}, "rates by layer exclude layers= and scope='global'"),
        ({"rate": 0.5, "layers": ["conv3"]}, "no layer 'conv3'; did you mean 'conv2'"),
        ({"rate": {"conv1": 0.5, "cf": 0.5}}, "no layer 'cf'; did you mean 'fc'"),
        ({"rate": 0.5, "layers": ["bn1"]}, "layer 'bn1' is a BatchNorm2d, which this does not apply to"),
        ({"rate": 0.5, "scope": "model"}, "expected scope 'layer' or 'global', got 'model'"),
        ({"rate": 0.5, "unit": "row"}, "unknown unit 'row'; expected weight, filter, channel or n:m"),
        ({"rate": 0.5, "unit": "4:2"}, "unknown unit '4:2'"),
        ({"rate": 0.3, "unit": "2:4"}, "2:4 is a rate of 0.5"),
        ({"unit": "2:4", "layers": ["conv1"]}, r"layer 'conv1' has a weight of shape \(8, 2, 3, 3\)"),
        ({"rate": 0.5, "score": "l3"}, "unknown score 'l3'; expected one of l1, l2, taylor"),
        ({"rate": 0.5, "score": "taylor"}, "score 'taylor' needs data="),
        ({"rate": 0.5, "score": "taylor", "data": []}, "data yields no batches"),
        ({"rate": 0.5, "score": "bn_scale"}, "ranks filters or channels"),
        ({"rate": 0.5, "score": "bn_scale", "unit": "filter", "layers": ["fc"]}, "directly after layer 'fc'"),
        ({"rate": 0.95, "unit": "filter"}, "rate 0.95 would prune all 8 filters of layer 'conv1'"),
        ({"rate": 0.95, "scope": "global", "layers": ["conv1", "fc"]}, "layer 'conv1' would lose everything"),
    ],
)
def test_what_makes_no_sense_is_refused_and_the_model_stays_as_it_was(options, message):
    model = net()
    if "global" in options.values():  # the first layer weighs least
        raw(model.conv1, "weight").data *= 1e-4
    before = state(model)
    with pytest.raises(ValueError, match=message):
        prune(model, **options)
    assert_same_state(before, state(model))
    assert not list(attached(model))


def test_weights_that_are_not_finite_cannot_be_ranked():
    model = net()
    raw(model.conv2, "weight").data[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="the l1 scores of layer 'conv2' are not finite"):
        prune(model, 0.5)
    assert not list(attached(model))


def test_a_model_without_layers_to_prune_is_refused():
    with pytest.raises(ValueError, match="Sequential has no layers to choose from"):
        prune(nn.Sequential(nn.ReLU()), 0.5)


def test_a_container_is_no_layer_but_its_pattern_is():
    model = nn.Sequential({"features": nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))})
    with pytest.raises(ValueError, match=r"'features' of Sequential is a container; its layers are"):
        select_layers(model, "features")
    assert list(select_layers(model, "features.*")) == ["features.0", "features.2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -1}, "threshold must be a number of at least 0, got -1"),
        ({"threshold": 100}, "threshold 100 would prune all of layer 'conv1'"),
        ({"threshold": 0.1, "unit": "2:4"}, "n:m is a rate, not a threshold"),
    ],
)
def test_prune_below_refuses(options, message):
    model = net()
    with pytest.raises(ValueError, match=message):
        prune_below(model, **options)
    assert not list(attached(model))


# -- what the kernels mean ------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 2.0, 3.0, np.inf]), min_size=1, max_size=30), st.data())
def test_smallest_equals_a_stable_sort(scores, data):
    count = data.draw(st.integers(0, len(scores)))
    expected = np.zeros(len(scores), bool)
    expected[np.argsort(scores, kind="stable")[:count]] = True
    np.testing.assert_array_equal(reference.smallest(np.array(scores), count), expected)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_sums_over_units_and_their_flags_fit_together(axis, rng):
    shape, groups = (6, 4, 3, 2), 2
    x = rng.standard_normal(shape).astype(np.float32)
    sums = reference.unit_sums(x, groups, axis)
    assert sums.dtype == np.float64
    for i in range(len(sums)):
        flags = reference.spread_units(np.arange(len(sums)) == i, shape, groups, axis)
        assert flags.dtype == bool
        assert sums[i] == pytest.approx(x[flags].sum(dtype=np.float64))


def test_presets_can_be_pruned_by_every_unit():
    for unit in ("weight", "filter", "channel"):
        for model in (SimpleCNN(batch_norm=True), LeNet300_100(), ResNet20(1, 28)):
            rates = prune(model, 0.5, unit=unit)
            assert all(abs(rate - 0.5) < 0.02 for rate in rates.values())
