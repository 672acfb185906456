"""write_reports: the files of a report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minicnn.compress.report.html import html
from minicnn.compress.report.markdown import markdown
from minicnn.compress.report.plots import svg_plots
from minicnn.compress.report.tables import Page, page
from minicnn.serialization import replacing


def write_reports(folder: Path, report: dict[str, Any], formats: tuple[str, ...]) -> list[str]:
    """Write report.md, report.json and report.html of a compression; gives the names of the files.

    report: {"name", "description", "timeline": lines, "epochs", "watched", "before": numbers of `measure`
    and "epochs", "after": numbers, "history": rows of epochs, "compare": {name: accuracy and
    totals}, and more that only JSON shows}. Without matplotlib the HTML has no plots and says so.
    """
    return write_pages(folder / "report", report, page(report), lambda: svg_plots(report), formats)


def write_pages(
    path: Path,
    report: dict[str, Any],
    page: Page,
    plots: Callable[[], dict[str, str]],
    formats: tuple[str, ...] = ("markdown", "json", "html"),
) -> list[str]:
    """Write `path` with the endings .md, .json and .html, as `formats` say; gives the names of the files.

    report: what JSON holds. page: what the others show. plots: gives SVG by title, or raises ImportError,
    which the HTML then tells instead.
    """
    texts = {}
    if "markdown" in formats:
        texts[".md"] = markdown(page)
    if "json" in formats:
        texts[".json"] = json.dumps(report, indent=1) + "\n"
    if "html" in formats:
        try:
            texts[".html"] = html(page, plots())
        except ImportError as error:
            texts[".html"] = html(page, {}, f"Without plots: {error}.")
    for ending, text in texts.items():
        with replacing(path.with_name(path.name + ending)) as file:
            file.write(text.encode())
    return [path.name + ending for ending in texts]
