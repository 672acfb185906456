"""verify: a file that answers like its model passes, and one wrong number anywhere is found and named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_channels import prune_filters
from test_quantize_models import SHAPES, make

import minicnn
import minicnn_kernels as kernels
from minicnn import data, deploy, models, nn, optim
from minicnn.compress import fold_batch_norm, quantize
from minicnn.deploy.container import read, write
from minicnn.deploy.engine import Program
from minicnn.deploy.verify import verify
from minicnn.nn import functional as F


def batches(x, size=4):
    return [x[i : i + size] for i in range(0, len(x), size)]


@pytest.fixture
def deployed(rng, tmp_path):
    """A quantized model, images, and the path of its file."""

    def build(name, **options):
        model, x = make(name, rng)
        quantize(model, [x], **options)
        deploy.save(model, tmp_path / "a.mcnn", x)
        return model, x, tmp_path / "a.mcnn"

    return build


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_every_value_of_every_route_is_that_of_the_model(deployed, name, bits):
    model, x, path = deployed(name, bits=bits)
    found = verify(model, path, batches(x))
    assert found.exact
    assert found.equal, "\n".join(map(str, found.routes))
    assert {"the file as it is run", "reference", "cpu, float", "cpu, plain"} <= {
        r.name for r in found.routes
    }
    assert all(route.images == route.equal == len(x) for route in found.routes)
    reference = next(route for route in found.routes if route.name == "reference")
    graph = deploy.load(path).graph
    on_lattices = [node for node in graph.nodes if "Quantize" in node.name]
    per_image = sum(np.prod(node.output.shape[1:]) for node in on_lattices)
    assert reference.numbers >= len(x) * per_image, "every value on a lattice was compared"


def test_removed_channels_are_left_out_of_the_comparison(rng, tmp_path):
    model, x = make("resnet-20", rng)
    fold_batch_norm(model, x, strict=False)
    for i, module in enumerate(model.modules()):
        if isinstance(module, nn.Conv2d):
            prune_filters(module, 0.5, seed=i)
    quantize(model, [x])
    deploy.save(model, tmp_path / "a.mcnn", x)
    assert verify(model, tmp_path / "a.mcnn", [x]).equal


@pytest.mark.parametrize(("array", "layer"), [("conv2", "conv2"), ("fc1", "fc1")])
def test_the_first_difference_is_named(deployed, array, layer, tmp_path):
    model, x, path = deployed("simple")
    meta, arrays = read(path)
    name = next(entry["inputs"][1]["array"] for entry in meta["program"]["nodes"]
                if entry.get("layer") == array and len(entry["inputs"]) > 4)  # fmt: skip
    arrays[name].flat[5] += 9
    write(tmp_path / "b.mcnn", meta, arrays)
    found = verify(model, tmp_path / "b.mcnn", batches(x))
    assert not found.equal
    for route in found.routes:
        if route.name == "the file as it is run" or route.name.endswith("program"):
            assert route.first.layer == "fc2", "its result is all that it gives"
        else:
            assert route.first.layer == layer
            assert f"'{layer}', image {route.first.image}, place (" in str(route)
        assert route.equal < route.images
        assert route.first.expected != route.first.got


def test_a_file_of_another_model_is_told(deployed, rng):
    _, x, path = deployed("simple")
    other = models.SimpleCNN(1, 12).eval()
    quantize(other, [x], bits=4)
    assert not verify(other, path, [x]).equal, "other weights"
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(144, 10)).eval()
    with pytest.raises(ValueError, match="the file is of another model"):
        verify(narrow, path, [x])


def test_a_model_of_floats_is_compared_up_to_rounding(rng, tmp_path):
    model, x = make("resnet-20", rng)
    deploy.save(model, tmp_path / "a.mcnn", x)
    found = verify(model, tmp_path / "a.mcnn", [x])
    assert found.equal
    assert not found.exact


@pytest.mark.parametrize("floats", ["conv1", "conv2", "fc1"])
def test_a_layer_left_in_floats_changes_no_bit(deployed, floats):
    model, x, path = deployed("simple", layers_bits={floats: None})
    found = verify(model, path, [x])
    assert found.exact
    assert found.equal, "\n".join(map(str, found.routes))


def test_only_some_images_go_through_the_reference(deployed):
    model, x, path = deployed("simple")
    found = verify(model, path, batches(x, 2), reference_images=3)
    images = {route.name: route.images for route in found.routes}
    assert images["reference"] == 3
    assert images["the file as it is run"] == len(x) == 6


def test_programs_go_the_way_that_is_compared(deployed, monkeypatch):
    """Whatever way the file was found to be fastest by."""
    model, x, path = deployed("simple")
    called, seen = Program.__call__, []

    def call(self, *arrays):
        seen.append(kernels.algorithm("integer"))
        return called(self, *arrays)

    monkeypatch.setattr(Program, "__call__", call)
    artefact = deploy.Artefact(deploy.load(path).graph, {"stopwatch": [{"route": "plain"}]})
    found = verify(model, artefact, [x])
    ways = [route.name.split()[1][:-1] for route in found.routes if route.name.endswith("as one program")]
    assert seen == ["plain", *ways]
    assert {"float", "plain"} <= set(ways)


def test_no_images_are_told(deployed):
    model, _, path = deployed("simple")
    with pytest.raises(ValueError, match="yields no images"):
        verify(model, path, [])


def test_labelled_batches_are_taken(deployed):
    model, x, path = deployed("simple")
    dataset = data.ArrayDataset(x.numpy(), np.zeros(len(x), np.int64))
    found = verify(model, path, data.DataLoader(dataset, 4))
    assert found.equal
    assert dataclasses.asdict(found)["routes"][0]["images"] == 6
    assert minicnn.is_grad_enabled()


class Mixed(nn.Module):
    """A residual block, branches that are joined, average pooling inside and at the end."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.first = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.narrow, self.wide = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 5, padding=2)
        self.average = nn.AvgPool2d(3, stride=1, padding=1)
        self.last = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.pool, self.fc = nn.GlobalAvgPool(), nn.Linear(32, 10)

    def forward(self, images):
        x = self.stem(images)
        x = F.relu(self.second(self.first(x)) + x)
        x = minicnn.cat([F.relu(self.narrow(x)), F.relu(self.wide(x)), self.average(x)], 1)
        return self.fc(self.pool(F.relu(self.last(x))))


@pytest.fixture(scope="module")
def trained():
    """Both nets after some hundred steps on Fashion-MNIST, as state dicts."""
    states = {}
    train = data.FashionMNIST(train=True, transform=data.Normalize(0.286, 0.353))
    for name, build in (("W2", models.SimpleCNN), ("mixed", Mixed)):
        minicnn.manual_seed(0)
        model = build()
        loader = data.DataLoader(data.Subset(train, range(12_800)), 64, shuffle=True)
        optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        minicnn.fit(model, loader, optimizer=optimizer, epochs=1, progress=False)
        states[name] = build, model.state_dict()
    return states


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["W2", "mixed"])
@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "per tensor"])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_ten_thousand_of_ten_thousand_images_to_the_bit(trained, name, per_channel, bits, tmp_path):
    """Fashion-MNIST's test images, every value of every layer, the reference and every route."""
    build, state = trained[name]
    model = build()
    model.load_state_dict(state)
    normalize = data.Normalize(0.286, 0.353)
    calibration = data.DataLoader(data.Subset(data.FashionMNIST(transform=normalize), range(1000)), 250)
    quantize(model.eval(), calibration, bits=bits, per_channel=per_channel)
    deploy.save(model, tmp_path / "a.mcnn", np.zeros((1, 1, 28, 28), np.float32))
    test = data.DataLoader(data.FashionMNIST(train=False, transform=normalize), 50)
    found = verify(model, tmp_path / "a.mcnn", test)
    print(name, bits, per_channel, *found.routes, sep="\n")
    assert found.exact
    assert [route.equal for route in found.routes] == [10_000] * len(found.routes)
