"""Networks in other people's formats compute what the model does, in every engine that is installed."""

import numpy as np
import pytest

pytest.importorskip("bench", reason="the benchmarks are not part of an installed package")

import minicnn
import minicnn_kernels as kernels
from bench.nets import NETS
from bench.peers import inference, integers, portable
from bench.peers.to_ncnn import to_ncnn
from bench.worker import Unavailable, Worker
from minicnn import nn


@pytest.mark.parametrize("net", NETS)
def test_portable_layers_compute_what_the_model_does(net, rng):
    minicnn.manual_seed(0)
    model = NETS[net].build(nn).eval()
    for name, tensor in model.state_dict().items():
        if "running" in name:
            tensor.data[...] = rng.uniform(0.5, 2, tensor.shape)
    images = rng.standard_normal((2, *NETS[net].image_shape), dtype=np.float32)
    layers = portable.from_minicnn(model, images)
    with minicnn.no_grad():
        expected = model.double()(minicnn.from_numpy(images.astype(np.float64))).numpy()
    values = {layers[0].inputs[0]: images}
    for layer in layers:
        values[layer.output] = run_portable(layer, *(values[name] for name in layer.inputs))
        assert list(values[layer.output].shape[1:]) == layer.shape
    assert inference.relative_error(values[layers[-1].output], expected) < 1e-6


def run_portable(layer, x, *others):
    """One portable layer in NumPy."""
    reference, size = kernels.backend("reference"), layer.options
    match layer.kind:
        case "conv":
            stride, padding = (size["stride"],) * 2, (size["padding"],) * 2
            y = reference.conv2d_forward(x, layer.weight, layer.bias, stride, padding, (1, 1), 1)
        case "dense":
            y = x @ layer.weight.T + layer.bias
        case "max_pool":
            window = ((size["size"],) * 2, (size["stride"],) * 2, (0, 0), (1, 1))
            y, _ = reference.max_pool2d_forward(x, *window, False)
        case "add":
            y = x + others[0]
        case "subsample":
            y = x[:, :, :: size["stride"], :: size["stride"]]
        case "pad_channels":
            y = np.pad(x, ((0, 0), (size["before"], size["after"]), (0, 0), (0, 0)))
        case "mean":
            y = x.mean(axis=(2, 3), keepdims=True)
        case "flatten":
            y = x.reshape(len(x), -1)
    return np.maximum(y, 0) if layer.relu else y


def test_samples_survive_being_written(tmp_path, rng):
    weights = {"weight": np.ones((4, 3), np.float32), "bias": np.zeros(4, np.float32)}
    layers = [portable.Layer("dense", ["input"], "%0", [4], relu=True, **weights)]
    sample = portable.Sample(layers, np.ones((2, 3), np.float32), rng.random((2, 4)), {"a.b": np.arange(3)})
    portable.save(tmp_path / "net.npz", sample)
    back = portable.load(tmp_path / "net.npz")
    assert (back.layers[0].kind, back.layers[0].relu, back.layers[0].shape) == ("dense", True, [4])
    np.testing.assert_array_equal(back.layers[0].weight, weights["weight"])
    np.testing.assert_array_equal(back.expected, sample.expected)
    np.testing.assert_array_equal(back.state["a.b"], [0, 1, 2])


def test_ncnn_gets_a_copy_of_every_value_that_two_layers_read(tmp_path):
    layers = [
        portable.Layer("mean", ["input"], "m", [3, 1, 1]),
        portable.Layer("add", ["m", "m"], "s", [3, 1, 1], relu=True),
    ]
    text, _ = to_ncnn(layers, tmp_path)
    assert text.read_text().splitlines() == [
        "7767517",
        "5 6",
        "Input images 0 1 input",
        "Pooling m 1 1 input m 0=1 4=1",
        "Split m/split 1 2 m m/0 m/1",
        "BinaryOp s/add 2 1 m/0 m/1 s/sum 0=0",
        "ReLU s 1 1 s/sum output",
    ]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A folder with the sample of R20, the net with every kind of layer."""
    folder = tmp_path_factory.mktemp("samples")
    portable.save(folder / "R20.npz", portable.make_sample("R20"))
    return str(folder)


@pytest.mark.peers
@pytest.mark.parametrize("engine", [name for name in inference.ENGINES if name != "torch-compile"])
def test_inference_engines_give_what_float64_gives(engine, samples):
    with Worker("bench.peers.inference:make", name=engine, folder=samples, net="R20", threads=1) as worker:
        try:
            worker.wait_until_ready()
        except Unavailable as error:
            if str(error).endswith("is not installed"):
                pytest.skip(str(error))
            raise
        worker.prepare("batch 64")  # raises if its output is off
        worker.prepare("batch 1")


@pytest.mark.peers
@pytest.mark.parametrize("engine", list(integers.ENGINES))
def test_engines_in_eight_bits_stay_near_the_floats(engine, tmp_path):
    portable.save(tmp_path / "W2.npz", portable.make_sample("W2"))
    options = {"name": engine, "folder": str(tmp_path), "net": "W2", "threads": 1}
    with Worker("bench.peers.integers:make", **options) as worker:
        try:
            worker.wait_until_ready()
        except Unavailable as error:
            if str(error).endswith("is not installed"):
                pytest.skip(str(error))
            raise
        worker.prepare("batch 64")  # raises if its output is off
        error = worker.prepare("batch 1")
    assert (error < inference.TOLERANCE) == (engine == "minicnn")  # the others have rounded to 8 bits


def test_an_output_that_is_off_is_seen():
    exact = np.array([[1.0, -4.0]])
    assert inference.relative_error(np.float32([[1.0, -4.001]]), exact) == pytest.approx(2.5e-4, rel=1e-3)
