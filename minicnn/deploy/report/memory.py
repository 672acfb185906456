"""How much memory a file needs to run: the peak of a fresh process that loads and runs it.

Linux only: it reads /proc/self/status. Elsewhere `peak_memory` gives None.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

_STATUS = Path("/proc/self/status")
_CALLS = 3


def peak_memory(path: str | os.PathLike[str], *, batch: int = 64) -> dict[str, float] | None:
    """MiB of a process that runs the artefact in `path`: {"batch", "before_mib", "peak_mib"}.

    before_mib: with everything imported, the file not yet read. Kernels should have been compiled before,
    or their compilation is measured, too. Raises CalledProcessError if the process fails.
    """
    if not _STATUS.exists():
        return None
    program = f"from {__name__} import child; child({os.fspath(path)!r}, {batch})"
    surroundings = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "MINICNN_QUIET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True, env=surroundings
    )
    return {"batch": batch} | json.loads(done.stdout.splitlines()[-1])


def child(path: str, batch: int) -> None:
    """What the fresh process does: run the file a few times and print its memory as JSON."""
    from minicnn.deploy.artefact import load

    before = _mib("VmRSS")
    artefact = load(path)
    images = np.zeros((batch, *artefact.graph.inputs[0].shape[1:]), artefact.graph.inputs[0].dtype)
    for _ in range(_CALLS):
        artefact(images)
    print(json.dumps({"before_mib": before, "peak_mib": _mib("VmHWM")}))


def _mib(field: str) -> float:
    for line in _STATUS.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return round(int(value.split()[0]) / 1024, 1)
    raise RuntimeError(f"{_STATUS} has no {field}")
