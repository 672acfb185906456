"""write_report: the report of a deployed model as files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minicnn.compress.report.write import write_pages
from minicnn.deploy.report.plots import svg_plots
from minicnn.deploy.report.tables import page


def write_report(
    path: str | os.PathLike[str],
    file: dict[str, Any],
    *,
    name: str | None = None,
    description: str = "",
    before: dict[str, Any] | None = None,
    damage: dict[str, Any] | None = None,
    compare: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[str]:
    """Write `path` with the endings .md, .json and .html; gives the names of the files.

    file: what `measure_artefact` gave, and before: of the model before compression, as a file. damage: what
    `damage` gave. compare: other files by name, each with the numbers of `point`. name: default that of the
    path. Without matplotlib the HTML has no plots and says so.
    """
    path = Path(path)
    report = {
        "name": name or path.name,
        "description": description,
        "file": file,
        "before": before,
        "damage": damage,
        "compare": {name: dict(numbers) for name, numbers in (compare or {}).items()},
    }
    return write_pages(path, report, page(report), lambda: svg_plots(report))
