"""One call sets the threads of Numba's pool and of BLAS; nonsense is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import minicnn_kernels as kernels
from minicnn_kernels import threads


@pytest.fixture(autouse=True)
def restore():
    before = kernels.get_threads()
    yield
    kernels.set_threads(before)


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("count", [1, threads.available_cores()])
def test_set_threads_binds_numba(count):
    import numba

    kernels.backend("cpu")
    kernels.set_threads(count)
    assert kernels.get_threads() == count
    assert numba.get_num_threads() == count


def blas_threads() -> set[int]:
    """What each OpenBLAS in this process says of itself."""
    names = [
        f"{prefix}_get_num_threads{suffix}"
        for prefix in ("scipy_openblas", "openblas")
        for suffix in ("64_", "", "_64")
    ]
    return {
        getattr(library, name)()
        for library in threads._openblas_libraries()
        for name in names
        if hasattr(library, name)
    }


@pytest.mark.parametrize("count", [1, threads.available_cores()])
def test_set_threads_binds_blas(count):
    import scipy.linalg  # noqa: F401  (brings its own BLAS)

    if not blas_threads():
        pytest.skip("this NumPy was not built with OpenBLAS")
    kernels.set_threads(count)
    assert blas_threads() == {count}


@pytest.mark.parametrize("count", [0, -1, 1.0, "2", None, True])
def test_what_is_no_positive_integer_is_refused(count):
    before = kernels.get_threads()
    with pytest.raises(ValueError, match="expected a positive integer"):
        kernels.set_threads(count)
    assert kernels.get_threads() == before


def test_more_threads_than_numba_can_start_are_refused():
    before = kernels.get_threads()
    with pytest.raises(ValueError, match="at most"):
        kernels.set_threads(10_000)
    assert kernels.get_threads() == before


def test_the_environment_chooses_before_anything_is_called():
    code = (
        "import minicnn_kernels as k, numba; k.backend('cpu');print(k.get_threads(), numba.get_num_threads())"
    )
    assert python(code, MINICNN_NUM_THREADS="1").stdout == "1 1\n"


def test_a_wrong_environment_variable_is_named():
    done = python("import minicnn_kernels as k; k.get_threads()", MINICNN_NUM_THREADS="many")
    assert done.returncode != 0
    assert "MINICNN_NUM_THREADS" in done.stderr
    assert "'many'" in done.stderr


def test_a_number_set_before_the_back_end_is_loaded_holds():
    code = (
        "import minicnn_kernels as k, numba; k.set_threads(1); k.backend('cpu');"
        "print(numba.get_num_threads())"
    )
    assert python(code).stdout == "1\n"


def test_how_long_threads_spin_is_left_to_whoever_set_it_and_to_child_processes():
    code = "import os, minicnn_kernels as k; k.backend('cpu'); print(os.environ.get('GOMP_SPINCOUNT'))"
    assert python(code).stdout == "None\n"
    assert python(code, GOMP_SPINCOUNT="7").stdout == "7\n"


TWO_TRAININGS = """
import threading
import numba
import numpy as np
import minicnn
from minicnn import nn, optim
from minicnn.nn import functional as F

def make(seed):
    minicnn.manual_seed(seed)
    layers = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 8 * 8, 40), nn.ReLU(), nn.Linear(40, 10))

def train(model, run, seed):
    rng = np.random.default_rng(seed)
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(6):
        x = minicnn.tensor(rng.standard_normal((32, 3, 16, 16), np.float32))
        optimizer.zero_grad()
        F.cross_entropy(run(x), minicnn.tensor(rng.integers(0, 10, 32))).backward()
        optimizer.step()

def weights(model):
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())

def make_runs():
    one, two = make(1), make(2)
    return [(one, minicnn.compile(one), 1), (two, two, 2)]

alone = make_runs()
for arguments in alone:
    train(*arguments)
for _ in range(3):
    together = make_runs()
    threads = [threading.Thread(target=train, args=arguments) for arguments in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (one, *_), (two, *_) in zip(alone, together):
        assert weights(one) == weights(two)
print(numba.threading_layer())
"""


@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
def test_two_python_threads_that_train_two_models_get_the_bits_of_each_alone(layer):
    done = python(TWO_TRAININGS, NUMBA_THREADING_LAYER=layer)
    if "No threading layer could be loaded" in done.stderr:
        pytest.skip(f"Numba's threading layer {layer} needs a library that is not installed")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{layer}\n"
