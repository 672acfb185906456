"""The ladders of a GPU in the simulator: right with one thread a block, and with several that meet."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulated import in_simulator


@pytest.mark.parametrize("threads", [1, 4])
def test_every_rung_computes_what_the_reference_computes(threads):
    """With several threads, races are errors, too."""
    rungs = in_simulator(str(Path(__file__).with_name("cuda_ladder.py")), threads=threads).splitlines()
    assert len(rungs) == len(set(rungs)) >= 11


def test_every_rung_says_what_changed_and_why():
    program = """
from minicnn_kernels.ladder import cuda_convolution, cuda_matmul
for rung in (*cuda_matmul.RUNGS, *cuda_convolution.RUNGS):
    assert rung.what_changed and rung.why, rung.name
"""
    in_simulator("-c", program)
