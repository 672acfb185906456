"""All operations that the tape knows, one file per family.

Each family defines Functions (forward and backward in terms of kernels) and beside them the public functions,
with PyTorch's names, arguments and defaults. Loops and formulas live in `minicnn_kernels`.
"""

from __future__ import annotations

from minicnn.functions import elementwise
from minicnn.functions.elementwise import *  # noqa: F403

__all__ = [*elementwise.__all__]
