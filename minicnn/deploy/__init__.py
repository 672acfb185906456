"""Deployment: from a trained model to one file that is really smaller and needs no training code to run."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from minicnn.deploy.artefact import Artefact, load, save
from minicnn.deploy.container import FileError
from minicnn.deploy.lower import lower
from minicnn.deploy.routes import choose_route
from minicnn.deploy.stopwatch import choose
from minicnn.deploy.verify import Verification, verify

__all__ = [
    "Artefact",
    "FileError",
    "Verification",
    "choose",
    "choose_route",
    "load",
    "lower",
    "report",
    "save",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "report":  # what runs a file needs nothing of it
        return import_module("minicnn.deploy.report")
    raise AttributeError(f"module 'minicnn.deploy' has no attribute {name!r}")
