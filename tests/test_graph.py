"""Graphs: what a trace records, what it refuses, what the passes say about it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import minicnn
from minicnn import graph, models, nn
from minicnn.graph import draw
from minicnn_kernels import memory


@pytest.fixture
def simple_graph() -> graph.Graph:
    model = models.create("simple", in_channels=1, image_size=28, num_classes=10)
    return graph.trace(model, np.zeros((2, 1, 28, 28), np.float32))


def test_trace_records_ops_layers_and_parameters_in_order(simple_graph: graph.Graph) -> None:
    convolution = simple_graph.nodes[0]
    assert convolution.name == "Conv2d"
    assert convolution.layer == "conv1"
    assert convolution.inputs[0] is simple_graph.inputs[0]
    assert [value.name for value in simple_graph.parameters()] == [
        f"{layer}.{kind}" for layer in ("conv1", "conv2", "fc1", "fc2") for kind in ("weight", "bias")
    ]
    assert simple_graph.outputs[0].shape == (2, 10)
    assert simple_graph.nodes[-1].output is simple_graph.outputs[0]


def test_replaying_the_trace_gives_the_models_answer() -> None:
    model = models.create("resnet-20", in_channels=3, image_size=32, num_classes=10).eval()
    x = minicnn.randn(2, 3, 32, 32)
    recorded = graph.trace(model, x)
    values = {recorded.inputs[0]: x}
    with minicnn.no_grad():
        for node in recorded.nodes:
            inputs = [values.get(v, v.tensor) if isinstance(v, graph.Value) else v for v in node.inputs]
            result = node.op.apply(*inputs, **node.options)
            results = result if isinstance(result, tuple) else (result,)
            values.update(zip(node.outputs, results, strict=True))
        expected = model(x)
    np.testing.assert_array_equal(values[recorded.outputs[0]].numpy(), expected.numpy())


def test_branches_share_values() -> None:
    class TwoInputs(nn.Module):
        def forward(self, a, b):
            c = a + b
            return c * a, minicnn.cat([c, b], 0)

    recorded = graph.trace(TwoInputs(), np.ones(3, np.float32), np.ones(3, np.float32))
    assert [value.name for value in recorded.inputs] == ["input0", "input1"]
    assert len(recorded.outputs) == 2
    add = recorded.nodes[0]
    assert [node.name for node in recorded.consumers()[add.output]] == ["Mul", "Cat"]
    assert recorded.producers()[add.output] is add


def test_python_that_looks_at_values_is_refused_with_its_line() -> None:
    class Peeks(nn.Module):
        def forward(self, x):
            y = x.relu()
            if y.sum() > 0:  # this very line
                y = y * 2
            return y

    model = Peeks()
    with pytest.raises(graph.TraceError, match=r"test_graph.py, line \d+ \(if y.sum\(\) > 0:"):
        graph.trace(model, np.ones(3, np.float32))
    np.testing.assert_array_equal(model(minicnn.ones(3)).numpy(), [2, 2, 2])  # eager mode goes on working


def test_multiply_accumulates_of_known_layers() -> None:
    model = models.create("lenet-300-100")
    total = sum(c.macs for c in graph.cost(graph.trace(model, np.zeros((1, 1, 28, 28), np.float32))))
    assert total == 784 * 300 + 300 * 100 + 100 * 10
    convolution = nn.Conv2d(8, 16, 3, padding=1, groups=2)
    (only,) = graph.cost(graph.trace(convolution, np.zeros((1, 8, 5, 7), np.float32)))
    assert only.macs == 16 * 5 * 7 * (8 // 2) * 9
    assert only.bytes_written == 16 * 5 * 7 * 4


def test_pictures_name_every_op(simple_graph: graph.Graph) -> None:
    document = ElementTree.fromstring(graph.svg(simple_graph))
    texts = [element.text for element in document.iter("{http://www.w3.org/2000/svg}text")]
    text = graph.dot(simple_graph)
    for node in simple_graph.nodes:
        assert any(label.startswith(node.name) for label in texts)
        assert node.name in text
    assert text.count("->") == len(simple_graph.nodes)  # a chain: one edge into each op


def test_a_picture_has_branches_side_by_side_and_no_bookkeeping() -> None:
    block = nn.Sequential(models.Inception(2, 1, 1, 1, 1, 1, 1), nn.BatchNorm2d(4))
    recorded = graph.trace(block.train(), np.zeros((1, 2, 4, 4), np.float32))
    shown = draw.drawn(recorded)
    assert len(shown.nodes) < len(recorded.nodes)  # batch norm counts its batches in training
    place = draw.places(shown)
    assert len(set(place.values())) == len(place)
    for source, target in draw.edges(shown):
        if source >= 0 and shown.nodes[target].name != "Cat":  # each branch stays in its column
            assert place[source][0] == place[target][0]
    assert len({column for column, _ in place.values()}) == 4
    assert "Overwrite" not in graph.svg(recorded)


class Elementwise(nn.Module):
    def forward(self, x):
        a = x.relu()
        b = (a.exp() + a).sigmoid()
        return b.reshape(-1) * 2


def test_lives_end_with_the_last_reader_and_memory_is_used_again() -> None:
    recorded = graph.trace(Elementwise(), np.ones((512, 512), np.float32))
    relu, exp, add, sigmoid, mul = graph.lifetimes(recorded)
    assert [life.value.name for life in (relu, exp, add, sigmoid, mul)] == ["%0", "%1", "%2", "%3", "%5"]
    assert [(life.first, life.last) for life in (relu, exp, add)] == [(0, 2), (1, 2), (2, 3)]
    assert (sigmoid.first, sigmoid.last) == (3, 5)  # what reshape returns is a view of it
    assert mul.last == len(recorded.nodes)  # the caller's
    assert relu.buffer != exp.buffer != add.buffer != relu.buffer
    assert sigmoid.buffer in (relu.buffer, exp.buffer)
    assert graph.peak_bytes(recorded) == 3 << 20
    table = graph.memory_table(recorded)
    assert "5 results of 5120.0 KiB in 3 buffers of 3072.0 KiB; at most 3072.0 KiB at once" in table


def test_a_plan_takes_as_much_memory_as_its_graph_says(monkeypatch: pytest.MonkeyPatch) -> None:
    x = minicnn.ones(512, 512)
    compiled = minicnn.compile(Elementwise())
    with minicnn.no_grad():
        compiled(x)
        (plan,) = compiled.plans()
        memory.clear()
        held, most, raws = 0, 0, set()
        take, give_back = memory._take, memory._give_back

        def counted_take(nbytes):
            nonlocal held, most
            raw = take(nbytes)
            held, most = held + nbytes, max(most, held + nbytes)
            raws.add(raw.ctypes.data)
            return raw

        def counted_give_back(raw):
            nonlocal held
            held -= raw.nbytes - memory.ALIGNMENT
            give_back(raw)

        monkeypatch.setattr(memory, "_take", counted_take)
        monkeypatch.setattr(memory, "_give_back", counted_give_back)
        result = compiled(x)
    assert result.shape == (512 * 512,)
    assert most == graph.peak_bytes(plan.graph)
    assert len(raws) == len({life.buffer for life in graph.lifetimes(plan.graph)})
