"""Reports of deployed models: what a file costs and gives on this machine, and what compression has broken.

`measure_artefact` times and tests one file, `damage` compares two models, `write_report` shows both as
Markdown, JSON and one HTML page. `save_with_report` does it all for one model.
"""

from minicnn.deploy.report.attach import save_with_report
from minicnn.deploy.report.damage import damage
from minicnn.deploy.report.measure import measure_artefact, point
from minicnn.deploy.report.write import write_report

__all__ = ["damage", "measure_artefact", "point", "save_with_report", "write_report"]
