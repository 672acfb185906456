"""Reports of a compression: numbers before and after, as Markdown, JSON and one HTML page with plots.

`measure` gives plain numbers of one model; the other files show them. `pareto` and `pick` choose among many.
"""

from minicnn.compress.report.choose import pareto, pick
from minicnn.compress.report.measure import measure
from minicnn.compress.report.write import write_reports

__all__ = ["measure", "pareto", "pick", "write_reports"]
