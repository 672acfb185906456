"""save_with_report: a file that knows what it costs, and its report beside it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minicnn.deploy.artefact import save
from minicnn.deploy.report.damage import damage
from minicnn.deploy.report.measure import measure_artefact
from minicnn.deploy.report.stored import to_store
from minicnn.deploy.report.write import write_report


def save_with_report(
    model: Any,
    path: str | os.PathLike[str],
    loader: Any,
    *,
    about: Mapping[str, Any] | None = None,
    huffman: bool = True,
    before: Any = None,
    seconds: float = 1.0,
) -> dict[str, Any]:
    """Write `model` to `path`, measure the file, and write it again with what was measured in it.

    Beside `path`, NAME.mcnn, stand NAME.report.md, .json and .html. loader: gives (images, targets) to test
    on. about: as `save` takes it; its report is replaced. before: the model before compression, which is
    measured as a file of its own and compared with. Gives the numbers of `measure_artefact`, the bytes those
    of the finished file. Raises what `save` and `measure_artefact` raise.
    """
    path, about = Path(path), dict(about or {})
    sample = next(iter(loader))[0][:2]
    save(model, path, sample, about=about, huffman=huffman)
    numbers = measure_artefact(path, loader, seconds=seconds)
    numbers["bytes"] = save(model, path, sample, about=about | {"report": to_store(numbers)}, huffman=huffman)
    measured = hurt = None
    if before is not None:
        with tempfile.TemporaryDirectory() as folder:
            other = Path(folder) / "before.mcnn"
            save(before, other, sample, about=about, huffman=huffman)
            measured = measure_artefact(other, loader, seconds=seconds)
        hurt = damage(before, model, loader, class_names=about.get("class_names"))
    write_report(path.with_suffix(".report"), numbers, name=path.stem, before=measured, damage=hurt)
    return numbers
