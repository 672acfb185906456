"""Notebooks: each runs from the top without an error, and the .ipynb says what its source says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext", reason="needs the extra 'notebooks'")
pytest.importorskip("nbclient", reason="needs the extra 'notebooks'")

FOLDER = Path(__file__).parent.parent / "notebooks"
sys.path.insert(0, str(FOLDER))
import build  # noqa: E402  (it lives beside the notebooks)

SOURCES = build.sources()


def test_there_are_notebooks() -> None:
    assert SOURCES


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_is_made_from_its_source(source: Path) -> None:
    ours, made = jupytext.read(source), jupytext.read(source.with_suffix(".ipynb"))
    assert [(cell.cell_type, cell.source) for cell in made.cells] == [
        (cell.cell_type, cell.source) for cell in ours.cells
    ], f"run: python notebooks/build.py {source.stem}"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_runs(source: Path, tmp_path: Path) -> None:
    notebook = build.executed(source, tmp_path)
    assert any(cell.get("outputs") for cell in notebook.cells)
