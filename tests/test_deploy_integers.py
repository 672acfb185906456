"""Graphs on lattices become Graphs on integers: the same bits, and as much on uint8 as can be."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from test_quantize_models import SHAPES, make

import minicnn
import minicnn_kernels as kernels
from minicnn import deploy, nn
from minicnn.compress import FakeQuantize, quantize
from minicnn.deploy.engine import RunProgram, with_programs
from minicnn.deploy.integers import to_integers
from minicnn.functions.integer import IntegerOp
from minicnn.graph import Plan
from minicnn.nn import functional as F
from minicnn.nn.transform import attach, find


def quantized(model, x, **options):
    """The model on lattices, in eval mode, with a Graph of it."""
    quantize(model, [x], **options)
    return model.eval(), deploy.lower(model, x)


def answers(model, x):
    with minicnn.no_grad():
        return model(x).numpy()


def run(graph, x, backend):
    with minicnn.no_grad(), kernels.use(backend):
        return Plan(graph, None)(x)[0].numpy()


def floats_left(graph):
    """Names of the ops that still compute with floats."""
    return sorted(
        node.name
        for node in graph.nodes
        if not issubclass(node.op, IntegerOp) and any(x.dtype == np.float32 for x in node.values)
    )


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("options", [{}, {"per_channel": False}, {"learned": True}], ids=str)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_integers_give_the_bits_of_eval_mode(rng, name, options, bits, backend):
    model, x = make(name, rng)
    model, graph = quantized(model, x, bits=bits, **options)
    expected = answers(model, x)
    for integers in (to_integers(graph).graph, to_integers(graph, fuse=False).graph):
        np.testing.assert_array_equal(run(integers, x, backend), expected)
        np.testing.assert_array_equal(run(with_programs(integers), x, backend), expected)


@pytest.mark.parametrize(
    ("name", "left"),
    [("simple", []), ("resnet-20", []), ("resnet-20 B", []), ("concatenated", ["Add", "LeakyReLU"])],
)
def test_whatever_lies_on_lattices_is_uint8(rng, name, left):
    _, graph = quantized(*make(name, rng))
    assert floats_left(to_integers(graph).graph) == left


@pytest.mark.parametrize("name", ["resnet-20", "resnet-20 B"])
def test_shortcuts_and_all_of_a_residual_net_are_one_program(rng, name):
    _, graph = quantized(*make(name, rng))
    assert [node.op for node in with_programs(to_integers(graph).graph).nodes] == [RunProgram]


def test_a_net_of_integers_is_one_program(rng):
    _, graph = quantized(*make("simple", rng))
    nodes = with_programs(to_integers(graph).graph).nodes
    assert [node.op for node in nodes] == [RunProgram]
    ops = [node.name for node in nodes[0].options["program"].nodes]
    assert ops == ["Quantize", "IntegerConv2d", "IntegerConv2d", "Reshape", "IntegerLinear", "IntegerLinear"]


def test_floats_between_integers_split_a_program_once(rng):
    _, graph = quantized(*make("concatenated", rng))
    nodes = with_programs(to_integers(graph).graph).nodes
    assert [node.name for node in nodes] == ["RunProgram", "LeakyReLU", "Add", "RunProgram"]


class Elementwise(nn.Module):
    """Functions of one value, of two, and of a join, between a layer on lattices and a quantizer."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.middle = nn.Conv2d(6, 6, 1)
        self.function = function

    def forward(self, x):
        x = self.middle(self.first(x).relu())
        return self.last(self.function(x))


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (F.leaky_relu, "IntegerLookup"),
        (F.relu6, "IntegerLookup"),
        (F.hardswish, "IntegerLookup"),
        (F.silu, "IntegerLookup"),
        (F.sigmoid, "IntegerLookup"),
        (lambda x: 0.5 * x + 1, "IntegerLookup"),
        (lambda x: x * x.abs(), "IntegerLookup"),
        (lambda x: x + x, "IntegerConv2d"),
        (lambda x: F.relu(x.flip((2,)) + x), "IntegerAdd"),
        (lambda x: x.flip((3,)) + F.relu(x), "IntegerAdd"),
        (lambda x: minicnn.cat([F.leaky_relu(x[:, :2]), x[:, 2:]], 1), "Cat"),
        (lambda x: F.relu(minicnn.cat([x[:, 3:], x[:, :3] + x[:, 3:]], 1)), "Cat"),
        (lambda x: F.max_pool2d(x, 3, 1, 1), "IntegerMaxPool2d"),
        (lambda x: F.pad(x, (1, 2, 0, 1)), "Pad"),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "Pad"),
        (lambda x: x.transpose(2, 3)[:, :, ::2].roll(1, 3), "Roll"),
    ],
)
def test_what_stands_between_layers_runs_on_integers(rng, function, op):
    minicnn.manual_seed(1)
    x = minicnn.tensor(rng.standard_normal((3, 2, 7, 9)).astype(np.float32))
    model = Elementwise(function)
    quantize(model, [x])
    if find(model.middle, "output", "quantize") is None:  # as if a layer read what it gives
        quantizer = attach(model.middle, "output", FakeQuantize(8, signed=False, symmetric=False))
        with minicnn.no_grad():
            quantizer.observe(model.middle(model.first(x).relu()))
    model.eval()
    integers = to_integers(deploy.lower(model, x)).graph
    assert Counter(node.name for node in integers.nodes)[op] >= 1
    assert floats_left(integers) == []
    np.testing.assert_array_equal(run(integers, x, "reference"), answers(model, x))
    np.testing.assert_array_equal(run(with_programs(integers), x, "cpu"), answers(model, x))


def test_what_is_too_wide_stays_as_it_was(rng):
    model, x = make("simple", rng)
    model, graph = quantized(model, x, bits=8, activation_bits=12)
    integers = to_integers(graph).graph
    assert floats_left(integers) == sorted(node.name for node in graph.nodes)
    np.testing.assert_array_equal(run(integers, x, "cpu"), answers(model, x))


def test_layers_left_in_floats_read_floats(rng):
    model, x = make("simple", rng)
    model, graph = quantized(model, x, layers_bits={"conv2": None})
    integers = to_integers(graph).graph
    assert "Conv2d" in floats_left(integers)
    np.testing.assert_allclose(run(integers, x, "cpu"), answers(model, x), rtol=1e-5, atol=1e-5)


def test_sums_that_leave_int32_stay_floats():
    minicnn.manual_seed(0)
    x = minicnn.rand(2, 70_000)
    model = nn.Sequential(nn.Linear(70_000, 2), nn.Linear(2, 2))
    with minicnn.no_grad():
        model[0].weight.fill_(1)
    model, graph = quantized(model, x)
    ops = [node.name for node in to_integers(graph).graph.nodes]
    assert ops.count("QuantizedLinear") == 1
    assert ops.count("IntegerLinear") == 1
    np.testing.assert_array_equal(run(to_integers(graph).graph, x, "cpu"), answers(model, x))


def test_a_bias_that_is_no_number_stays_a_float(rng):
    model, x = make("simple", rng)
    quantize(model, [x])
    with minicnn.no_grad():
        model.fc1.bias.fill_(float("nan"))
        graph = deploy.lower(model.eval(), x)
    integers = to_integers(graph).graph
    assert {node.layer for node in integers.nodes if node.name.startswith("Quantized")} == {"fc1"}
