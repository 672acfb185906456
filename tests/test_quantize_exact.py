"""Layers on lattices compute in exact integers: against NumPy's int64 and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

import minicnn
import minicnn_kernels as kernels
from minicnn import nn
from minicnn.compress import FakeQuantize
from minicnn.functions.conv import quantized_conv
from minicnn.functions.quantization import Lattices, quantized_linear
from minicnn.nn.transform import attach

every_backend = pytest.mark.parametrize("backend", ["reference", "cpu"])


@every_backend
@pytest.mark.parametrize(
    ("x_bits", "w_bits", "inputs"),
    [(8, 8, 30), (8, 8, 20_000), (16, 8, 3_000), (16, 16, 5_000)],
    ids=["small", "sums beyond 2^24", "cut in two", "in double precision"],
)
def test_sums_of_products_are_exact_however_large(backend, rng, x_bits, w_bits, inputs):
    """Float32 would round from 2^24 on: against NumPy's int64."""
    qx = rng.integers(0, 2**x_bits, (3, inputs))
    qw = rng.integers(-(2 ** (w_bits - 1)) + 1, 2 ** (w_bits - 1), (4, inputs))
    qw[0] = 2 ** (w_bits - 1) - 1  # as large as it gets
    bias = rng.standard_normal(4).astype(np.float32)
    x_scale, w_scale = np.float32(0.037), rng.uniform(0.001, 0.01, 4).astype(np.float32)
    x, w = qx.astype(np.float32) * x_scale, qw.astype(np.float32) * w_scale[:, None]
    unit = x_scale * w_scale
    acc = qx @ qw.T + np.rint(bias / unit).astype(np.int64)
    assert inputs == 30 or np.abs(acc).max() > 2**24
    with kernels.use(backend):
        scales = minicnn.tensor(x_scale), minicnn.tensor(w_scale)
        arrays = minicnn.tensor(x), minicnn.tensor(w), minicnn.tensor(bias)
        floats = quantized_linear(*arrays, Lattices(*scales, None, None, 0, 0)).numpy()
        y_scale = np.float32(np.abs(acc * unit).max() / 100)
        coarse = Lattices(*scales, minicnn.tensor(y_scale), minicnn.tensor(np.int32(128)), 0, 255)
        requantized = quantized_linear(*arrays, coarse).numpy()
    np.testing.assert_array_equal(floats, acc.astype(np.float32) * unit)
    q = np.clip(np.rint(acc.astype(np.float32) * (unit / y_scale)) + 128, 0, 255)
    np.testing.assert_array_equal(requantized, (q - 128).astype(np.float32) * y_scale)


@every_backend
def test_sums_of_a_convolution_are_exact_next_to_2_to_the_24(backend, rng):
    """Transforms of tiles, as Winograd's, would leave the whole numbers that float32 holds."""
    qx = rng.integers(0, 256, (2, 64, 16, 16))
    qw = rng.integers(-127, 128, (32, 64, 3, 3))
    qw[:8] = abs(qw[:8])
    acc = np.zeros((2, 32, 14, 14), np.int64)
    for i in range(3):
        for j in range(3):
            acc += np.einsum("nchw,oc->nohw", qx[:, :, i : i + 14, j : j + 14], qw[:, :, i, j])
    assert 2**22 < np.abs(acc).max() < 2**24
    one = minicnn.tensor(np.float32(1))
    x, weight = (minicnn.tensor(q.astype(np.float32)) for q in (qx, qw))
    with kernels.use(backend):
        y = quantized_conv(x, weight, None, Lattices(one, one, None, None, 0, 0)).numpy()
    np.testing.assert_array_equal(y, acc.astype(np.float32))


@every_backend
@pytest.mark.parametrize(("count", "steps"), [(4, 255), (300, 65535)], ids=["small", "beyond 2^24"])
def test_average_pooling_counts_in_whole_numbers(backend, rng, count, steps):
    scale, y_scale = np.float32(0.021), np.float32(0.034)
    q = rng.integers(0, steps + 1, (2, 3, 2, count))
    layer = nn.GlobalAvgPool().eval()
    for place, step in (("input", scale), ("output", y_scale)):
        quantizer = attach(layer, place, FakeQuantize(16, signed=False))
        quantizer.scale.fill_(float(step))
    with kernels.use(backend):
        y = layer(minicnn.tensor(q.astype(np.float32) * scale)).numpy()
    unit = scale * (np.float32(1) / np.float32(2 * count))
    wanted = np.rint(q.sum((2, 3)).astype(np.float32) * (unit / y_scale)) * y_scale
    np.testing.assert_array_equal(y, np.minimum(wanted, np.float32(65535) * y_scale))


@pytest.mark.peers
@every_backend
@pytest.mark.parametrize("options", [{}, {"padding": 1, "stride": 2}, {"groups": 2, "dilation": 2}], ids=str)
def test_a_convolution_equals_onnx_qlinearconv(backend, options, rng):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    h = onnx.helper
    groups = options.get("groups", 1)
    qx = rng.integers(0, 256, (2, 6, 9, 9)).astype(np.uint8)
    qw = rng.integers(-127, 128, (8, 6 // groups, 3, 3)).astype(np.int8)
    x_zero, y_zero = np.uint8(117), np.uint8(93)
    x_scale, y_scale = np.float32(0.0183), np.float32(0.11)
    w_scale = rng.uniform(0.001, 0.01, 8).astype(np.float32)
    bias = rng.standard_normal(8).astype(np.float32)
    constants = {
        "x_scale": x_scale, "x_zero": x_zero, "w": qw, "w_scale": w_scale, "w_zero": np.zeros(8, np.int8),
        "y_scale": y_scale, "y_zero": y_zero, "b": np.rint(bias / (x_scale * w_scale)).astype(np.int32),
    }  # fmt: skip
    pads, strides, dilations = (
        [options.get(key, default)] * n
        for key, default, n in (("padding", 0, 4), ("stride", 1, 2), ("dilation", 1, 2))
    )
    node = h.make_node(
        "QLinearConv",
        ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero", "b"],
        ["y"], pads=pads, strides=strides, dilations=dilations, group=groups,
    )  # fmt: skip
    graph = h.make_graph(
        [node],
        "one",
        [h.make_tensor_value_info("x", onnx.TensorProto.UINT8, qx.shape)],
        [h.make_tensor_value_info("y", onnx.TensorProto.UINT8, None)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"x": qx})[0]

    x = (qx.astype(np.float32) - np.float32(x_zero)) * x_scale
    weight = qw.astype(np.float32) * w_scale.reshape(-1, 1, 1, 1)
    lattices = Lattices(
        *map(minicnn.tensor, (x_scale, w_scale, y_scale, np.int32(y_zero))), quant_min=0, quant_max=255
    )
    with kernels.use(backend):
        ours = quantized_conv(*map(minicnn.tensor, (x, weight, bias)), lattices, **options).numpy()
    np.testing.assert_array_equal(np.rint(ours / y_scale) + y_zero, theirs)
