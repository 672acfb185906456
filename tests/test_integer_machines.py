"""Integers on machines without AVX512-VNNI, as far as this one can play them; ONNX Runtime as a witness."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minicnn_kernels as kernels
from minicnn_kernels.algorithms import using
from minicnn_kernels.cpu.integers.routes import VNNI

cpu, reference = kernels.backend("cpu"), kernels.backend("reference")
HASWELL = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+sse,+sse2,+sse4.1,+avx,+avx2,+fma"}
ASK = """
import minicnn_kernels
from minicnn_kernels.algorithms import using
from minicnn_kernels.cpu.integers.routes import VNNI, route
print(VNNI, route())
with using("integer", "vnni"):
    route()
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **environment}, capture_output=True, text=True
    )


def test_without_the_instruction_floats_serve_and_asking_for_it_is_refused():
    result = python("-c", ASK, **HASWELL)
    assert result.stdout == "False float\n"
    assert "ValueError: integer: the algorithm 'vnni' needs a processor with AVX512-VNNI" in result.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("machine", [HASWELL, {"NUMBA_CPU_NAME": "generic"}], ids=str)
def test_all_tests_of_integers_pass_without_the_instruction(machine):
    file = Path(__file__).with_name("test_integer_kernels.py")
    result = python("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(file), **machine)
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.skipif(not VNNI, reason="this machine has no AVX512-VNNI")
def test_what_saturates_sixteen_bits_is_exact_for_vnni():
    """Where a machine lacks the instruction, the usual way round it adds pairs of products in int16."""
    x, weight = np.full((9, 4096), 255, np.uint8), np.full((33, 4096), -128, np.int8)
    factor = np.float32([1 / 2**20]).repeat(33)
    with using("integer", "vnni"):
        y = cpu.integer_linear_forward(x, weight, None, factor, 0, None, 0, 0)
    np.testing.assert_array_equal(y, np.full((9, 33), 255 * -128 * 4096 / 2**20, np.float32))


@pytest.mark.peers
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("groups", [1, 2])
def test_onnx_runtime_gives_the_same_integers(rng, kernel, groups):
    """QLinearConv of ONNX, which is where the arithmetic comes from."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    channels, outputs = 6 * groups, 20 * groups
    x = rng.integers(0, 256, (3, channels, 11, 9), np.uint8)
    weight = rng.integers(-127, 128, (outputs, 6, kernel, kernel), np.int8)
    bias = rng.integers(-20_000, 20_000, outputs).astype(np.int32)
    x_scale, y_scale = np.float32(0.02), np.float32(0.7)
    w_scale = rng.uniform(0.001, 0.01, outputs).astype(np.float32)
    x_zero, y_zero = np.uint8(77), np.uint8(131)
    constants = {
        "x_scale": x_scale, "x_zero": x_zero, "w": weight, "w_scale": w_scale,
        "w_zero": np.zeros(outputs, np.int8), "y_scale": y_scale, "y_zero": y_zero, "bias": bias,
    }  # fmt: skip
    pads = [kernel // 2] * 4
    node = onnx.helper.make_node("QLinearConv", ["x", *constants], ["y"], pads=pads, group=groups)
    kind = onnx.TensorProto.UINT8
    graph = onnx.helper.make_graph(
        [node], "one", [onnx.helper.make_tensor_value_info("x", kind, x.shape)],
        [onnx.helper.make_tensor_value_info("y", kind, None)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})[0]
    padding = kernel // 2, kernel // 2
    arguments = (
        weight,
        bias,
        x_scale * w_scale / y_scale,
        77,
        131,
        0,
        255,
        (1, 1),
        padding,
        (1, 1),
        groups,
        None,
    )
    for backend in (reference, cpu):
        np.testing.assert_array_equal(backend.integer_conv2d_forward(x, *arguments), expected)
    assert np.unique(expected).size > 10
