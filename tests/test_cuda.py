"""Device "cuda" without a GPU: its kernels, what it says where it is missing, and training in the simulator.

The op table runs on it too, in a process of its own: MINICNN_TEST_BACKENDS=sim pytest tests/test_functions.py
(or =cuda, on a machine with a GPU). With MINICNN_SIMULATED_THREADS=4 every access to memory is watched for
races (`test_cuda_races.py` shows that they are found).
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from simulated import in_simulator

import minicnn
import minicnn_kernels as kernels
from minicnn import nn

ROOT = Path(__file__).parent.parent
CUDA = ROOT / "kernels" / "minicnn_kernels" / "cuda"


def exported(path: Path) -> set[str]:
    """The names in `__all__` of a module, read off its source: importing it would need numba-cuda."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def test_cuda_has_every_kernel_but_those_that_work_on_the_host():
    here = set().union(*(exported(path) for path in CUDA.glob("*.py")))
    source = ast.parse((CUDA / "host.py").read_text(encoding="utf-8"))
    listed = next(node.value for node in source.body if "HOST = {" in ast.unparse(node))
    names = {ast.literal_eval(key) for key in listed.keys}
    assert set(kernels.backend("reference").__all__) - here == names


def test_kernels_of_cuda_take_the_arguments_of_the_reference():
    program = """
import inspect
from minicnn_kernels import cuda, reference
def arguments(function):
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]
for name in set(reference.__all__) - set(cuda.HOST):
    ours, theirs = arguments(getattr(cuda, name)), arguments(getattr(reference, name))
    assert ours == theirs, f"{name}: cuda {ours}, reference {theirs}"
"""
    in_simulator("-c", program)


def test_numba_cuda_is_imported_in_one_module():
    # driver.py, and what patches Numba, asks its compiler or makes instructions by its code generator
    doors = {"driver.py", "simulator.py", "code.py", "ptx.py"}
    for path in CUDA.glob("*.py"):
        if path.name not in doors:
            assert "numba" not in {
                name.split(".")[0]
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                for name in imported(node)
            }, path.name


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


@pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is not None, reason="numba-cuda is installed")
def test_without_the_extra_an_error_says_how_to_get_it():
    x = minicnn.ones(2, 3)
    for move in (lambda: x.to("cuda"), x.cuda, nn.Linear(2, 2).cuda, lambda: nn.Linear(2, 2).to("cuda")):
        with pytest.raises(ImportError, match=r"pip install 'minicnn\[gpu\]'"):
            move()
    assert kernels.devices() == ("cpu",)


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="expected one of cpu, cuda"):
        kernels.to_device(np.zeros(3), "tpu")


def test_a_small_network_trains_in_the_simulator_with_the_losses_of_the_host():
    for losses in json.loads(in_simulator(str(ROOT / "tests" / "cuda_step.py"))).values():
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_threads_that_meet_in_shared_memory_agree():
    program = """
import numpy as np
from minicnn_kernels import cuda, reference
rng = np.random.default_rng(0)
a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 5), (5, 2)))
np.testing.assert_allclose(
    cuda.to_host(cuda.matmul(cuda.to_device(a), cuda.to_device(b))), a @ b, rtol=1e-5, atol=1e-6
)
total = cuda.to_host(cuda.sum(cuda.to_device(a), 0, False))
np.testing.assert_allclose(total, a.sum(0), rtol=1e-5, atol=1e-6)
expected = reference.batch_norm_forward(a, None, None, 1e-3)
for ours, theirs in zip(cuda.batch_norm_forward(cuda.to_device(a), None, None, 1e-3), expected, strict=True):
    np.testing.assert_allclose(cuda.to_host(ours), theirs, rtol=1e-4, atol=1e-5)
"""
    in_simulator("-c", program, threads=2)


def test_copies_that_one_launch_needs_lie_apart():
    """What is copied for a launch is not given back before it, or the next copy would take its place."""
    program = """
import numpy as np
from minicnn_kernels import cuda
x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 3), 100, np.float32)
a, b = (cuda.to_device(array.T.copy()).permuted((1, 0)) for array in (x, y))  # both have to be copied
np.testing.assert_array_equal(cuda.to_host(cuda.add(a, b)), x + y)
"""
    in_simulator("-c", program)


def test_the_device_is_never_left_in_silence():
    program = """
import numpy as np, minicnn, minicnn_kernels as kernels
from minicnn import optim
def refused(error, words, call):
    try:
        call()
    except error as found:
        assert words in str(found), found
    else:
        raise SystemExit(f"not refused: {words}")
x = minicnn.ones(2, 3).cuda()
assert (x.device, x.cpu().device, x.to(minicnn.ones(1)).device) == ("cuda", "cpu", "cpu")
assert "device='cuda'" in repr(x) and x.sum().item() == 6 and kernels.devices() == ("cpu", "cuda")
assert [np.signbit((x * zero).cpu().numpy()).all() for zero in (0.0, -0.0)] == [False, True]
refused(TypeError, "tensor.cpu().numpy()", x.numpy)
refused(TypeError, "tensor.cpu().numpy()", lambda: np.asarray(x))
refused(TypeError, "Add: expected all tensors on one device, got (2, 3) on", lambda: x + minicnn.ones(2, 3))
words = "lasso: this works in host memory, for it needs double precision"
refused(kernels.HostOnlyError, words, lambda: kernels.of(x.data).lasso)
refused(TypeError, "float64 is not supported", x.double)
y = x.requires_grad_() * 2
refused(ValueError, "expected a gradient on 'cuda'", lambda: y.backward(minicnn.ones(2, 3)))
host = minicnn.ones(2, 3, requires_grad=True)
(host.cuda() * 3).sum().backward()
assert host.grad.device == "cpu" and host.grad.tolist() == [[3.0] * 3] * 2
"""
    in_simulator("-c", program)


def test_fake_quantization_and_dropout_have_the_bits_of_the_reference():
    program = """
import numpy as np
from minicnn_kernels import cuda, reference
rng = np.random.default_rng(0)
x = (rng.standard_normal((3, 4, 5)) * 40).astype(np.float32)
x[0, 0, :3] = np.nan, 0.5, -0.5
grad = rng.standard_normal(x.shape).astype(np.float32)
for scale, zero, axis in (
    (np.array(0.37, np.float32), np.array(5, np.int32), None),
    (rng.uniform(0.1, 2, 4).astype(np.float32), np.zeros(4, np.int32), 1),
):
    lattice = (scale, zero, -128, 127, axis)
    moved = (cuda.to_device(scale), cuda.to_device(zero), -128, 127, axis)
    for name, arrays in (("fake_quantize_forward", (x,)), ("fake_quantize_backward", (grad, x))):
        ours = getattr(cuda, name)(*(cuda.to_device(array) for array in arrays), *moved)
        np.testing.assert_array_equal(cuda.to_host(ours), getattr(reference, name)(*arrays, *lattice))
    q = reference.quantize(np.nan_to_num(x), *lattice, np.int8)
    ours = cuda.quantize(cuda.to_device(np.nan_to_num(x)), *moved, np.int8)
    np.testing.assert_array_equal(cuda.to_host(ours), q)
    back = cuda.to_host(cuda.dequantize(ours, *moved[:2], axis))
    np.testing.assert_array_equal(back, reference.dequantize(q, scale, zero, axis))
for shape, p, seed, offset in (((5, 7), 0.3, 2**63 + 5, 2**33), ((2,), 0.9, 1, 0), ((3, 4), 0.0, 7, 1)):
    ours = cuda.to_host(cuda.dropout_mask(shape, p, seed, offset))
    np.testing.assert_array_equal(ours, reference.dropout_mask(shape, p, seed, offset))
"""
    in_simulator("-c", program)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is None, reason="needs the extra 'gpu'")
def test_every_kernel_compiles_for_sm_90_without_spills_or_double_precision():
    command = [sys.executable, "-m", "minicnn_kernels.cuda.code"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_op_table_holds_in_the_simulator():
    """Every property of every row, then results and gradients with every access to memory watched for races.

    Three processes at once, each of one thread: together three minutes of two cores.
    """
    relaid = "layout or stride"
    runs = (
        (1, f"not (random_direction or {relaid})"),
        (1, relaid),
        (4, "equal_to_the_reference and not (long or several or many)"),  # watched, these take minutes
    )
    running = []
    for threads, rows in runs:
        environment = {"MINICNN_TEST_BACKENDS": "sim", "MINICNN_SIMULATED_THREADS": str(threads)}
        command = ["-m", "pytest", "-q", "tests/test_functions.py", "-m", "not peers", "-k", rows]
        running.append(
            subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, **environment}, cwd=ROOT, stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    ended = [(process.communicate()[0], process.returncode) for process in running]
    for said, status in ended:
        assert status == 0, said[-4000:]
