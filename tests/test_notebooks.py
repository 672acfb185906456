"""Notebooks: each runs from the top, the .ipynb says what its source says, exercises can be solved."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext", reason="needs the extra 'notebooks'")
pytest.importorskip("nbclient", reason="needs the extra 'notebooks'")

FOLDER = Path(__file__).parent.parent / "notebooks"
sys.path.insert(0, str(FOLDER))
import build  # noqa: E402  (it lives beside the notebooks)
import student  # noqa: E402

SOURCES = build.sources()
MEBIBYTE = 1 << 20


def exercises():
    """(source, position of the cell) of every exercise of the course."""
    for source in SOURCES:
        for i, cell in enumerate(jupytext.read(source).cells):
            if student.tagged(cell, "exercise"):
                yield pytest.param(source, i, id=f"{source.stem}-{i}")


def test_there_are_notebooks_and_they_are_small() -> None:
    assert SOURCES
    assert sum(source.with_suffix(".ipynb").stat().st_size for source in SOURCES) < 8 * MEBIBYTE


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_is_made_from_its_source(source: Path) -> None:
    ours, made = jupytext.read(source), jupytext.read(source.with_suffix(".ipynb"))
    assert [(cell.cell_type, cell.source) for cell in made.cells] == [
        (cell.cell_type, cell.source) for cell in ours.cells
    ], f"run: python notebooks/build.py {source.stem}"
    assert not [
        output for cell in made.cells for output in cell.get("outputs", ()) if output.output_type == "error"
    ]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_ends_with_what_was_learnt_and_three_questions(source: Path) -> None:
    last = jupytext.read(source).cells[-1].source
    assert "## What was learnt" in last
    questions = last.partition("## Questions")[2]
    assert [line[:2] for line in questions.splitlines() if line[:1].isdigit()] == ["1.", "2.", "3."]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_with_a_short_run_says_what_comes_from_the_long_one(source: Path) -> None:
    cells = jupytext.read(source).cells
    code, text = (
        "\n".join(cell.source for cell in cells if cell.cell_type == kind) for kind in ("code", "markdown")
    )
    assert ("FAST" in code) == ("`MINICNN_FAST=1`" in text)


# The numbered listings of the five articles; article 002 has a single one, in which six things happen.
LISTINGS = {
    "000": ["4.1", "4.2", "4.3", "4.4", "4.5", "4.6"],
    "001": ["4.1", "4.2", "4.3", "4.4", "4.5"],
    "002": ["network 32-64-10", "Cut or prune", "threshold", "LassoLasso", "unsigned bytes", "distillation"],
    "003": ["4.1", "4.2", "4.3"],
    "004": ["4.1", "4.2", "4.3"],
}


def test_every_listing_of_the_articles_has_a_cell_that_runs() -> None:
    """In 13: under "Article 00x" a heading names the listing, and code with a result stands below it."""
    shown: dict[str, str] = {}
    article = heading = ""
    for cell in jupytext.read(FOLDER / "13_articles.ipynb").cells:
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                article = line.partition("# Article ")[2][:3] or article
                heading = line if line.startswith("## ") else heading
        elif cell.outputs and heading not in shown.get(article, ""):
            shown[article] = shown.get(article, "") + heading
    missing = [(a, name) for a, names in LISTINGS.items() for name in names if name not in shown[a]]
    assert not missing


@pytest.mark.parametrize(("source", "position"), list(exercises()))
def test_exercise_fails_on_the_stub_and_passes_on_the_solution(source: Path, position: int) -> None:
    if "NUMBA_ENABLE_CUDASIM" in source.read_text(encoding="utf-8"):  # is read when Numba is imported
        here = str(Path(__file__).parent)
        program = (
            f"import sys; sys.path.insert(0, {here!r}); import test_notebooks as t; "
            f"t.check_exercise(t.Path({str(source)!r}), {position})"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    else:
        check_exercise(source, position)


def check_exercise(source: Path, position: int) -> None:
    """An exercise and its check need only the cells tagged "setup" and the exercises before."""
    cells = jupytext.read(source).cells
    exercise, check = cells[position], cells[position + 1]
    assert student.tagged(check, "check"), "the cell after an exercise is its check"
    names: dict = {}
    for cell in cells[:position]:
        if student.tagged(cell, "setup") or student.tagged(cell, "exercise"):
            exec(cell.source, names)
    stubbed = dict(names)
    exec(student.without_solution(exercise.source), stubbed)
    with pytest.raises(NotImplementedError) as caught:
        exec(check.source, stubbed)
    assert len(str(caught.value).split()) > 4, "the stub should say in a sentence what to do"
    exec(exercise.source, names)
    exec(check.source, names)


def test_a_solution_is_cut_out_and_an_exercise_without_one_is_refused() -> None:
    code = (
        "def f(x):\n    # <solution: Return 2 x if x > 0.>\n    y = 2 * x\n    return y\n    # </solution>\n"
    )
    assert (
        student.without_solution(code) == "def f(x):\n    raise NotImplementedError('Return 2 x if x > 0.')\n"
    )
    with pytest.raises(ValueError, match="an exercise needs its solution between"):
        student.without_solution("def f(x):\n    return x\n")


def test_the_student_copy_has_no_solutions_and_no_outputs(tmp_path: Path) -> None:
    run = [sys.executable, str(FOLDER / "student.py"), str(tmp_path / "copy")]
    subprocess.run(run, check=True, capture_output=True, timeout=120)
    copies = sorted((tmp_path / "copy").glob("*.ipynb"))
    assert [copy.stem for copy in copies] == [source.stem for source in SOURCES]
    for copy in copies:
        for cell in jupytext.read(copy).cells:
            assert "solution" not in cell.source or cell.cell_type == "markdown"
            assert not cell.get("outputs")
            assert student.tagged(cell, "exercise") == ("raise NotImplementedError(" in cell.source)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_runs(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINICNN_FAST", "1")
    notebook = build.executed(source, tmp_path)
    assert any(cell.get("outputs") for cell in notebook.cells)
