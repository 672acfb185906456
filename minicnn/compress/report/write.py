"""write_reports: the files of a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minicnn.compress.report.html import html
from minicnn.compress.report.markdown import markdown
from minicnn.compress.report.plots import svg_plots
from minicnn.serialization import replacing


def write_reports(folder: Path, report: dict[str, Any], formats: tuple[str, ...]) -> list[str]:
    """Write report.md, report.json and report.html as `formats` say; gives the names of the files.

    report: {"name", "description", "timeline": lines, "epochs", "watched", "before": numbers of `measure`
    and "epochs", "after": numbers, "history": rows of epochs, "compare": {name: accuracy and
    totals}, and more that only JSON shows}. Without matplotlib the HTML has no plots and says so.
    """
    texts = {}
    if "markdown" in formats:
        texts["report.md"] = markdown(report)
    if "json" in formats:
        texts["report.json"] = json.dumps(report, indent=1) + "\n"
    if "html" in formats:
        plots: dict[str, str] = {}
        remark = ""
        try:
            plots = svg_plots(report)
        except ImportError as error:
            remark = f"Without plots: {error}."
        texts["report.html"] = html(report, plots, remark)
    for name, text in texts.items():
        with replacing(folder / name) as file:
            file.write(text.encode())
    return list(texts)
