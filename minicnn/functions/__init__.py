"""All operations that the tape knows, one file per family.

Each family defines Functions (forward and backward in terms of kernels) and beside them the public functions,
with PyTorch's names, arguments and defaults. Loops and formulas live in `minicnn_kernels`. Those that PyTorch
keeps in `torch.nn.functional` are gathered in `minicnn.nn.functional`.
"""

# ruff: noqa: F403
from __future__ import annotations

from minicnn.functions import (
    arithmetic,
    comparison,
    elementwise,
    in_place,  # noqa: F401  (attaches methods, has no functions)
    indexing,
    joining,
    moving,
    order,
    promotion,
    reduction,
    shape,
)
from minicnn.functions.activation import log_softmax, relu, sigmoid, softmax, tanh
from minicnn.functions.arithmetic import *
from minicnn.functions.comparison import *
from minicnn.functions.elementwise import *
from minicnn.functions.indexing import *
from minicnn.functions.joining import *
from minicnn.functions.linear import matmul
from minicnn.functions.moving import *
from minicnn.functions.order import *
from minicnn.functions.promotion import *
from minicnn.functions.reduction import *
from minicnn.functions.shape import *

__all__ = [
    *arithmetic.__all__,
    *comparison.__all__,
    *elementwise.__all__,
    *indexing.__all__,
    *joining.__all__,
    *moving.__all__,
    *order.__all__,
    *promotion.__all__,
    *reduction.__all__,
    *shape.__all__,
    "log_softmax",
    "matmul",
    "relu",
    "sigmoid",
    "softmax",
    "tanh",
]
