"""Every kernel of `reference`, compiled by Numba for this machine: float32, parallel, channels-last.

One file per family under the reference's names and signatures. A name that no file here overrides
is the reference's own. Results do not depend on the number of threads. `compiler.py` says how
kernels are compiled and cached, `layout.py` which memory order they read, `microkernel.py` where
the arithmetic of convolutions and matrix products happens.
"""

# ruff: noqa: F403, I001  (the reference first: what follows overrides it)
from minicnn_kernels.reference import *
from minicnn_kernels.cpu.activation import *
from minicnn_kernels.cpu.binary import *
from minicnn_kernels.cpu.block import *
from minicnn_kernels.cpu.chain import *
from minicnn_kernels.cpu.clustering import *
from minicnn_kernels.cpu.coding import *
from minicnn_kernels.cpu.conv import *
from minicnn_kernels.cpu.elementwise import *
from minicnn_kernels.cpu.integer import *
from minicnn_kernels.cpu.layer_norm import *
from minicnn_kernels.cpu.linear import *
from minicnn_kernels.cpu.loss import *
from minicnn_kernels.cpu.mask import *
from minicnn_kernels.cpu.normalization import *
from minicnn_kernels.cpu.optim import *
from minicnn_kernels.cpu.pooling import *
from minicnn_kernels.cpu.quantization import *
from minicnn_kernels.cpu.random import *
from minicnn_kernels.cpu.reduction import *
from minicnn_kernels.cpu.shape import *
from minicnn_kernels.cpu.shortcut import *
from minicnn_kernels.cpu.signs import *
from minicnn_kernels.cpu.sparse import *
