"""Write the student's copy of the course: `python notebooks/student.py FOLDER`.

An exercise is a cell with the tag "exercise" whose solution stands between two marks,

    # <solution: one sentence that says what to do>
    ...
    # </solution>

and the cell after it, with the tag "check", says whether it is right. The student's copy has in place of the
solution a line that raises NotImplementedError with the sentence; checks stay. Outputs are left out, for they
would give the solutions away. Needs the extra `notebooks`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import jupytext
import nbformat

sys.path.insert(0, str(Path(__file__).parent))
import build

_SOLUTION = re.compile(
    r"^(?P<indent>[ ]*)# <solution: (?P<sentence>[^\n]+)>\n.*?^[ ]*# </solution>$", re.MULTILINE | re.DOTALL
)


def tagged(cell: nbformat.NotebookNode, tag: str) -> bool:
    """Whether the cell carries `tag`."""
    return tag in cell.metadata.get("tags", ())


def without_solution(code: str) -> str:
    """The code with every solution replaced by an error that says what to do. Raises ValueError for none."""

    def stub(match: re.Match[str]) -> str:
        return f"{match['indent']}raise NotImplementedError({match['sentence']!r})"

    cut, found = _SOLUTION.subn(stub, code)
    if not found or "solution>" in cut:
        raise ValueError(
            f"an exercise needs its solution between '# <solution: ...>' and '# </solution>':\n{code}"
        )
    return cut


def student_copy(source: Path) -> nbformat.NotebookNode:
    """The notebook of `source` with the solutions of its exercises cut out, not executed."""
    notebook = jupytext.read(source)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"{source.stem}-{i}"
        if tagged(cell, "exercise"):
            cell.source = without_solution(cell.source)
    return notebook


def main() -> None:
    """Write every notebook of the course into the folder named on the command line."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python notebooks/student.py FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for source in build.sources():
        path = folder / source.with_suffix(".ipynb").name
        nbformat.write(student_copy(source), path)
        print(path)


if __name__ == "__main__":
    main()
