"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from minicnn.compress.report.tables import Page


def markdown(page: Page) -> str:
    """The whole page."""
    parts = [f"# {page.name}", page.description, "\n".join(f"- {line}" for line in page.lines)]
    for table in page.tables:
        parts += [f"## {table.title}", markdown_table(table.header, table.rows), table.note]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with aligned columns: the first to the left, the others to the right. Bars are escaped."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(header))]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    shown = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        shown.append(f"| {' | '.join(cells)} |")
    return "\n".join(shown)
