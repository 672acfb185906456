"""Register tiles of every width, and loops without them: forced, each computes what the reference does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TILES = ("plain", "4", "8", "16")
PROGRAM = """
import numpy as np
import minicnn_kernels as kernels
from minicnn_kernels import cpu, reference
from minicnn_kernels.cpu import lanes

print(lanes.TILES)
kernels.memory.poison(True)
rng = np.random.default_rng(0)

def check(name, *args):
    exact = [x.astype(np.float64) if isinstance(x, np.ndarray) else x for x in args]
    expected = getattr(reference, name)(*exact)
    actual = getattr(cpu, name)(*args)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())

def draw(*shape):
    return rng.standard_normal(shape, np.float32)

check("matmul", draw(70, 300), draw(300, 50))
check("matmul", draw(40, 130), draw(50, 130).T)
check("matmul", draw(130, 40).T, draw(130, 33))
once = (1, 1)
check("conv2d_forward", draw(2, 5, 9, 7), draw(20, 5, 3, 3), draw(20), once, once, once, 1)
check("conv2d_forward", draw(2, 18, 9, 7), draw(18, 1, 3, 3), draw(18), once, once, once, 18)
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **environment}, capture_output=True, text=True
    )


@pytest.mark.parametrize("tiles", TILES)
def test_forced_tiles_compute_what_the_reference_does(tiles: str) -> None:
    result = python("-c", PROGRAM, MINICNN_TILES=tiles)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{tiles}\n"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kernels", ["linear", "conv", "winograd", "block", "kernels"])
@pytest.mark.parametrize("tiles", TILES)
def test_all_tests_of_the_kernels_pass_with_forced_tiles(tiles: str, kernels: str) -> None:
    if (tiles, kernels) == ("plain", "winograd"):
        pytest.skip("plain loops have no Winograd: the direct kernels run in its place")
    file = Path(__file__).with_name(f"test_cpu_{kernels}.py")
    arguments = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", str(file))
    result = python(*arguments, MINICNN_TILES=tiles)
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.parametrize(
    ("machine", "tiles"),
    [
        ({"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+sse,+sse2,+avx,+avx2,+fma"}, "8"),
        ({"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse,+sse2,+sse3"}, "4"),
        ({"NUMBA_CPU_NAME": "generic"}, "plain"),
        ({"NUMBA_CPU_NAME": "generic", "MINICNN_TILES": "8"}, "8"),
    ],
)
def test_tiles_fit_the_machine_that_numba_compiles_for(machine: dict[str, str], tiles: str) -> None:
    result = python("-c", "from minicnn_kernels.cpu import lanes; print(lanes.TILES)", **machine)
    assert result.stdout == f"{tiles}\n", result.stderr


def test_unknown_tiles_are_refused_with_the_choices() -> None:
    result = python("-c", "import minicnn_kernels.cpu", MINICNN_TILES="32")
    assert result.returncode != 0
    assert "MINICNN_TILES: expected one of plain, 4, 8, 16, got '32'" in result.stderr
