"""Files of trained models: what a compression leaves, and what `minicnn train` leaves, read alike.

A model file holds the configuration (which network, which classes, which preprocessing), the form that
compression gave it (`structure.py`) and the values; a checkpoint holds the same beside the training's state.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import minicnn
from minicnn import serialization
from minicnn.compress.structure import describe, restore
from minicnn.nn.module import Module
from minicnn.training.checkpoint import FORMAT as CHECKPOINT
from minicnn.training.errors import CheckpointError
from minicnn.training.options import make_model

FORMAT = "minicnn model 1"
_NEEDED = ("model", "image_shape", "class_names", "normalize")


def save_trained(model: Module, path: str | os.PathLike[str], configuration: dict[str, Any]) -> None:
    """Write a model file. configuration: at least model, dropout, image_shape, class_names, normalize."""
    state = {
        "format": FORMAT,
        "minicnn": minicnn.__version__,
        "configuration": configuration,
        "structure": describe(model),
        "model": model.state_dict(),
    }
    serialization.save(state, path)


def load_trained(path: str | os.PathLike[str]) -> tuple[Module, dict[str, Any]]:
    """The model in a model file or a checkpoint, in eval mode, and its configuration.

    Raises CheckpointError if the file is neither, or does not say what model it is of.
    """
    configuration, structure, values = read_trained(path)
    model = make_model(configuration)
    if structure is not None:
        restore(model, structure)
    model.load_state_dict(values)
    return model.eval(), configuration


def read_trained(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any] | None, Any]:
    """Configuration, structure (None: as the constructor makes it) and values of a file; raises as above."""
    if not Path(path).exists():
        raise CheckpointError(
            f"checkpoint {path}: there is no such file; expected a checkpoint.npz that training wrote"
        )
    try:
        state = serialization.load(path)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise CheckpointError(f"checkpoint: {error}") from error
    if not isinstance(state, dict) or state.get("format") not in (CHECKPOINT, FORMAT):
        raise CheckpointError(
            f"checkpoint {path}: expected a file of format '{CHECKPOINT}' or '{FORMAT}', got something else; "
            f"weights alone are read with minicnn.load and load_state_dict"
        )
    configuration = state["configuration"]
    missing = [key for key in _NEEDED if key not in configuration]
    if missing:
        raise CheckpointError(
            f"checkpoint {path}: expected one made by `minicnn train` or `minicnn compress`, but its "
            f"configuration lacks {', '.join(missing)}; load it in Python with "
            f"minicnn.training.load_checkpoint"
        )
    if state["format"] == FORMAT:
        return configuration, state["structure"], state["model"]
    steps = state["run"]["callbacks"].get("Steps", {})
    return configuration, steps.get("structure"), state["run"]["model"]
