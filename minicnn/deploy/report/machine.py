"""What figures of speed and memory depend on."""

from __future__ import annotations

import platform
from importlib import import_module
from typing import Any

import numpy as np

import minicnn
from minicnn_kernels.threads import available_cores


def machine() -> dict[str, Any]:
    """Processor, width of vectors, cores, system and versions, as plain values."""
    cpu = import_module("minicnn_kernels.cpu.about").about()
    return {
        "processor": cpu["processor"],
        "vector_bits": cpu["vector_bits"],
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "minicnn": minicnn.__version__,
    }
