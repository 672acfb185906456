"""Programs in a process of their own, where Numba's simulator stands in for a GPU."""

from __future__ import annotations

import os
import subprocess
import sys


def in_simulator(*command: str, threads: int = 1) -> str:
    """What a Python program prints with the simulator in place of a GPU. threads: of a block."""
    environment = {
        **os.environ,
        "NUMBA_ENABLE_CUDASIM": "1",
        "MINICNN_SIMULATED_THREADS": str(threads),
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
