"""Where machine code is kept between processes: which folder, whose, and for how long.

Numba's cache does not notice a changed callee in another file, so every file of kernels has a folder for each
version of all that it is built from. Folders that nobody has used for a month are removed. What is compiled,
and how, is the business of `compiler.py`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
import numba

from minicnn_kernels.cpu.lanes import TILES

_config: Any = numba.config  # filled at run time, so type checkers do not know what is in it
_DAY = 24 * 60 * 60
_KEPT = 30 * _DAY
_VERSION = re.compile(r"\.?\w+-[0-9a-f]{16}")  # the folder may have been chosen, and hold other things


@functools.cache
def cache_folder() -> Path:
    """The folder of all machine code, private to the user.

    MINICNN_CACHE_DIR, else NUMBA_CACHE_DIR, else `minicnn` under XDG_CACHE_HOME, else under ~/.cache; in the
    system's temporary folder when that cannot be written.
    """
    chosen = os.environ.get("MINICNN_CACHE_DIR") or _config.CACHE_DIR
    if chosen:
        folder = Path(chosen).expanduser()
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "minicnn"
    user = os.getuid() if hasattr(os, "getuid") else "user"
    fallback = Path(tempfile.gettempdir()) / f"minicnn-{user}"
    return _writable(folder) or _writable(fallback) or Path(tempfile.mkdtemp(prefix="minicnn-"))


def _writable(folder: Path) -> Path | None:
    """`folder`, made if need be, if we can write there and nobody else owns it; else None."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Cached code is executed when loaded: never take it from a folder that is someone else's.
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            return None
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


@functools.cache
def version_folder(source: Path) -> Path:
    """The folder for kernels of the file `source`, in this version of it and of all that it is built from.

    Its name has the hash of the file, of the files of this package that it imports, in turn, of the
    compiler's version, and of the tiles that it is compiled for. Its time of change, to the day, is that of
    its last use.
    """
    folder = cache_folder() / f"{source.stem}-{_hash(source)}"
    with suppress(OSError):  # not made yet, or made by someone else
        if _age(folder) > _DAY:
            os.utime(folder)
    return folder


@functools.cache
def _hash(path: Path) -> str:
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {TILES}".encode())
    files = [path]
    for file in files:  # grows while it is walked
        source = file.read_text(encoding="utf-8")
        digest.update(source.encode())
        files.extend(imported for imported in _imports(source) if imported not in files)
    return digest.hexdigest()[:16]


def _imports(source: str) -> list[Path]:
    """Files of this package that `source` imports from."""
    root = Path(__file__).parents[1]
    found = []
    for module, names in re.findall(
        r"^\s*from minicnn_kernels([.\w]*) import ([^(\n]+|\([^)]*\))", source, re.M
    ):
        folder = root.joinpath(*module.split(".")[1:])
        candidates = [folder, *(folder / name for name in re.findall(r"\w+", names))]
        found += [file for file in (path.with_suffix(".py") for path in candidates) if file.is_file()]
    return found


def remove_unused() -> None:
    """Remove the versions that nobody has used for 30 days.

    Other processes may do the same, or begin to use a version at this moment. It is renamed at once and
    removed thereafter, so that nobody loads from half a folder; who has lost his compiles again.
    """
    for folder in cache_folder().iterdir():
        with suppress(OSError):  # another process was first
            if _VERSION.fullmatch(folder.name) and _age(folder) > _KEPT:
                doomed = folder.with_name("." + folder.name.lstrip("."))
                folder.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)


def _age(folder: Path) -> float:
    """Seconds since its last change."""
    return time.time() - folder.stat().st_mtime
