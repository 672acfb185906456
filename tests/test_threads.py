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
