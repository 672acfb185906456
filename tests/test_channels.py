"""Removing channels from a Graph: what says nothing goes, and no output notices."""

from __future__ import annotations

import numpy as np
import pytest

import minicnn
from minicnn import models, nn
from minicnn.compress import fold_batch_norm, quantize, set_mask
from minicnn.graph import Plan, cost, remove_channels, trace
from minicnn.nn import functional as F


def macs(graph):
    return sum(c.macs for c in cost(graph))


def run(graph, *inputs):
    with minicnn.no_grad():
        return Plan(graph, None)(*inputs)[0].numpy()


def prune_filters(layer, rate, seed=0):
    """Mask a share of the filters; bias and batch norm stay, so that what is left is constant, not zero."""
    weight = layer.weight
    dead = np.random.default_rng(seed).permutation(weight.shape[0])[: round(rate * weight.shape[0])]
    keep = np.ones(weight.shape, bool)
    keep[dead] = False
    set_mask(layer, "weight", keep)


def settle(model, x):
    """Batch-norm statistics that are not their initial values, then eval mode."""
    model.train()
    with minicnn.no_grad():
        model(x)
        model(x * 2 + 1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
    return model.eval()


class Concatenating(nn.Module):
    """A dense block and an inception-like pair of branches."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 8, 3, padding=1)
        self.b = nn.Conv2d(10, 8, 3, padding=1)
        self.narrow, self.wide = nn.Conv2d(18, 6, 1), nn.Conv2d(18, 6, 5, padding=2)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.last = nn.Linear(12 * 4 * 4, 5)

    def forward(self, x):
        x = minicnn.cat([x, self.a(x).relu()], 1)
        x = minicnn.cat([x, self.b(x).relu()], 1)
        x = minicnn.cat([self.narrow(x), self.wide(x)], 1).relu()
        x = F.avg_pool2d(self.depthwise(x).relu(), 2)
        return self.last(x.flatten(1))


def plain():
    return nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 4, 32), nn.ReLU(), nn.Linear(32, 5),
    )  # fmt: skip


NETS = {
    "plain": (plain, (3, 2, 8, 8)),
    "concatenating": (Concatenating, (3, 2, 8, 8)),
    "resnet-20": (lambda: models.create("resnet-20", in_channels=2, image_size=8), (3, 2, 8, 8)),
    "resnet-18": (lambda: models.create("resnet-18", in_channels=2, image_size=8), (3, 2, 8, 8)),
    "mobilenet": (lambda: models.create("mobilenet", in_channels=2, image_size=16), (3, 2, 16, 16)),
    "densenet": (lambda: models.DenseNet(2, 8, growth=6, layers=(2, 2)), (3, 2, 8, 8)),
    "inception": (lambda: models.InceptionNet(2, 8), (3, 2, 8, 8)),
}


@pytest.mark.parametrize("name", NETS)
def test_pruned_filters_go_and_results_stay(name):
    build, shape = NETS[name]
    minicnn.manual_seed(0)
    model, x = build(), minicnn.randn(*shape)
    settle(model, x)
    for i, module in enumerate(model.modules()):
        if isinstance(module, nn.Conv2d):
            prune_filters(module, 0.5, seed=i)
    graph = trace(model, x)
    smaller = remove_channels(graph)
    with minicnn.no_grad():
        expected = model(x).numpy()
    assert macs(smaller) < 0.75 * macs(graph)
    np.testing.assert_allclose(run(smaller, x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["plain", "resnet-20", "concatenating", "densenet", "inception"])
@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_results_stay_to_the_bit(name, bits):
    build, shape = NETS[name]
    minicnn.manual_seed(0)
    model, x = build(), minicnn.randn(*shape)
    settle(model, x)
    fold_batch_norm(model, x, strict=False)
    for i, module in enumerate(model.modules()):
        if isinstance(module, nn.Conv2d):
            prune_filters(module, 0.5, seed=i)
    quantize(model, [x], bits=bits)
    graph = trace(model.eval(), x)
    smaller = remove_channels(graph)
    with minicnn.no_grad():
        expected = model(x).numpy()
    assert macs(smaller) < 0.9 * macs(graph)
    np.testing.assert_array_equal(run(smaller, x), expected)


def test_channels_that_nobody_reads_go():
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    keep = np.ones(model[2].weight.shape, bool)
    keep[:, [1, 4, 5]] = False
    set_mask(model[2], "weight", keep)
    smaller = remove_channels(trace(model, minicnn.randn(1, 2, 8, 8)))
    assert [value.shape for node in smaller.nodes for value in node.values[1:2]] == [
        (5, 2, 3, 3),
        (4, 5, 3, 3),
    ]


def test_what_an_unknown_op_reads_stays():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(2, 8, 3), nn.Conv2d(8, 4, 3, groups=2)

        def forward(self, x):
            return self.last(minicnn.flip(self.conv(x), (1,)))

    minicnn.manual_seed(0)
    model, x = Net().eval(), minicnn.randn(2, 2, 8, 8)
    prune_filters(model.conv, 0.5)
    graph = trace(model, x)
    smaller = remove_channels(graph)
    assert macs(smaller) == macs(graph)
    with minicnn.no_grad():
        np.testing.assert_array_equal(run(smaller, x), model(x).numpy())


def test_a_net_that_is_pruned_away_keeps_a_channel_and_its_answer():
    minicnn.manual_seed(0)
    model, x = plain(), minicnn.randn(3, 2, 8, 8)
    settle(model, x)
    prune_filters(model[0], 1.0)
    smaller = remove_channels(trace(model, x))
    with minicnn.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(run(smaller, x), expected, rtol=1e-5, atol=1e-6)


def test_a_graph_in_training_mode_is_refused():
    model = plain().train()
    with pytest.raises(ValueError, match="trace the model in eval mode"):
        remove_channels(trace(model, minicnn.randn(3, 2, 8, 8)))


def test_the_model_is_left_as_it_was():
    minicnn.manual_seed(0)
    model, x = plain(), minicnn.randn(3, 2, 8, 8)
    settle(model, x)
    prune_filters(model[0], 0.5)
    before = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    remove_channels(trace(model, x))
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])
