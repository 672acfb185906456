"""Quantized models in eval mode: whole numbers, the same bits from every back end, rounded where we say."""

from __future__ import annotations

import numpy as np
import pytest

import minicnn
import minicnn_kernels as kernels
from minicnn import models, nn
from minicnn.compress import FakeQuantize, quantize
from minicnn.compress.fake_quantize import SameLattice
from minicnn.compress.observers import MinMax
from minicnn.nn import functional as F
from minicnn.nn.transform import attached, find


class Concatenated(nn.Module):
    """Two branches side by side, average pooling of three kinds, an addition in the model's own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.narrow, self.wide = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 5, padding=2)
        self.average = nn.AvgPool2d(3, stride=1, padding=1)
        self.after = nn.Conv2d(18, 8, 3, padding=1, groups=2)
        self.tiles = nn.AdaptiveAvgPool2d(4)
        self.last = nn.Conv2d(8, 8, 3)
        self.pool, self.fc = nn.GlobalAvgPool(), nn.Linear(8, 5)

    def forward(self, input: minicnn.Tensor) -> minicnn.Tensor:
        x = self.stem(input)
        x = minicnn.cat([F.relu(self.narrow(x)), self.wide(x), self.average(x)], 1)
        y = self.after(x)
        return self.fc(self.pool(F.relu(self.last(self.tiles(y + F.leaky_relu(y))))))


SHAPES = {
    "simple": (1, 12, 12),
    "resnet-20": (3, 8, 8),
    "resnet-20 B": (3, 8, 8),
    "concatenated": (2, 12, 12),
}


def make(name: str, rng: np.random.Generator) -> tuple[nn.Module, minicnn.Tensor]:
    """A model whose batch norms have statistics, and a batch for it."""
    minicnn.manual_seed(3)
    shape = SHAPES[name]
    if name == "concatenated":
        model: nn.Module = Concatenated()
    elif name == "simple":
        model = models.SimpleCNN(1, 12, batch_norm=True)
    else:
        model = models.ResNet20(3, 8, option=name[-1] if name.endswith("B") else "A")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.num_features
            module.running_mean.copy_(minicnn.tensor(rng.normal(0, 0.2, size)))
            module.running_var.copy_(minicnn.tensor(rng.uniform(0.5, 2, size)))
            module.weight.detach().copy_(minicnn.tensor(rng.uniform(0.5, 1.5, size)))
            module.bias.detach().copy_(minicnn.tensor(rng.normal(0, 0.2, size)))
    return model.eval(), minicnn.tensor(rng.standard_normal((6, *shape)).astype(np.float32))


def run(model: nn.Module, x: minicnn.Tensor, backend: str | None = None) -> np.ndarray:
    with minicnn.no_grad():
        if backend is None:
            return model(x).numpy()
        with kernels.use(backend):
            return model(x).numpy()


def all_results(model: nn.Module, x: minicnn.Tensor, backend: str) -> dict[str, np.ndarray]:
    """What every layer gives."""
    results: dict[str, np.ndarray] = {}
    handles = [
        module.register_forward_hook(lambda m, inputs, y, name=name: results.update({name: y.numpy()}))
        for name, module in model.named_modules()
        if "transforms" not in name
    ]
    run(model, x, backend)
    for handle in handles:
        handle.remove()
    return results


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
@pytest.mark.parametrize(("bits", "activation_bits"), [(8, 8), (4, 8), (2, 2), (8, 16)])
def test_both_back_ends_and_the_compiled_model_give_the_same_bits(
    rng, name, per_channel, bits, activation_bits
):
    model, x = make(name, rng)
    quantize(model, [x], bits=bits, activation_bits=activation_bits, per_channel=per_channel)
    reference, cpu = (all_results(model, x, backend) for backend in ("reference", "cpu"))
    for layer, result in reference.items():
        np.testing.assert_array_equal(result, cpu[layer], err_msg=layer)
    np.testing.assert_array_equal(run(minicnn.compile(model), x), cpu[""])
    assert np.isfinite(cpu[""]).all()


@pytest.mark.parametrize("name", SHAPES)
def test_what_a_quantizer_stands_at_is_on_its_lattice_in_eval_mode(rng, name):
    """Also where it was taken over: behind ReLU, pooling and reshaping the next layer reads whole numbers."""
    model, x = make(name, rng)
    quantize(model, [x])
    found: dict[str, tuple[np.ndarray, FakeQuantize]] = {}
    for one in attached(model, "quantize"):
        if one.place == "input":
            source = one.transform.source if isinstance(one.transform, SameLattice) else one.transform
            one.module.register_forward_hook(
                lambda m, inputs, y, name=one.name, source=source: found.update(
                    {name: (inputs[0].numpy(), source)}
                )
            )
        elif one.place == "output":
            one.module.register_forward_hook(
                lambda m, inputs, y, name=one.name, source=one.transform: found.update(
                    {name: (y.numpy(), source)}
                )
            )
    run(model, x)
    assert len(found) > 4
    for name, (value, quantizer) in found.items():
        scale, zero_point = quantizer.scale.numpy(), quantizer.zero_point.numpy()
        q = np.rint(value / scale)
        np.testing.assert_array_equal((q * scale).astype(np.float32), value, err_msg=name)
        assert (q + zero_point).min() >= quantizer.quant_min
        assert (q + zero_point).max() <= quantizer.quant_max


def placed(model: nn.Module) -> dict[str, str]:
    """Where quantizers of activations stand: unsigned, affine, or whose lattice is taken over."""
    names = {id(one.transform): one.name for one in attached(model, "quantize")}
    return {
        one.name: f"as {names[id(one.transform.source)]}"
        if isinstance(one.transform, SameLattice)
        else "unsigned"
        if one.transform.symmetric
        else "affine"
        for one in attached(model, "quantize")
        if one.place != "weight"
    }


def test_where_quantizers_stand_in_a_plain_model(rng):
    model, x = make("simple", rng)
    quantize(model, [x])
    assert placed(model) == {
        "conv1.input": "affine",
        "conv1.output": "unsigned",
        "conv2.input": "as conv1.output",
        "conv2.output": "unsigned",
        "fc1.input": "as conv2.output",
        "fc1.output": "unsigned",
        "fc2.input": "as fc1.output",
    }
    assert isinstance(model.bn1, nn.Identity)


def test_where_quantizers_stand_around_additions_and_joins(rng):
    model, x = make("resnet-20", rng)
    quantize(model, [x])
    where = placed(model)
    block = "stages.0.1."
    assert {name: what for name, what in where.items() if name.startswith(block)} == {
        block + "conv1.input": "as stages.0.0.relu2.output",
        block + "conv1.output": "unsigned",
        block + "conv2.input": f"as {block}conv1.output",
        block + "conv2.output": "affine",  # it is added, before any ReLU
        block + "relu2.output": "unsigned",  # the sum is rounded here, for both of its readers
    }
    assert where["pool.input"] == "as stages.2.2.relu2.output"
    assert where["fc.input"] == "as pool.output"
    assert where["pool.output"] == "unsigned"
    assert "fc.output" not in where

    model, x = make("concatenated", rng)
    quantize(model, [x])
    assert placed(model) == {
        "stem.0.input": "affine",
        "stem.0.output": "unsigned",
        "narrow.input": "as stem.0.output",
        "narrow.output": "unsigned",
        "wide.input": "as stem.0.output",
        "wide.output": "affine",
        "average.input": "as stem.0.output",
        "average.output": "unsigned",
        "after.input": "affine",  # made by cat in the model's own forward
        "tiles.input": "affine",  # made by an addition there; leaky ReLU reads what `after` gives as it is
        "tiles.output": "affine",
        "last.input": "as tiles.output",
        "last.output": "unsigned",
        "pool.input": "as last.output",
        "pool.output": "unsigned",
        "fc.input": "as pool.output",
    }


def test_observers_of_unsigned_lattices_see_what_a_relu_leaves(rng):
    """Values below 0 become 0 there: to a histogram they must not be a tail that could be cut."""
    observers = []

    def make_one():
        observers.append(MinMax())
        return observers[-1]

    model, x = make("simple", rng)
    quantize(model, [x], observer=make_one)
    lows = [one.low for one in observers[-4:]]
    assert lows[0] < 0, "images"
    assert lows[1:] == [0, 0, 0], "behind the two convolutions and the dense layer"


@pytest.mark.parametrize("observer", ["minmax", "moving", "percentile", "mse", "kl"])
def test_eight_bits_change_little(rng, observer):
    model, x = make("resnet-20", rng)
    before = run(model, x)
    quantize(model, [x], observer=observer)
    assert np.abs(run(model, x) - before).max() < 0.15 * np.abs(before).max()


def test_more_bits_come_closer(rng):
    errors = []
    for bits in (2, 4, 8, 12):
        model, x = make("resnet-20", np.random.default_rng(0))
        before = run(model, x)
        quantize(model, [x], bits=bits, activation_bits=12)
        errors.append(np.abs(run(model, x) - before).mean())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 50


def test_layers_have_the_bits_that_were_asked_for(rng):
    model, x = make("simple", rng)
    quantize(model, [x], bits=4, activation_bits=8, layers_bits={"fc*": 2, "fc2": None})
    assert [find(model.get_submodule(n), "weight", "quantize").bits for n in ("conv1", "conv2", "fc1")] == [
        4,
        4,
        2,
    ]
    assert find(model.fc2, "weight", "quantize") is None
    assert find(model.fc2, "input", "quantize") is None
    assert find(model.conv1, "output", "quantize").bits == 8
    assert find(model.fc1, "output", "quantize") is None, "fc2 reads float32, so nothing is rounded for it"


def test_a_plan_requantizes_once(rng):
    """The quantizer behind a layer that computes in integers has nothing left to do."""
    model, x = make("resnet-20", rng)
    quantize(model, [x])
    forward = minicnn.compile(model)
    run(forward, x)
    layers = [node.layer for node in forward.plans()[0].graph.nodes if node.name == "FakeQuantize"]
    assert sum("conv" in layer and "output" in layer for layer in layers) == 0
    assert sum("relu2.output" in layer for layer in layers) == 9, "sums are float32 until here"
