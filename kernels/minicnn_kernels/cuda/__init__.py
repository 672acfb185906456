"""Kernels for NVIDIA GPUs, on numba.cuda: the names and signatures of `reference`, arrays on the device.

Arrays are `DeviceArray`s (`device_array.py`); they compute in float32 and whole numbers. `driver.py` is the
one door to numba.cuda, `storage.py` owns device memory, `maps.py` makes elementwise kernels from formulas,
and `code.py` compiles every kernel to machine code without a GPU. What the reference has and this back end
not is listed in `host.py` with reasons, and says so when asked for; nothing is copied to the host behind
anybody's back.
"""

# ruff: noqa: F401, F403
from typing import Any

from minicnn_kernels.cuda.activation import *
from minicnn_kernels.cuda.binary import *
from minicnn_kernels.cuda.clustering import *
from minicnn_kernels.cuda.conv import *
from minicnn_kernels.cuda.conveyor import Conveyor
from minicnn_kernels.cuda.distributions import *
from minicnn_kernels.cuda.elementwise import *
from minicnn_kernels.cuda.fused import *
from minicnn_kernels.cuda.host import HOST
from minicnn_kernels.cuda.integer import *
from minicnn_kernels.cuda.lattice import *
from minicnn_kernels.cuda.ledger import Ledger
from minicnn_kernels.cuda.linear import *
from minicnn_kernels.cuda.loss import *
from minicnn_kernels.cuda.normalization import *
from minicnn_kernels.cuda.optim import *
from minicnn_kernels.cuda.order import sort, topk
from minicnn_kernels.cuda.pooling import *
from minicnn_kernels.cuda.quantization import *
from minicnn_kernels.cuda.quantized import *
from minicnn_kernels.cuda.random import *
from minicnn_kernels.cuda.recording import Recording, is_recording
from minicnn_kernels.cuda.reduction import *
from minicnn_kernels.cuda.rehearsal import Rehearsal
from minicnn_kernels.cuda.selection import *
from minicnn_kernels.cuda.shape import *
from minicnn_kernels.cuda.sparse import *
from minicnn_kernels.cuda.storage import empty, to_device, to_host
from minicnn_kernels.device_array import HostOnlyError


def __getattr__(name: str) -> Any:
    if name in HOST:
        raise HostOnlyError(
            f"{name}: this works in host memory, for {HOST[name]}; give it what is there, tensor.cpu() or "
            f"minicnn_kernels.to_host(array), and take it from minicnn_kernels.backend('cpu')"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
