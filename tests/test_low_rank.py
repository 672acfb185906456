"""Low-rank forms: how near they are, which ranks rules choose, and training in place of the raw weight."""

import copy

import numpy as np
import pytest
from test_training import network, trained

import minicnn
import minicnn_kernels as kernels
from minicnn import nn, optim
from minicnn.compress import LowRank, Tucker2, low_rank, set_mask, share
from minicnn.nn.transform import detach, find, raw

k = kernels.backend("reference")


def array(tensor):
    return tensor.detach().numpy().copy()


def singular(matrix):
    return np.linalg.svd(matrix.reshape(len(matrix), -1).astype(np.float64), compute_uv=False)


def restored(left, core, right):
    return np.einsum("oa,ab...,bi->oi...", left, core, right)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (6, 5, 1, 1), (4, 3, 3, 3)])
def test_two_factors_are_as_near_as_any_of_their_rank(rng, shape):
    """Eckart and Young 1936: the squared error is the sum of the squares of the other singular values."""
    x = rng.normal(size=shape)
    for rank in range(1, min(shape[0], x[0].size) + 1):
        left, right = k.low_rank_factors(x, rank)
        assert (left.shape, right.shape) == ((shape[0], rank), (rank, *shape[1:]))
        error = np.square(x - np.tensordot(left, right, 1)).sum()
        assert error == pytest.approx(np.square(singular(x)[rank:]).sum(), abs=1e-9)


def test_the_rank_of_an_energy_is_the_smallest_that_holds_it(rng):
    x = rng.normal(size=(10, 4, 3, 3))
    for mode in (0, 1):
        squares = np.square(singular(np.moveaxis(x, mode, 0)))
        share = squares.cumsum() / squares.sum()
        for energy in (1e-9, 0.3, 0.8, 0.99, 1.0):
            rank = k.rank_of_energy(x, mode, energy)
            assert share[rank - 1] >= energy - 1e-12
            assert rank == 1 or share[rank - 2] < energy
    assert k.rank_of_energy(np.zeros((3, 4)), 0, 0.9) == 1
    assert k.rank_of_energy(np.outer(np.arange(3.0), np.arange(4.0)), 0, 0.999) == 1


def test_tucker_finds_factors_that_are_there(rng):
    left, core, right = rng.normal(size=(9, 3)), rng.normal(size=(3, 2, 3, 3)), rng.normal(size=(2, 7))
    x = restored(left, core, right)
    np.testing.assert_allclose(restored(*k.tucker2_factors(x, (3, 2), 1)), x, atol=1e-10)


def test_tucker_keeps_the_energy_of_its_core_and_sweeps_only_improve_it(rng):
    x = rng.normal(size=(12, 10, 3, 3))
    total, errors = np.square(x).sum(), []
    for sweeps in range(4):
        left, core, right = k.tucker2_factors(x, (5, 4), sweeps)
        np.testing.assert_allclose(left.T @ left, np.eye(5), atol=1e-10)
        np.testing.assert_allclose(right @ right.T, np.eye(4), atol=1e-10)
        errors.append(np.square(x - restored(left, core, right)).sum())
        assert errors[-1] == pytest.approx(total - np.square(core).sum())
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < errors[0]
    tails = sum(np.square(singular(np.moveaxis(x, m, 0))[r:]).sum() for m, r in enumerate((5, 4)))
    assert errors[0] <= tails  # De Lathauwer et al. 2000, property 10


def test_a_dense_layer_becomes_a_product_that_is_optimal():
    model = nn.Sequential(nn.Linear(40, 30))
    dense = array(model[0].weight)
    report = low_rank(model, rank=5)
    form = find(model[0], "weight", "low_rank")
    assert isinstance(form, LowRank)
    error = np.square(dense - array(model[0].weight)).sum()
    assert error == pytest.approx(np.square(singular(dense)[5:]).sum(), rel=1e-4)
    (row,) = report
    assert (row.layer, row.form, row.ranks) == ("0", "LowRank", (5,))
    assert (row.dense_parameters, row.parameters, row.macs) == (1200, 5 * 70, 5 * 70)
    assert report.saved_parameters == 1200 - 350
    assert row.energy == pytest.approx(1 - error / np.square(dense).sum(), rel=1e-4)
    assert "0: LowRank 5" in str(report)


def test_a_convolution_equals_three_smaller_ones_in_a_row(rng):
    layer = nn.Conv2d(8, 12, 3, stride=2, padding=1)
    dense = array(layer.weight)
    (row,) = low_rank(layer, rank=4, layers=[""])
    form = find(layer, "weight", "low_rank")
    assert isinstance(form, Tucker2)
    np.testing.assert_allclose(
        array(layer.weight), restored(array(form.left), array(form.core), array(form.right)), atol=1e-6
    )
    x = minicnn.tensor(rng.normal(size=(2, 8, 8, 8)).astype(np.float32))
    squeezed = nn.functional.conv2d(x, form.right.reshape(4, 8, 1, 1))
    small = nn.functional.conv2d(squeezed, form.core, stride=2, padding=1)
    expected = nn.functional.conv2d(small, form.left.reshape(12, 4, 1, 1), layer.bias)
    np.testing.assert_allclose(array(layer(x)), array(expected), atol=1e-5)
    multiplied = squeezed.numel() * 8 + small.numel() * 4 * 9 + expected.numel() * 4
    assert row.macs * expected.numel() // 12 == multiplied
    assert row.dense_macs == dense.size


@pytest.mark.parametrize(
    "layer", [nn.Linear(30, 20), nn.Conv2d(10, 12, 3), nn.Conv1d(6, 9, 5), nn.Conv2d(9, 8, 1)]
)
def test_the_energy_that_was_asked_for_is_kept(layer):
    for energy in (0.5, 0.9, 1.0):
        twin = copy.deepcopy(layer)
        dense = array(twin.weight)
        (row,) = low_rank(twin, energy=energy, layers=[""])
        kept = 1 - np.square(dense - array(twin.weight)).sum() / np.square(dense).sum()
        assert kept >= energy - 1e-5
        assert row.energy == pytest.approx(kept, abs=1e-5)


def test_a_ratio_is_the_share_of_the_full_rank():
    model = nn.Sequential(nn.Conv2d(8, 12, 3), nn.Flatten(), nn.Linear(40, 30))
    ranks = [row.ranks for row in low_rank(model, ratio=0.5)]
    assert ranks == [(6, 4), (15,)]
    (row,) = low_rank(nn.Conv1d(5, 64, 3), ratio=0.5, layers=[""])
    assert row.ranks == (6, 2)  # of the 8 outputs that half would be, 2 inputs and 3 taps make 6


def test_layers_that_would_not_shrink_are_left_unless_named():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Linear(64, 64))
    assert [row.layer for row in low_rank(model, rank=8)] == ["2"]
    (row,) = low_rank(model, rank=8, layers="0")
    assert row.ranks == (4, 1)
    assert row.parameters > row.dense_parameters


def test_factors_are_trained_in_place_of_the_raw_weight():
    model = network()
    kept = array(raw(model[4], "weight"))
    low_rank(model, rank=1, layers=["0", "4"])
    factors = {name: array(p) for name, p in model.named_parameters() if "transforms" in name}
    assert len(factors) == 5
    optimizer = optim.SGD(optim.parameter_groups(model, weight_decay=1e-4), lr=0.1, momentum=0.9)
    history = trained(model, optimizer=optimizer, epochs=4, l1=1e-5)
    assert history["loss"][-1] < history["loss"][0]
    for name, before in factors.items():
        assert not np.array_equal(array(model.get_parameter(name)), before)
    np.testing.assert_array_equal(array(raw(model[4], "weight")), kept)
    assert np.linalg.matrix_rank(array(model[4].weight)) == 1
    detach(model[4], "weight", "low_rank")
    assert raw(model[4], "weight").requires_grad


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3), (6, 5, 3, 2), (6, 5, 1, 1)])
def test_gradients_of_factors_in_double_precision(rng, shape):
    layer = (
        nn.Linear(5, 6)
        if len(shape) == 2
        else nn.Conv1d(5, 6, 3)
        if len(shape) == 3
        else nn.Conv2d(5, 6, shape[2:])
    )
    layer.double()
    low_rank(layer, rank=3, layers=[""])
    form, weights = find(layer, "weight", "low_rank"), minicnn.tensor(rng.normal(size=shape))
    assert minicnn.gradcheck(
        lambda *factors: (form(weights) * weights).sum(), list(form.parameters()), tol=1e-6
    )
    assert layer.weight.dtype == np.float64


def test_a_low_rank_model_runs_compiled_and_loads(rng, tmp_path):
    model, other = network(0), network(1)
    for one in (model, other):
        low_rank(one, rank=2, layers=["0", "4"])
    minicnn.save(model.state_dict(), tmp_path / "state.npz")
    other.load_state_dict(minicnn.load(tmp_path / "state.npz"))
    x = minicnn.tensor(rng.normal(size=(4, 1, 8, 8)).astype(np.float32))
    for run in (other, copy.deepcopy(model), minicnn.compile(model), minicnn.compile(other)):
        np.testing.assert_allclose(array(run(x)), array(model(x)), rtol=1e-4, atol=1e-5)
    x.requires_grad_()
    compiled = minicnn.compile(model)
    for run in (compiled, compiled, model):
        model.zero_grad()
        run(x).square().sum().backward()
        gradients = [array(p.grad) for p in model.parameters() if p.grad is not None]
        if run is compiled:
            compiled_gradients = gradients
    for a, b in zip(compiled_gradients, gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_mask_and_codebook_work_on_the_product():
    model = nn.Sequential(nn.Linear(30, 20))
    keep = np.arange(600).reshape(20, 30) % 2 == 0
    set_mask(model[0], "weight", keep)
    low_rank(model, rank=3)
    book = share(model, 7)["0"]
    weight = array(model[0].weight)
    np.testing.assert_array_equal(weight != 0, keep)
    assert len(np.unique(weight[keep])) == 7
    model[0].weight.sum().backward()
    assert book.centroids.grad is not None
    assert find(model[0], "weight", "low_rank").left.grad is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of rank, energy, ratio, got none"),
        ({"rank": 2, "ratio": 0.5}, "got rank and ratio"),
        ({"rank": 0}, "at least 1, got 0"),
        ({"rank": 1.5}, r"got 1\.5"),
        ({"energy": 1.5}, r"energy in \(0, 1\]"),
        ({"ratio": 0}, r"ratio in \(0, 1\]"),
        ({"rank": 2, "layers": "3.weight"}, "has no layer '3.weight'"),
        ({"rank": 2, "layers": "1"}, r"layer '1' has groups=4"),
    ],
)
def test_bad_arguments_are_named_and_leave_the_model_alone(arguments, message):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(64, 64))
    with pytest.raises(ValueError, match=message):
        low_rank(model, **arguments)
    assert find(model[3], "weight", "low_rank") is None


def test_a_layer_can_be_factorized_once():
    model = nn.Linear(30, 30)
    low_rank(model, rank=2)
    with pytest.raises(ValueError, match="low-rank already"):
        low_rank(model, rank=1)


def test_weights_that_are_not_finite_are_refused():
    model = nn.Linear(30, 30)
    with minicnn.no_grad():
        model.weight[3, 3] = float("inf")
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        low_rank(model, rank=2)


def test_forms_say_which_ranks_fit():
    with pytest.raises(ValueError, match=r"rank from 1 to 3 for \(3, 5\), got 4"):
        LowRank(minicnn.zeros(3, 5), 4)
    with pytest.raises(ValueError, match="got 4 and 3"):
        Tucker2(minicnn.zeros(4, 2, 3, 3), (4, 3))
