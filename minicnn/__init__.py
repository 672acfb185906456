"""minicnn: a deep-learning engine from scratch on NumPy and Numba.

Public names only: tensors and their functions are here, in PyTorch's spelling; layers, optimizers, data and
the rest are the submodules named in `_SUBMODULES`, imported when first used. Begin reading in `tensor.py`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from minicnn import creation, functions, random
from minicnn.creation import *  # noqa: F403
from minicnn.function import Function, NonFiniteError, detect_anomaly
from minicnn.functions import *  # noqa: F403
from minicnn.grad_mode import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from minicnn.random import (
    Generator,
    default_generator,
    get_rng_state,
    initial_seed,
    manual_seed,
    seed,
    set_rng_state,
)
from minicnn.serialization import load, load_safetensors, save, save_safetensors
from minicnn.tensor import (
    Tensor,
    as_tensor,
    bool_,
    float32,
    float64,
    from_dlpack,
    from_numpy,
    int8,
    int16,
    int32,
    int64,
    tensor,
    uint8,
)
from minicnn.testing import GradcheckError, gradcheck
from minicnn_kernels import get_threads as get_num_threads
from minicnn_kernels import set_threads as set_num_threads

__version__ = "0.1.0"

_SUBMODULES = (
    "compress",
    "data",
    "deploy",
    "graph",
    "models",
    "nn",
    "optim",
    "serialization",
    "testing",
    "training",
    "viz",
)
_LAZY = {"compile": "graph", "evaluate": "training", "fit": "training", "predict": "training"}  # name: home

__all__ = [
    *creation.__all__,
    *functions.__all__,
    *_SUBMODULES,
    *_LAZY,
    "Function",
    "Generator",
    "GradcheckError",
    "NonFiniteError",
    "Tensor",
    "as_tensor",
    "bool_",
    "default_generator",
    "detect_anomaly",
    "enable_grad",
    "float32",
    "float64",
    "from_numpy",
    "from_dlpack",
    "get_num_threads",
    "get_rng_state",
    "gradcheck",
    "initial_seed",
    "int8",
    "int16",
    "int32",
    "int64",
    "is_grad_enabled",
    "load",
    "load_safetensors",
    "manual_seed",
    "no_grad",
    "random",
    "save",
    "save_safetensors",
    "seed",
    "set_grad_enabled",
    "set_num_threads",
    "set_rng_state",
    "tensor",
    "uint8",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"minicnn.{name}")
    if name in _LAZY:
        return getattr(import_module(f"minicnn.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'minicnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
