"""Masks: what being pruned means for a parameter, in training, in files and in copies."""

import copy

import numpy as np
import pytest
from test_prune import assert_same_state, batch, net, state, weight
from test_training import trained

import minicnn
import minicnn_kernels as kernels
from minicnn import nn, optim
from minicnn.compress import (
    attach_masks,
    low_rank,
    masks,
    prune,
    remove_masks,
    set_masks,
    sparsities,
)
from minicnn.nn import functional as F
from minicnn.nn.transform import find, raw
from minicnn_kernels import reference

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_soft_mask_leaves_the_raw_weights_alone_and_a_hard_one_clears_them():
    soft, hard = net(), net()
    start = raw(soft.fc, "weight").detach().numpy().copy()
    prune(soft, 0.5, hard=False)
    prune(hard, 0.5)
    np.testing.assert_array_equal(raw(soft.fc, "weight").detach().numpy(), start)
    np.testing.assert_array_equal(raw(hard.fc, "weight").detach().numpy(), weight(soft, "fc"))


def test_rate_zero_attaches_masks_that_a_pruned_state_can_be_loaded_into():
    pruned, fresh = net(0), net(1)
    prune(pruned, 0.7)
    prune(fresh, 0.0)
    fresh.load_state_dict(pruned.state_dict())
    assert_same_state(state(pruned), state(fresh))
    assert raw(fresh.fc, "weight").keep is find(fresh.fc, "weight", "mask").keep


def test_masks_can_be_carried_to_another_model():
    pruned, fresh = net(0), net(1)
    prune(pruned, 0.7)
    set_masks(fresh, masks(pruned))
    assert sparsities(fresh) == sparsities(pruned)
    with pytest.raises(ValueError, match=r"layer 'fc' has a weight of shape \(5, 96\), its mask \(2, 2\)"):
        set_masks(fresh, {"fc": np.ones((2, 2), bool)})


def test_remove_masks_leaves_zeros_and_a_model_of_plain_parameters():
    model = net()
    prune(model, 0.5, hard=False)
    before = {name: weight(model, name).copy() for name in ("conv1", "conv2", "fc")}
    remove_masks(model)
    assert list(model.state_dict()) == list(net().state_dict())
    for name, expected in before.items():
        np.testing.assert_array_equal(weight(model, name), expected)


def test_masks_over_low_rank_factors_are_not_removed():
    model = net()
    low_rank(model, rank=2, layers="fc")
    prune(model, 0.5)
    before = state(model)
    with pytest.raises(ValueError, match=r"fc\.weight is a product of low-rank factors"):
        remove_masks(model)
    assert_same_state(before, state(model))


# -- through training, files and copies -----------------------------------------------------------

OPTIMIZERS = {
    "SGD with momentum and decay": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "SGD with Nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "SGD with L1": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, l1=1e-3),
    "Adam": lambda p: optim.Adam(p, lr=0.01, weight_decay=1e-3),
    "Adam with amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True, l1=1e-3),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.003, momentum=0.9, centered=True, weight_decay=1e-3),
}


def small():
    """Few enough weights for thousands of steps."""
    minicnn.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))


def steps(model, optimizer, count):
    rng = np.random.default_rng(7)
    x = minicnn.tensor(rng.standard_normal((8, 1, 4, 4)).astype(np.float32))
    y = minicnn.tensor(rng.integers(0, 4, 8))
    for _ in range(count):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_pruned_weights_are_exactly_zero_after_a_thousand_steps(make):
    model = small()
    optimizer = make(list(model.parameters()))
    steps(model, optimizer, 20)  # momentum that would revive them is there
    prune(model, 0.5)
    keep = masks(model)
    steps(model, optimizer, 1000)
    for name, kept in keep.items():
        parameter = raw(model.get_submodule(name), "weight")
        assert not parameter.detach().numpy()[~kept].any()
        assert parameter.detach().numpy()[kept].all()
        for entry, value in optimizer.state[parameter].items():
            if hasattr(value, "shape"):
                assert not value[~kept].any(), entry


def test_soft_masks_let_the_weights_behind_them_learn_and_return():
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    prune(model, 0.5, hard=False)
    before, hidden = masks(model)["3"], raw(model[3], "weight").detach().numpy().copy()
    steps(model, optimizer, 100)
    assert (raw(model[3], "weight").detach().numpy()[~before] != hidden[~before]).any()
    prune(model, 0.5, hard=False)
    after = masks(model)["3"]
    assert (~after).sum() == (~before).sum()
    assert (after & ~before).any(), "something grew back"


def test_the_zeros_stay_through_save_load_copy_and_more_training(tmp_path):
    model = net()
    prune(model, 0.9)
    minicnn.save(model.state_dict(), tmp_path / "pruned.npz")
    loaded = net(5)
    attach_masks(loaded)
    loaded.load_state_dict(minicnn.load(tmp_path / "pruned.npz"))
    twin = copy.deepcopy(loaded)
    x, y = batch()
    for m in (loaded, twin):
        optimizer = optim.SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        for _ in range(20):
            optimizer.zero_grad()
            F.cross_entropy(m(x), y).backward()
            optimizer.step()
        for name in ("conv1", "conv2", "fc"):
            size = weight(m, name).size
            assert np.count_nonzero(weight(m, name)) == size - round(0.9 * size)
            assert not weight(m, name)[weight(model, name) == 0].any()


def test_a_pruned_training_resumes_bit_for_bit(tmp_path):
    def striped():
        minicnn.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2))
        prune(model, 0.8)
        return model

    whole, first, rest = (striped() for _ in range(3))
    minicnn.manual_seed(2)
    trained(whole, epochs=4)
    minicnn.manual_seed(2)
    trained(first, epochs=2, checkpoint=tmp_path / "c.npz")
    trained(rest, epochs=4, resume=tmp_path / "c.npz")
    assert_same_state(state(whole), state(rest))
    assert np.count_nonzero(weight(rest, "3")) == 512 - round(0.8 * 512)


@pytest.mark.parametrize("order", ["same", "other", "gaps"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(0, 3), (5, 7), (70, 3, 20, 20)])
def test_masked_values_become_positive_zeros_whatever_they_were(shape, dtype, order, rng):
    x = (
        rng.standard_normal((*shape, 2)).astype(dtype)[..., 0]
        if order == "gaps"
        else rng.standard_normal(shape)
    )
    x = x.astype(dtype, copy=False)
    keep = rng.random(shape) < 0.5
    x.reshape(-1)[:9] = np.array([np.nan, np.inf, -np.inf, -0.0, -1, 1, np.nan, np.nan, -0.0])[: x.size]
    if order == "other":
        keep = keep.T.copy().T
    expected = np.where(keep, x, np.zeros((), dtype))
    cpu = kernels.backend("cpu")
    before = x.copy()
    result = cpu.apply_mask(x, keep)
    assert result.tobytes() == expected.tobytes() == reference.apply_mask(x, keep).tobytes()
    assert x.tobytes() == before.tobytes()
    cpu.apply_mask_(x, keep)
    assert x.tobytes() == expected.tobytes()
