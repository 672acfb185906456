"""Programs in a process of their own, where Numba's simulator stands in for a GPU, or a GPU for itself."""

from __future__ import annotations

import os
import subprocess
import sys


def in_simulator(*command: str, threads: int = 1) -> str:
    """What a Python program prints with the simulator in place of a GPU. threads: of a block.

    With MINICNN_TEST_BACKENDS=cuda it runs on the GPU of this machine.
    """
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    if "cuda" not in os.environ.get("MINICNN_TEST_BACKENDS", ""):
        environment |= {"NUMBA_ENABLE_CUDASIM": "1", "MINICNN_SIMULATED_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
