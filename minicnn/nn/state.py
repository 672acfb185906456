"""Copying a saved state into a module's tensors: all or nothing, and a report of what did not match."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

import minicnn_kernels as kernels
from minicnn.grad_mode import no_grad
from minicnn.tensor import Tensor


class LoadReport(NamedTuple):
    """What `load_state_dict(strict=False)` left: names the file lacked, and names the model lacks."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"LoadReport(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


def copy_state(model: str, own: dict[str, Tensor], state: Mapping[str, Any], strict: bool) -> LoadReport:
    """Copy the values of `state` into the tensors `own` of the same names; see Module.load_state_dict."""
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    values = {name: _as_array(state[name]) for name in own if name in state}

    problems = [
        f"{name}: expected shape {own[name].shape}, got {value.shape}"
        for name, value in values.items()
        if value.shape != own[name].shape
    ]
    problems += [
        f"{name}: expected numbers, got dtype {value.dtype}"
        for name, value in values.items()
        if value.dtype.kind not in "fiub"
    ]
    if strict:
        problems += [f"{name}: missing" for name in missing]
        problems += [f"{name}: unexpected" for name in unexpected]
    if problems:
        raise ValueError(
            f"{model}.load_state_dict: {len(problems)} mismatches; was the state made by "
            f"another model?\n  " + "\n  ".join(problems)
        )
    with no_grad():
        for name, value in values.items():
            own[name].copy_(_moved(value, own[name]))
    return LoadReport(missing, unexpected)


def _moved(value: Any, own: Tensor) -> Any:
    """`value` where `own` is. Cast before it moves: a GPU has no float64."""
    if isinstance(value, np.ndarray) and own.device != "cpu":
        value = np.asarray(value, own.dtype)
    return kernels.to_device(value, own.device)


def _as_array(value: Any) -> Any:
    value = value.data if isinstance(value, Tensor) else value
    return value if isinstance(value, kernels.DeviceArray) else np.asarray(value)
