"""What a file is and does on this machine, in plain numbers: measured, not computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import minicnn
from minicnn.deploy.artefact import Artefact, load
from minicnn.deploy.report.latency import latency
from minicnn.deploy.report.machine import machine
from minicnn.deploy.report.memory import peak_memory
from minicnn.deploy.stopwatch import words
from minicnn.graph import cost
from minicnn.tensor import as_tensor
from minicnn.training.evaluate import evaluate


def measure_artefact(
    path: str | os.PathLike[str],
    loader: Any,
    *,
    class_names: Sequence[str] | None = None,
    batches: Sequence[int] = (1, 64),
    seconds: float = 1.0,
    memory: bool = True,
) -> dict[str, Any]:
    """Plain numbers of the artefact in `path`, which is loaded, tested on `loader` and timed.

    loader: gives (images, targets), preprocessed as the model wants them. class_names: default those in the
    file, else numbers. batches: sizes to time, each for `seconds`. memory: whether a fresh process is started
    to find its peak.

    {"bytes": of the file, "macs": of one image, "images", "accuracy", "loss", "per_class": {name: share or
    None}, "latency": [{"batch", "median_ms", "low_ms", "high_ms", "calls"}], "memory": {"batch",
    "before_mib", "peak_mib"} or None, "threads", "machine", "stopwatch": sentences about kernels that were
    chosen when the file was made}. Raises what `load` raises, and ValueError for a loader without images.
    """
    artefact = load(path)
    evaluation = evaluate(lambda images: as_tensor(artefact(images)), loader)
    numbers: dict[str, Any] = {
        "bytes": Path(path).stat().st_size,
        "macs": _macs(artefact),
        "images": evaluation.images,
        "loss": evaluation.loss,
    }
    if evaluation.confusion is not None:
        numbers["accuracy"] = evaluation.accuracy
        numbers["per_class"] = evaluation.by_class(class_names or artefact.about.get("class_names"))
    images = next(iter(loader))[0].numpy()
    numbers["latency"] = [latency(artefact, _of_size(images, size), seconds=seconds) for size in batches]
    numbers["memory"] = peak_memory(path, batch=max(batches)) if memory else None
    numbers["stopwatch"] = words(artefact.about.get("stopwatch"))
    return numbers | {"threads": minicnn.get_num_threads(), "machine": machine()}


def point(numbers: dict[str, Any]) -> dict[str, Any]:
    """The few numbers of `measure_artefact` that files are compared by.

    accuracy, bytes, macs; latency_ms and latency_batch_ms, at the smallest and the largest batch that were
    timed, per batch; memory_mib. What was not measured is left out.
    """
    found: dict[str, Any] = {key: numbers[key] for key in ("accuracy", "bytes", "macs") if key in numbers}
    times = sorted(numbers.get("latency", ()), key=lambda entry: entry["batch"])
    if times:
        found["latency_ms"] = times[0]["median_ms"]
        found["latency_batch_ms"] = times[-1]["median_ms"]
    if numbers.get("memory"):
        found["memory_mib"] = numbers["memory"]["peak_mib"]
    return found


def _macs(artefact: Artefact) -> int:
    """Multiply-accumulates of one image."""
    (images,) = artefact.graph.inputs
    return sum(entry.macs for entry in cost(artefact.graph)) // images.shape[0]


def _of_size(images: np.ndarray, size: int) -> np.ndarray:
    """`size` images, repeated if there are fewer."""
    return np.ascontiguousarray(np.resize(images, (size, *images.shape[1:])))
