"""ONNX Runtime gives the same integers: every value of every layer of deployed nets of 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_integers import OnnxModel
from test_quantize_models import make
from test_verify import Mixed

import minicnn
import minicnn_kernels as kernels
from minicnn import data, deploy
from minicnn.compress import quantize
from minicnn.deploy.integers import to_integers
from minicnn.grad_mode import no_grad
from minicnn.graph.constants import run

pytestmark = pytest.mark.peers


def compare(model, images):
    """How many numbers on lattices were compared and how many differ, then the same of the float results."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    graph = deploy.lower(model, images[:1])
    written = OnnxModel(onnx, graph)
    session = written.session(runtime)
    names = [output.name for output in session.get_outputs()]
    integers = to_integers(graph, fuse=False)
    known = {graph.inputs[0]: images}
    with no_grad(), kernels.use("reference"):
        for node in integers.graph.nodes:
            results = run(node, *(known[x] for x in node.values if x.kind != "constant"))
            known.update(zip(node.outputs, results, strict=True))
    theirs = dict(zip(names, session.run(None, {"images": images.numpy()}), strict=True))
    compared = different = 0
    for value, name in written.tensors.items():
        ours = known[integers.stored[value][0]].numpy()
        compared += ours.size
        different += int((ours != theirs[name]).sum())
    logits = known[graph.outputs[0]].numpy()
    return compared, different, logits.size, int((logits != theirs[names[0]]).sum())


@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "per tensor"])
@pytest.mark.parametrize("name", ["simple", "resnet-20 B", "mixed"])
def test_every_integer_is_that_of_onnx_runtime(name, per_channel, rng):
    if name == "mixed":
        minicnn.manual_seed(0)
        model, x = Mixed().eval(), minicnn.tensor(rng.standard_normal((6, 1, 28, 28)).astype(np.float32))
    else:
        model, x = make(name, rng)
    quantize(model, [x], per_channel=per_channel)
    compared, different, logits, other_logits = compare(model.eval(), x)
    assert compared > 10_000
    assert (different, other_logits) == (0, 0), f"of {compared} and {logits}"


@pytest.mark.slow
def test_a_thousand_images_of_fashion_mnist_give_the_integers_of_onnx_runtime():
    minicnn.manual_seed(0)
    model = Mixed()
    normalize = data.Normalize(0.286, 0.353)
    train = data.Subset(data.FashionMNIST(transform=normalize), range(2_000))
    optimizer = minicnn.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    minicnn.fit(model, data.DataLoader(train, 50), optimizer=optimizer, epochs=2, progress=False)
    quantize(model.eval(), data.DataLoader(train, 250))
    test = data.Subset(data.FashionMNIST(train=False, transform=normalize), range(1_000))
    for images, _ in data.DataLoader(test, 250):
        compared, different, _, other_logits = compare(model, images)
        assert compared > 250 * 20_000
        assert (different, other_logits) == (0, 0)
