"""All operations that the tape knows, one file per family.

Each family defines Functions (forward and backward in terms of kernels) and beside them the public functions,
with PyTorch's names, arguments and defaults. Loops and formulas live in `minicnn_kernels`.
"""

from __future__ import annotations

from minicnn.functions import arithmetic, comparison, elementwise, promotion
from minicnn.functions.arithmetic import *  # noqa: F403
from minicnn.functions.comparison import *  # noqa: F403
from minicnn.functions.elementwise import *  # noqa: F403
from minicnn.functions.promotion import *  # noqa: F403

__all__ = [*arithmetic.__all__, *comparison.__all__, *elementwise.__all__, *promotion.__all__]
