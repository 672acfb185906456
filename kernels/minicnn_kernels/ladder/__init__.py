"""The road from naive loops to the best kernel, one named rung each: the matrix product and the convolution.

Read `matmul.py` first, then `convolution.py`; every rung is short, right, and says why it is faster than the
one below. `MATMUL` and `CONVOLUTION` list them from the ground up; `limits.py` is what the machine can do at
most. The engine uses nothing of this, and nothing is compiled before it is called. `python -m bench ladder`
measures it all.
"""

from __future__ import annotations

from minicnn_kernels.ladder import convolution, matmul
from minicnn_kernels.ladder.rung import Rung

__all__ = ["CONVOLUTION", "MATMUL", "Rung"]

MATMUL: tuple[Rung, ...] = matmul.RUNGS
CONVOLUTION: tuple[Rung, ...] = convolution.RUNGS
