"""`minicnn info`: versions, threads, vector width, back ends, and what is installed beside."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from importlib import import_module
from typing import Any

import minicnn
import minicnn_kernels as kernels
from minicnn_kernels.threads import available_cores

_PACKAGES = ("numpy", "numba", "llvmlite", "scipy", "matplotlib", "tqdm", "pillow")


def run(options: argparse.Namespace) -> int:
    """Print what is known. Gives the exit status."""
    facts = collect()
    print(json.dumps(facts, indent=2) if options.json else "\n".join(_lines(facts)))
    return 0


def collect() -> dict[str, Any]:
    """Everything that a report of a problem or of a speed should say about this machine."""
    return {
        "minicnn": minicnn.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "threads": kernels.get_threads(),
        "cores": available_cores(),
        "backends": list(kernels.available_backends()),
        "devices": list(kernels.devices()),
        "cpu": import_module("minicnn_kernels.cpu.about").about(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in facts.items():
        label = f"{indent}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            lines += [label, *_lines(value, indent + "  ")]
        else:
            shown = (
                ", ".join(value) if isinstance(value, list) else "not installed" if value is None else value
            )
            lines.append(f"{label:18} {shown}")
    return lines
