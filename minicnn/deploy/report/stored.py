"""The report that a file carries within itself, so that files are compared without measuring them again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from minicnn.deploy.artefact import load
from minicnn.deploy.report.measure import point

_NOT_STORED = ("bytes",)  # of the whole file, of which the report is a part: the file itself knows


def to_store(numbers: dict[str, Any]) -> dict[str, Any]:
    """What of `measure_artefact`'s numbers belongs into about["report"] of the file."""
    return {key: value for key, value in numbers.items() if key not in _NOT_STORED}


def stored_point(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The numbers of `point` that the artefact in `path` carries, with its real bytes; None without a report.

    Raises FileError if it is no artefact, ValueError if its report makes no sense.
    """
    report = load(path).about.get("report")
    if report is None:
        return None
    try:
        numbers = point({**report, "bytes": Path(path).stat().st_size})
    except (TypeError, KeyError, AttributeError) as problem:
        raise ValueError(_senseless(path)) from problem
    if not all(isinstance(value, (int, float)) for value in numbers.values()):
        raise ValueError(_senseless(path))
    return numbers


def _senseless(path: str | os.PathLike[str]) -> str:
    return (
        f"{os.fspath(path)}: the report in it makes no sense; measure the file anew with "
        f"minicnn.deploy.report.measure_artefact"
    )
