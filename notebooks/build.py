"""Make the .ipynb files from their sources, executed: `python notebooks/build.py [--limit SECONDS] [NAME ...]`.

The sources are Python files in jupytext's percent format; edit those. Needs the extra `notebooks`.
Without MINICNN_FAST=1 in the environment it is the long run whose outputs are kept.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import time
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
    for i, cell in enumerate(notebook.cells):
        cell.id = f"{source.stem}-{i}"  # not a new one with every run
        cell.metadata.pop("execution", None)  # when and on which machine it ran is of no interest
        if cell.cell_type == "code":
            # What a library says to the terminal (kernels are compiled) is not what the cell is about.
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.pop("language_info", None)
    return notebook


def smaller(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same with pictures of at most 64 colours, a third of the bytes. Changes it in place."""
    from PIL import Image

    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                picture = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
                buffer = io.BytesIO()
                picture.convert("RGB").quantize(64).save(buffer, format="png", optimize=True)
                output.data["image/png"] = base64.b64encode(buffer.getvalue()).decode()
    return notebook


def main() -> None:
    """Execute and write the notebooks named on the command line, by default all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as 02_convolution; default: all")
    parser.add_argument("--limit", type=float, help="fail in the end if one took more seconds than this")
    arguments = parser.parse_args()
    known = {source.stem: source for source in sources()}
    if unknown := set(arguments.names) - set(known):
        parser.error(f"no such notebook: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    too_long = []
    for name in arguments.names or known:
        started = time.perf_counter()
        path = known[name].with_suffix(".ipynb")
        nbformat.write(smaller(executed(known[name], FOLDER)), path)
        seconds = time.perf_counter() - started
        how = "short run" if os.environ.get("MINICNN_FAST") == "1" else "long run"
        print(f"{path}: {how}, {seconds:.0f} s, {path.stat().st_size >> 10} KiB", flush=True)
        if arguments.limit and seconds > arguments.limit:
            too_long.append(name)
    if too_long:
        raise SystemExit(f"longer than {arguments.limit:g} s: {', '.join(too_long)}")


if __name__ == "__main__":
    main()
