"""The specification: every kernel in plain NumPy, as short as its formula, for any dtype.

One file per family, gathered here into one flat namespace. `cpu` has the same names and signatures, made
fast; `tests/test_functions.py` holds each of its kernels against the one here.
"""

# ruff: noqa: F403
from minicnn_kernels.reference.activation import *
from minicnn_kernels.reference.binary import *
from minicnn_kernels.reference.block import *
from minicnn_kernels.reference.clustering import *
from minicnn_kernels.reference.coding import *
from minicnn_kernels.reference.conv import *
from minicnn_kernels.reference.elementwise import *
from minicnn_kernels.reference.factorization import *
from minicnn_kernels.reference.integer import *
from minicnn_kernels.reference.lasso import *
from minicnn_kernels.reference.linear import *
from minicnn_kernels.reference.loss import *
from minicnn_kernels.reference.normalization import *
from minicnn_kernels.reference.observe import *
from minicnn_kernels.reference.optim import *
from minicnn_kernels.reference.pooling import *
from minicnn_kernels.reference.quantization import *
from minicnn_kernels.reference.random import *
from minicnn_kernels.reference.reduction import *
from minicnn_kernels.reference.selection import *
from minicnn_kernels.reference.shape import *
from minicnn_kernels.reference.sparse import *

# Kernels and programs: `cpu`, which imports all names of this one, shall not find the files above among them.
__all__ = [name for name, value in vars().items() if callable(value) and not name.startswith("_")]
