"""LASSO reconstruction: the optimum by its conditions, which channels are chosen, and what they leave."""

import copy

import numpy as np
import pytest

import minicnn
from minicnn import nn
from minicnn.compress import lasso_reconstruction, low_rank, masks, prune
from minicnn.nn.transform import attached, raw
from minicnn_kernels import reference

pytestmark = pytest.mark.usefixtures("one_thread")


def solve(gram, target, penalty):
    return reference.lasso(gram, target, penalty, np.zeros(len(target)), 1e-12)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 1.1])
def test_the_optimum_fulfils_its_conditions(share, rng):
    """There the gradient is -penalty sign(b) where b is not 0, and no larger than the penalty elsewhere."""
    x = rng.standard_normal((40, 12)) @ rng.standard_normal((12, 12))  # correlated columns
    y = rng.standard_normal(40)
    gram, target = x.T @ x, x.T @ y
    penalty = share * np.abs(target).max()
    b = solve(gram, target, penalty)
    gradient = gram @ b - target
    assert (b != 0).any() == (share < 1)
    np.testing.assert_allclose(gradient[b != 0], -penalty * np.sign(b[b != 0]), rtol=1e-6)
    assert (np.abs(gradient[b == 0]) <= penalty * (1 + 1e-9)).all()


def test_of_orthogonal_columns_it_is_the_soft_threshold(rng):
    q, _ = np.linalg.qr(rng.standard_normal((30, 6)))
    target = q.T @ rng.standard_normal(30)
    expected = np.sign(target) * np.maximum(np.abs(target) - 0.3, 0)
    np.testing.assert_allclose(solve(q.T @ q, target, 0.3), expected, atol=1e-12)


def test_without_a_penalty_it_is_least_squares(rng):
    x, y = rng.standard_normal((30, 5)), rng.standard_normal(30)
    np.testing.assert_allclose(solve(x.T @ x, x.T @ y, 0.0), np.linalg.lstsq(x, y, rcond=None)[0], rtol=1e-8)


def test_an_empty_column_stays_zero(rng):
    x, y = rng.standard_normal((20, 4)), rng.standard_normal(20)
    x[:, 2] = 0
    assert solve(x.T @ x, x.T @ y, 0.1)[2] == 0


def test_the_gram_matrix_is_that_of_the_channels_contributions(rng):
    x, weight = rng.standard_normal((7, 3, 4)), rng.standard_normal((5, 3, 4))
    y = np.einsum("rck,ock->ro", x, weight)
    z = np.einsum("rck,ock->roc", x, weight).reshape(-1, 3)
    gram, target = reference.channel_gram(x, weight, y)
    np.testing.assert_allclose(gram, z.T @ z)
    np.testing.assert_allclose(target, z.T @ y.ravel())
    np.testing.assert_allclose(gram.sum(axis=1), target)  # all channels together are y


@pytest.mark.parametrize("count", range(7))
def test_as_many_channels_are_chosen_as_are_asked_for(count, rng):
    x = rng.standard_normal((60, 6)) * 10.0 ** np.arange(-3, 3)  # scales tell nothing
    y = x @ np.array([1e3, 0.5, 3, 0, 0.01, 0]) + 0.01 * rng.standard_normal(60)
    gone = reference.choose_channels(x.T @ x, x.T @ y, count)
    assert np.count_nonzero(gone) == count
    if count <= 3:
        assert not gone[0], "the first contributes most"
    if count == 2:
        assert set(np.flatnonzero(gone)) == {3, 5}


def test_dead_channels_go_first_even_if_all_others_are_needed(rng):
    x = rng.standard_normal((50, 6))
    x[:, [1, 4]] = 0
    gone = reference.choose_channels(x.T @ x, x.T @ x.sum(axis=1), 2)
    assert set(np.flatnonzero(gone)) == {1, 4}


def test_the_fit_is_least_squares_on_what_is_kept(rng):
    x, y = rng.standard_normal((50, 4, 3)), rng.standard_normal((50, 2))
    keep = np.array([True, False, True, True])
    weight, error = reference.fit_channels(x, keep, y)
    rows = x[:, keep].reshape(50, -1)
    expected, residual, *_ = np.linalg.lstsq(rows, y, rcond=None)
    np.testing.assert_allclose(weight[:, keep].reshape(2, -1), expected.T, rtol=1e-5, atol=1e-7)
    assert not weight[:, 1].any()
    assert error == pytest.approx(residual.sum(), rel=1e-6)


def test_windows_times_weights_are_the_convolution(rng):
    x, weight = rng.standard_normal((2, 3, 7, 8)), rng.standard_normal((4, 3, 3, 2))
    options = (2, 1), (1, 0), (1, 2)
    positions = np.array([0, 5, 11])
    windows = reference.windows_at(x, (3, 2), *options, positions)
    y = reference.conv2d_forward(x, weight, None, *options, 1).reshape(2, 4, -1)[:, :, positions]
    np.testing.assert_allclose(
        windows.reshape(6, -1) @ weight.reshape(4, -1).T, y.transpose(0, 2, 1).reshape(6, 4)
    )


# -- on a model -----------------------------------------------------------------------------------


def net(dense=False):
    minicnn.manual_seed(0)
    layers = [nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2, padding=1)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(96, 10), nn.ReLU(), nn.Linear(10, 4))


def batches(seed=0):
    rng = np.random.default_rng(seed)
    return [minicnn.tensor(rng.standard_normal((24, 2, 8, 8)).astype(np.float32)) for _ in range(4)]


def output(model, layers, images):
    with minicnn.no_grad():
        for layer in list(model)[:layers]:
            images = layer(images)
    return images.numpy()


@pytest.mark.parametrize(("layer", "channels"), [("2", 8), ("7", 10)])
def test_it_leaves_less_error_than_pruning_by_norm(layer, channels):
    model = net()
    fitted, cut = copy.deepcopy(model), copy.deepcopy(model)
    error = lasso_reconstruction(fitted, layer, 0.5, batches(), positions=16)
    prune(cut, 0.5, unit="channel", layers=[layer])
    keep = masks(fitted)[layer]
    assert (~keep.any(axis=tuple(i for i in range(keep.ndim) if i != 1))).sum() == channels // 2
    assert ((raw(fitted[int(layer)], "weight").detach().numpy() != 0) == keep).all()
    fresh = batches(seed=9)[0]
    truth, ours, theirs = (output(m, int(layer) + 1, fresh) for m in (model, fitted, cut))
    bias = model[int(layer)].bias.detach().numpy().reshape((-1,) + (1,) * (truth.ndim - 2))
    scale = np.square(truth - bias).sum()
    assert np.square(truth - ours).sum() < 0.7 * np.square(truth - theirs).sum()
    assert np.square(truth - ours).sum() / scale == pytest.approx(error, rel=0.3)


def test_repeated_channels_cost_nothing():
    model = net()
    first = raw(model[0], "weight").data
    first[4:] = first[:4]
    raw(model[0], "bias").data[4:] = raw(model[0], "bias").data[:4]
    before = output(model, 8, batches()[0])
    assert lasso_reconstruction(model, "2", 0.5, batches()) < 1e-6
    np.testing.assert_allclose(output(model, 8, batches()[0]), before, atol=1e-3)
    kept = masks(model)["2"].any(axis=(0, 2, 3))
    assert (kept[:4] ^ kept[4:]).all(), "one of each pair"


def test_the_original_models_output_is_met_although_earlier_layers_are_pruned():
    original = net()
    model = copy.deepcopy(original)
    prune(model, 0.5, unit="filter", layers=["0"])
    alone, taught = copy.deepcopy(model), copy.deepcopy(model)
    lasso_reconstruction(alone, "2", 0.25, batches())
    lasso_reconstruction(taught, "2", 0.25, batches(), original=original)
    fresh = batches(seed=9)[0]
    truth = output(original, 3, fresh)
    errors = [np.square(output(m, 3, fresh) - truth).sum() for m in (alone, taught)]
    assert errors[1] < errors[0]


def test_the_same_seed_looks_at_the_same_pixels():
    results = [lasso_reconstruction(net(), "2", 0.5, batches(), positions=2, seed=s) for s in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("2", 1.0), r"lasso_reconstruction: rate must be a number in \[0, 1\)"),
        (("2", 0.99), r"rate 0\.99 leaves no channel of layer '2'"),
        (("conv", 0.5), "no layer 'conv'"),
        (("*", 0.5), r"expected the name of one layer, got the pattern '\*'"),
        (("1", 0.5), "layer '1' is a ReLU"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    model = net()
    with pytest.raises(ValueError, match=message):
        lasso_reconstruction(model, *arguments, batches())
    assert not list(attached(model))


def test_channels_that_are_pruned_stay_so():
    model = net()
    prune(model, 0.5, unit="channel", layers=["2"])
    before = masks(model)["2"]
    with pytest.raises(ValueError, match="layer '2' has 4 channels pruned already, and 2 are asked for"):
        lasso_reconstruction(model, "2", 0.25, batches())
    lasso_reconstruction(model, "2", 0.625, batches())
    after = masks(model)["2"]
    assert after.sum() == 3 * 6 * 9
    assert not (after & ~before).any()


def test_no_data_is_refused():
    with pytest.raises(ValueError, match="data yields no batches"):
        lasso_reconstruction(net(), "2", 0.5, [])


def test_grouped_convolutions_are_refused():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ValueError, match="expected one group and a number as padding"):
        lasso_reconstruction(model, "0", 0.5, batches())


def test_a_layer_in_low_rank_form_is_refused():
    model = net()
    low_rank(model, rank=2, layers=["7"])
    with pytest.raises(ValueError, match="a low-rank form stands in for the weight of layer '7'"):
        lasso_reconstruction(model, "7", 0.5, batches())


def test_a_layer_with_single_weights_pruned_is_refused():
    model = net()
    prune(model, 0.5)
    before = raw(model[2], "weight").detach().numpy().copy()
    with pytest.raises(ValueError, match="single weights of layer '2' are pruned"):
        lasso_reconstruction(model, "2", 0.5, batches())
    np.testing.assert_array_equal(raw(model[2], "weight").detach().numpy(), before)
