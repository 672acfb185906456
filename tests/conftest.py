"""What all tests share: a generator of random numbers per test and the settings of hypothesis."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "minicnn", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("minicnn")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the test's name alone, so a failure repeats."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))
