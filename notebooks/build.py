"""Make the .ipynb files from their sources, executed: `python notebooks/build.py [NAME ...]`.

The sources are Python files in jupytext's percent format; edit those. Needs the extra `notebooks`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbclient
import nbformat

FOLDER = Path(__file__).parent


def sources() -> list[Path]:
    """The notebooks' sources, in the order of the course."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def executed(source: Path, working_directory: Path) -> nbformat.NotebookNode:
    """The notebook of `source` with the outputs of a run from the top. Raises CellExecutionError."""
    notebook = jupytext.read(source)
    resources = {"metadata": {"path": str(working_directory)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    for cell in notebook.cells:  # when and on which machine it ran is of no interest
        cell.metadata.pop("execution", None)
    notebook.metadata.pop("language_info", None)
    return notebook


def main() -> None:
    """Execute and write the notebooks named on the command line, by default all."""
    wanted = sys.argv[1:]
    for source in sources():
        if not wanted or source.stem in wanted:
            nbformat.write(executed(source, FOLDER), source.with_suffix(".ipynb"))
            print(source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
