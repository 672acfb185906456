"""What all tests share: random numbers per test, the settings of hypothesis, the number of threads."""

from __future__ import annotations

import os
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import minicnn_kernels as kernels

# Numba reads this when it is imported: the simulator for a whole process, or a GPU, or neither.
if "sim" in os.environ.get("MINICNN_TEST_BACKENDS", "").split(","):
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"

settings.register_profile(
    "minicnn", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("minicnn")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the test's name alone, so a failure repeats."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture(autouse=True)
def _threads_as_before():
    """The number of threads belongs to the process: what one test sets shall not reach the next."""
    before = kernels.get_threads()
    yield
    if kernels.get_threads() != before:
        kernels.set_threads(before)


@pytest.fixture(scope="module")
def one_thread():
    """For nets so small that threads would mostly wait for one another."""
    before = kernels.get_threads()
    kernels.set_threads(1)
    yield
    kernels.set_threads(before)
