"""Forward passes of whole nets against inference engines: `python -m bench forward`.

Every engine must first give what float64 gives, within 2e-5 of the largest output, or it is not timed; see
`peers/inference.py` for the engines and `bursts.py` for the times.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import steps
from bench.peers import portable
from bench.worker import Worker


def measure(
    nets: Sequence[str],
    engines: Sequence[str],
    *,
    threads: Sequence[int],
    batches: Sequence[int] = (portable.BATCH, 1),
    rounds: int,
    burst_seconds: float,
    maker: str = "bench.peers.inference:make",
) -> list[dict[str, Any]]:
    """One entry per net, number of threads and batch (64 at most). maker: of the engines, see `worker.py`."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        portable.prepare(Path(folder), nets)
        for net in nets:
            for count in threads:
                options: dict[str, Any] = {"folder": folder, "net": net, "threads": count}
                found = steps.compare(
                    {name: Worker(maker, name=name, **options) for name in engines},
                    [f"batch {batch}" for batch in batches],
                    f"{net}, {count} threads",
                    rounds=rounds,
                    burst_seconds=burst_seconds,
                )
                results += [{"net": net, "threads": count, **entry} for entry in found]
    return results
