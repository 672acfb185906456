"""Training with lattices: learned, saved, frozen, taken away; other compressions beside; bad input."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from test_quantize_models import make, run

import minicnn
from minicnn import data, nn, optim
from minicnn.compress import (
    Distillation,
    FakeQuantize,
    correct_bias,
    fold_batch_norm,
    freeze_quantizers,
    prune,
    quantize,
    remove_quantizers,
    sparsity,
)
from minicnn.nn import functional as F
from minicnn.nn.transform import attach, attached, find, raw
from minicnn.training import fit

CLASSES = 4


def small(rng):
    """A plain net like SimpleCNN with a sixth of its channels, and a batch for it."""
    minicnn.manual_seed(3)
    model = nn.Sequential(
        {
            "conv1": nn.Conv2d(1, 6, 3, padding=1),
            "bn1": nn.BatchNorm2d(6),
            "relu1": nn.ReLU(),
            "pool1": nn.MaxPool2d(2),
            "conv2": nn.Conv2d(6, 8, 3, padding=1, bias=False),
            "bn2": nn.BatchNorm2d(8),
            "relu2": nn.ReLU(),
            "pool2": nn.MaxPool2d(2),
            "flatten": nn.Flatten(),
            "fc1": nn.Linear(72, 24),
            "relu3": nn.ReLU(),
            "fc2": nn.Linear(24, CLASSES),
        }
    )
    return model.eval(), minicnn.tensor(rng.standard_normal((6, 1, 12, 12)).astype(np.float32))


def stripes(rng, count=96):
    """Images (1, 12, 12) with a bright quarter; which one is the class."""
    labels = rng.integers(0, CLASSES, count)
    images = rng.normal(0, 0.3, (count, 1, 12, 12)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[0, 6 * (label // 2) :, 6 * (label % 2) :][:6, :6] += 1
    return data.ArrayDataset(images, labels)


def loader(dataset, **options):
    return data.DataLoader(dataset, 16, prefetch=0, **options)


def trained(model, dataset, epochs=2, **options):
    optimizer = optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    return fit(
        model,
        loader(dataset, shuffle=True, seed=1),
        optimizer=optimizer,
        epochs=epochs,
        progress=False,
        **options,
    )


def accuracy(model, dataset):
    return float((run(model.eval(), minicnn.tensor(dataset.images)).argmax(1) == dataset.labels).mean())


@pytest.fixture
def quarters(rng):
    return stripes(rng)


MODES = {
    "ranges follow": {"bits": 4, "activation_bits": 8},
    "learned": {"bits": 2, "activation_bits": 4, "learned": True},
    "powers of two": {"bits": 4, "power_of_two": True},
    "fixed ranges of weights": {"bits": 3, "activation_bits": 8, "observer": "mse"},
}


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_training_goes_on_with_lattices(rng, quarters, options):
    model, _ = small(rng)
    trained(model, quarters, 2)
    quantize(model, [quarters.images], **options)
    history = trained(model, quarters, 6)
    freeze_quantizers(model)
    assert history.rows[-1]["loss"] < history.rows[0]["loss"]
    assert accuracy(model, quarters) > 0.95
    for one in attached(model, "quantize"):
        if one.place == "weight":
            levels = [np.unique(row).size for row in one.module.weight.detach().numpy()]
            assert max(levels) <= 2 ** options["bits"] - 1


def test_article_003_section_4_2_training_sees_rounded_weights_and_trains_the_raw_ones(rng, quarters):
    """Their tf.keras.layers.QuantizationLayer does not exist; ours is a transform in the tape."""
    model, x = small(rng)
    quantize(model, [x], bits=4, activation_bits=8)
    before = raw(model.fc1, "weight").detach().clone().numpy()
    trained(model, quarters, 1)
    after = raw(model.fc1, "weight").detach().numpy()
    assert (after != before).mean() > 0.3
    assert max(np.unique(row).size for row in after) > 15
    assert max(np.unique(row).size for row in model.eval().fc1.weight.detach().numpy()) <= 15


@pytest.mark.parametrize("learned", [False, True], ids=["ranges follow", "learned"])
def test_resuming_continues_bit_for_bit(rng, quarters, tmp_path, learned):
    def prepared():
        minicnn.manual_seed(5)
        model, _ = small(np.random.default_rng(2))
        return quantize(model, [quarters.images], bits=4, activation_bits=8, learned=learned)

    whole = prepared()
    trained(whole, quarters, 4)
    trained(prepared(), quarters, 2, checkpoint=tmp_path / "half.npz")
    resumed = prepared()
    trained(resumed, quarters, 4, resume=tmp_path / "half.npz")
    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=name)


def test_a_state_dict_carries_the_lattices(rng):
    model, x = make("resnet-20", rng)
    fresh = copy.deepcopy(model)
    quantize(model, [x], bits=4, activation_bits=8)
    quantize(fresh, sample=x * 0 + 7, bits=4, activation_bits=8)
    assert not np.array_equal(run(fresh, x), run(model, x))
    fresh.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(run(fresh, x), run(model, x))
    assert not [name for name in model.state_dict() if "source" in name]


def test_a_copy_has_lattices_of_its_own(rng):
    model, x = small(rng)
    quantize(model, [x])
    twin = copy.deepcopy(model)
    before = run(model, x)
    np.testing.assert_array_equal(run(twin, x), before)
    assert find(twin.conv2, "input", "quantize").source is find(twin.conv1, "output", "quantize")
    find(twin.conv1, "output", "quantize").scale.mul_(4)
    np.testing.assert_array_equal(run(model, x), before)
    assert not np.array_equal(run(twin, x), before)


def test_frozen_lattices_hold_the_present_weights_and_stay(rng, quarters):
    model, x = small(rng)
    quantize(model, [x])
    trained(model, quarters, 1)
    freeze_quantizers(model)
    for one in attached(model, "quantize"):
        if one.place == "weight":
            largest = (
                np.abs(raw(one.module, "weight").detach().numpy()).reshape(len(one.module.weight), -1).max(1)
            )
            scale = one.transform.scale.numpy()
            np.testing.assert_allclose(np.maximum(largest / 127, scale.max() / 256), scale, rtol=1e-5)
    before = [
        one.transform.scale.numpy().copy()
        for one in attached(model, "quantize")
        if hasattr(one.transform, "scale")
    ]
    trained(model, quarters, 1)
    after = [
        one.transform.scale.numpy() for one in attached(model, "quantize") if hasattr(one.transform, "scale")
    ]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("bake", [False, True])
def test_quantizers_can_be_taken_away(rng, bake):
    model, x = small(rng)
    fold_batch_norm(model, x)
    before = run(model, x)
    quantize(model, [x], bits=3, activation_bits=16)
    rounded = {name: getattr(model, name).weight.detach().numpy() for name in ("conv1", "fc1")}
    remove_quantizers(model, bake=bake)
    assert not list(attached(model, "quantize"))
    if bake:
        for name, weight in rounded.items():
            np.testing.assert_array_equal(getattr(model, name).weight.detach().numpy(), weight)
    else:
        np.testing.assert_array_equal(run(model, x), before)


# -- beside other compressions -----------------------------------------------------------------------


@pytest.mark.parametrize("learned", [False, True])
def test_pruned_weights_stay_zero_through_folding_quantizing_and_training(rng, quarters, learned):
    model, x = small(rng)
    prune(model, 0.8)
    zeros = {name: raw(layer, "weight").detach().numpy() == 0 for name, layer in model.named_modules()
             if isinstance(layer, (nn.Conv2d, nn.Linear))}  # fmt: skip
    quantize(model, [x], bits=4, activation_bits=8, learned=learned)
    trained(model, quarters, 2)
    for name, pruned in zeros.items():
        layer = model.get_submodule(name)
        assert abs(pruned.mean() - 0.8) < 0.01
        assert not raw(layer, "weight").detach().numpy()[pruned].any()
        assert not layer.weight.detach().numpy()[pruned].any()
    assert [one.transform.kind for one in attached(model) if one.name == "fc1.weight"] == ["mask", "quantize"]


def test_mask_quantize_distil_and_fold_work_together_on_one_model(rng, quarters):
    teacher, x = small(rng)
    trained(teacher, quarters, 4)
    student = copy.deepcopy(teacher)
    prune(student, 0.5)
    quantize(student, loader(quarters), bits=4, activation_bits=8, observer="percentile")
    trained(student, quarters, 3, loss=Distillation(teacher, temperature=2.0, alpha=0.7))
    freeze_quantizers(student)
    correct_bias(student, loader(quarters))
    assert accuracy(student, quarters) > 0.95
    assert sparsity(student) == pytest.approx(0.5, abs=0.01)
    reference, cpu = run(student, x, "reference"), run(student, x, "cpu")
    np.testing.assert_array_equal(reference, cpu)
    np.testing.assert_array_equal(run(minicnn.compile(student), x), cpu)


def test_a_step_compiled_equals_a_step_as_it_is(rng):
    model, x = small(rng)
    quantize(model, [x], bits=4, activation_bits=8)
    twin = copy.deepcopy(model)
    losses = []
    for forward, one in ((model, model), (minicnn.compile(twin), twin)):
        one.train()
        loss = F.cross_entropy(forward(x), minicnn.tensor(np.arange(6) % CLASSES))
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for (name, one), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(one.grad.numpy(), other.grad.numpy(), rtol=1e-3, atol=1e-5, err_msg=name)


# -- bad input ---------------------------------------------------------------------------------------


def nothing():
    return iter(())


BAD = {
    "no data": ({}, "no data; expected calibration"),
    "empty calibration": ({"calibration": nothing()}, "yields no images"),
    "a batch of none": ({"calibration": [np.zeros((0, 1, 12, 12), np.float32)]}, "yields no images"),
    "one bit": ({"bits": 1}, "bits from 2 to 16, got 1 for layer 'conv1'"),
    "17 bits": ({"activation_bits": 17}, "bits from 2 to 16, got 17"),
    "bits of one layer": ({"layers_bits": {"fc1": 1}}, "bits from 2 to 16, got 1 for layer 'fc1'"),
    "unknown layer": ({"layers_bits": {"fc3": 4}}, "has no layer 'fc3'; did you mean 'fc"),
    "nothing left": ({"layers_bits": {"*": None}}, "leaves every layer in float32"),
    "unknown observer": ({"observer": "minmas"}, "did you mean 'minmax'"),
    "learned powers of two": ({"learned": True, "power_of_two": True}, "no power of two"),
    "momentum": ({"momentum": 0.0}, "momentum in"),
    "infinite images": ({"calibration": [np.full((2, 1, 12, 12), np.inf, np.float32)]}, "infinite or no"),
    "images of another size": ({"calibration": [np.zeros((2, 3, 12, 12), np.float32)]}, "channels"),
    "later images of another size": (
        {"calibration": [np.zeros((2, 1, 12, 12), np.float32), np.zeros((2, 3, 12, 12), np.float32)]},
        "channels",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_told_and_the_model_untouched(rng, options, message):
    model, x = small(rng)
    before, names = copy.deepcopy(model.state_dict()), [name for name, _ in model.named_modules()]
    if options and "calibration" not in options:
        options = options | {"calibration": [x]}
    with pytest.raises(ValueError, match=message):
        quantize(model, **options)
    assert [name for name, _ in model.named_modules()] == names
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name].numpy(), err_msg=name)


def test_weights_that_are_no_numbers_are_told(rng):
    model, x = small(rng)
    model.fc2.weight.detach().fill_(float("nan"))
    with pytest.raises(ValueError, match="the weight of 'fc2' cannot be quantized"):
        quantize(model, [x])
    assert not list(attached(model, "quantize"))


def test_quantizing_twice_is_refused(rng):
    model, x = small(rng)
    quantize(model, [x])
    before = run(model, x)
    with pytest.raises(ValueError, match="quantized already; remove_quantizers"):
        quantize(model, [x])
    np.testing.assert_array_equal(run(model, x), before)


def test_a_model_without_quantizable_layers_is_refused():
    with pytest.raises(ValueError, match="Sequential has no layers to choose from; expected some of Conv1d"):
        quantize(nn.Sequential(nn.ReLU(), nn.Flatten()), sample=minicnn.zeros(1, 4))


def test_a_layer_that_runs_twice_has_one_lattice_for_its_input(rng):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, input):
            return self.last(F.relu(self.layer(F.relu(self.layer(input)))))

    model = Twice().eval()
    x = minicnn.tensor(rng.standard_normal((8, 4)).astype(np.float32))
    before = run(model, x)
    quantize(model, [x])
    assert sorted(one.name for one in attached(model, "quantize") if one.place != "weight") == [
        "last.input",
        "layer.input",
    ]
    np.testing.assert_array_equal(run(model, x, "reference"), run(model, x, "cpu"))
    assert np.abs(run(model, x) - before).max() < 0.05


def test_sequences_are_quantized_like_images(rng):
    model = nn.Sequential(
        nn.Conv1d(2, 6, 3, padding=1, padding_mode="replicate"), nn.BatchNorm1d(6), nn.ReLU(),
        nn.AvgPool1d(2), nn.Conv1d(6, 4, 3), nn.ReLU(), nn.GlobalAvgPool(), nn.Linear(4, 3),
    ).eval()  # fmt: skip
    x = minicnn.tensor(rng.standard_normal((5, 2, 20)).astype(np.float32))
    before = run(model, x)
    quantize(model, [x])
    assert isinstance(model[1], nn.Identity)
    assert find(model[3], "input", "quantize").source is find(model[0], "output", "quantize")
    np.testing.assert_array_equal(run(model, x, "reference"), run(model, x, "cpu"))
    assert np.abs(run(model, x) - before).max() < 0.05


def test_quantizers_can_be_attached_by_hand(rng):
    layer = nn.Linear(6, 3).eval()
    x = minicnn.tensor(rng.standard_normal((4, 6)).astype(np.float32))
    attach(layer, "weight", FakeQuantize(8, channels=3)).observe(layer.weight)
    attach(layer, "input", FakeQuantize(8, signed=False, symmetric=False)).observe(x)
    np.testing.assert_array_equal(run(layer, x, "reference"), run(layer, x, "cpu"))
