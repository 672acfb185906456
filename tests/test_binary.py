"""Binarize and Ternarize: what they give, what they learn from, and exact integers in eval mode."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import minicnn
import minicnn_kernels as kernels
from minicnn import data, nn, optim
from minicnn.compress import Binarize, ClipWeights, Ternarize, binarize, set_mask
from minicnn.compress.structure import describe, restore
from minicnn.functions.binary import binarize as signs_of
from minicnn.functions.binary import ternarize as ternary_of
from minicnn.nn.transform import attach, find, raw
from minicnn.training import fit

pytestmark = pytest.mark.usefixtures("one_thread")


def mlp():
    minicnn.manual_seed(1)
    return nn.Sequential(
        {
            "flatten": nn.Flatten(),
            "fc1": nn.Linear(36, 20, bias=False),
            "bn1": nn.BatchNorm1d(20),
            "fc2": nn.Linear(20, 24),
            "bn2": nn.BatchNorm1d(24),
            "fc3": nn.Linear(24, 4, bias=False),
        }
    )


def cnn():
    minicnn.manual_seed(2)
    return nn.Sequential(
        {
            "conv1": nn.Conv2d(1, 6, 3, padding=1),
            "bn1": nn.BatchNorm2d(6),
            "conv2": nn.Conv2d(6, 8, 3, padding=1, stride=2),
            "pool": nn.MaxPool2d(2),
            "bn2": nn.BatchNorm2d(8),
            "flatten": nn.Flatten(),
            "fc": nn.Linear(32, 4),
        }
    )


def quarters(rng, count=160):
    """Images (1, 6, 6) with a bright quarter; which one is the class."""
    labels = rng.integers(0, 4, count)
    images = rng.normal(0, 0.3, (count, 1, 6, 6)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[0, 3 * (label // 2) :, 3 * (label % 2) :][:3, :3] += 1
    return data.ArrayDataset(images, labels)


def batch(rng, size=6):
    return minicnn.tensor(rng.standard_normal((5, 1, size, size)).astype(np.float32))


def test_gradient_of_a_sign_passes_within_the_limit():
    x = minicnn.tensor([-2.0, -1.0, -0.0, 0.5, 1.5], requires_grad=True)
    y = signs_of(x, minicnn.tensor(0.25))
    np.testing.assert_array_equal(y.detach().numpy(), [-0.25, -0.25, 0.25, 0.25, 0.25])
    (y * minicnn.tensor([1.0, 2, 3, 4, 5])).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 2, 3, 4, 0])
    x.grad = None
    signs_of(x, minicnn.tensor(0.25), limit=None).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.ones(5))


def test_gradient_of_a_ternary_value_passes_everywhere():
    x = minicnn.tensor([[-2.0, -0.2, 0.0, 0.3, 1.0]], requires_grad=True)
    y = ternary_of(x, minicnn.tensor([0.25]), minicnn.tensor([0.5]), 0)
    np.testing.assert_array_equal(y.detach().numpy(), [[-0.5, 0, 0, 0.5, 0.5]])
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.ones((1, 5)))


def test_scales_follow_the_weights_in_training_and_stay_in_eval_mode():
    layer = nn.Linear(3, 2, bias=False)
    with minicnn.no_grad():
        raw(layer, "weight").copy_(minicnn.tensor([[1.0, -2.0, 3.0], [0.5, 0.5, -0.5]]))
    binary = attach(layer, "weight", Binarize(channels=2, scaled=True))
    np.testing.assert_allclose(layer.weight.detach().numpy(), [[2, -2, 2], [0.5, 0.5, -0.5]])
    layer.eval()
    with minicnn.no_grad():
        raw(layer, "weight").copy_(minicnn.tensor([[-9.0, 9.0, 9.0], [9.0, 9.0, 9.0]]))
    np.testing.assert_allclose(layer.weight.detach().numpy(), [[-2, 2, 2], [0.5, 0.5, 0.5]])
    binary.enabled = False
    assert layer.weight.detach().numpy()[0, 0] == -9


@pytest.mark.parametrize("ternary", [False, True], ids=["binary", "ternary"])
@pytest.mark.parametrize("make", [mlp, cnn], ids=["mlp", "cnn"])
def test_eval_mode_is_exact_and_equal_in_both_back_ends(make, ternary, rng):
    x = batch(rng) if make is mlp else batch(rng, 8)
    model = binarize(make(), x, activations=True, ternary=ternary)
    model(x)
    model.eval()
    with minicnn.no_grad():
        name = "fc2" if make is mlp else "conv2"
        layer = model.get_submodule(name)
        given = []
        layer.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
        model(x)
        fast = layer(given[0])
        with kernels.use("reference"):
            exact = layer(given[0])
    np.testing.assert_array_equal(fast.numpy(), exact.numpy())
    scale = layer.weight_transforms.quantize.scale.numpy()
    steps = fast.numpy() / scale.reshape(-1, *(1,) * (fast.ndim - 2))
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


def test_a_binary_network_learns_and_its_raw_weights_are_clipped(rng):
    images = quarters(rng)
    loader = data.DataLoader(images, 32, shuffle=True, seed=0)
    model = binarize(mlp(), images[0][0][None], activations=True)
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    with minicnn.no_grad():
        raw(model.fc2, "weight")[0, 0] = 5.0
    clip = ClipWeights(model)
    assert len(clip.weights) == 3
    fit(model, loader, optimizer=optimizer, epochs=12, callbacks=[clip], progress=False)
    assert (
        max(np.abs(raw(model.get_submodule(f"fc{i}"), "weight").detach().numpy()).max() for i in (1, 2, 3))
        <= 1
    )
    assert minicnn.evaluate(model, data.DataLoader(images, 32)).accuracy > 0.9
    assert len(np.unique(np.abs(model.fc2.weight.detach().numpy()))) == 24  # one size for each output


def test_the_form_is_described_and_restored(rng):
    model = binarize(mlp(), batch(rng), layers=["fc2", "fc3"], activations=True, ternary=True)
    fresh = mlp()
    restore(fresh, describe(model))
    fresh.load_state_dict(model.state_dict())
    x = batch(rng)
    np.testing.assert_array_equal(fresh.eval()(x).detach().numpy(), model.eval()(x).detach().numpy())
    assert isinstance(find(fresh.fc2, "weight", "quantize"), Ternarize)
    assert find(fresh.fc1, "weight", "quantize") is None


def test_the_layer_that_reads_images_keeps_its_input(rng):
    model = binarize(cnn(), batch(rng, 8), activations=True)
    assert find(model.conv1, "input", "quantize") is None
    assert isinstance(find(model.conv2, "input", "quantize"), Binarize)
    assert isinstance(find(model.fc, "input", "quantize"), Binarize)


def test_masked_weights_stay_zero_when_ternary(rng):
    model = mlp()
    keep = rng.random(model.fc2.weight.shape) < 0.5
    set_mask(model.fc2, "weight", keep)
    binarize(model, layers="fc2", ternary=True)
    assert not model.fc2.weight.detach().numpy()[~keep].any()


def masked():
    model = mlp()
    set_mask(model.fc2, "weight", np.ones(model.fc2.weight.shape, bool))
    return model


def behind_relu():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (masked, {}, "weight of layer 'fc2' has a mask, and a sign is never 0; use ternary=True"),
        (behind_relu, {"activations": True}, "input of '3' comes out of a ReLU .*every sign is [+]1"),
        (mlp, {"layers": "fc9"}, "no layer 'fc9'; did you mean"),
        (lambda: binarize(mlp()), {}, "layer 'fc1' is quantized already"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(make, options, message, rng):
    model = make()
    before = copy.deepcopy(describe(model))
    with pytest.raises(ValueError, match=message):
        binarize(model, batch(rng), **options)
    assert describe(model) == before


def test_activations_need_a_sample():
    with pytest.raises(ValueError, match="needs sample"):
        binarize(mlp(), activations=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Ternarize(factor=-1), "factor of at least 0, got -1"),
        (lambda: attach(mlp().fc1, "output", Binarize()), "attach it to the input"),
        (lambda: signs_of(minicnn.zeros(2, 3), minicnn.zeros(3), 0), r"expected a scale of shape \(2,\)"),
    ],
)
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
