"""A report as one HTML page that needs nothing but itself: style and plots are inside, nothing is loaded."""

from __future__ import annotations

from html import escape

from minicnn.compress.report.tables import Page, Table

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70rem; margin: 2rem auto }
h1, h2 { line-height: 1.2 }
h2 { margin-top: 2.5rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
thead th { border-bottom: 2px solid #888; vertical-align: bottom }
.wide { overflow-x: auto }
.note { color: #555; font-size: .9em }
svg { max-width: 100%; height: auto }
"""


def html(page: Page, plots: dict[str, str], remark: str = "") -> str:
    """The whole page; plots stand behind the first table. plots: SVG by title. remark: said behind them."""
    name = escape(page.name)
    body = [f"<h1>{name}</h1>", f"<p>{escape(page.description)}</p>" if page.description else ""]
    body.append("<ul>" + "".join(f"<li>{escape(line)}</li>" for line in page.lines) + "</ul>")
    first, *others = page.tables
    body.append(_table(first))
    body += [f"<h2>{escape(title)}</h2>\n<figure>{svg}</figure>" for title, svg in plots.items()]
    if remark:
        body.append(f'<p class="note">{escape(remark)}</p>')
    body += [_table(table) for table in others]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{name}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(filter(None, body)) + "\n</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    note = f'\n<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<h2>{escape(table.title)}</h2>\n<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>{note}"
    )
