"""What deployment gains on the processor: bits counted, channels removed, and what sparse weights are worth.

Everything is ours or NumPy's, so it is measured in this process: `python -m bench deploy`. Other engines are
in `forward.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from bench.bursts import alternate, quartiles, summarise
from bench.nets import NETS
from bench.record import markdown

# rows, depth, outputs of a dense layer
_LAYERS = ((64, 784, 300), (64, 1024, 1024), (64, 4096, 4096))
# images, channels, pixels in a line, outputs of a 3x3 convolution
_CONVOLUTIONS = ((64, 64, 14, 64), (64, 128, 8, 128))
_BATCH = 64
_ZEROS = 0.9


def measure(
    *, threads: Sequence[int], rounds: int, burst_seconds: float, quick: bool = False
) -> list[dict[str, Any]]:
    """An entry for each comparison: "kind", "what", "threads", "times_as_fast" (quartiles by round), "ms".

    Entries of the kind 'sparse' have "notes" instead, those of `minicnn.deploy.choose`.
    """
    import minicnn

    before = minicnn.get_num_threads()
    entries: list[dict[str, Any]] = []
    pace = {"rounds": rounds, "burst_seconds": burst_seconds}
    try:
        for count in threads:
            minicnn.set_num_threads(count)
            for layer in _LAYERS[: 1 if quick else None]:
                entries.append(_compare("bits", _name("dense", layer), count, _dense(*layer), pace))
            for layer in _CONVOLUTIONS[: 1 if quick else None]:
                entries.append(_compare("bits", _name("3x3", layer), count, _convolution(*layer), pace))
            for net in ("W2",) if quick else ("W2", "W3"):
                entries.append(_compare("channels", net, count, _halved(net), pace))
                entries.append(_compare("constants", net, count, _halved(net, biases_stay=True), pace))
                entries.append({"kind": "sparse", "what": net, "threads": count, "notes": _notes(net)})
    finally:
        minicnn.set_num_threads(before)
    return entries


def _compare(
    kind: str, what: str, threads: int, runs: Mapping[str, Callable[[], Any]], pace: Mapping[str, Any]
) -> dict[str, Any]:
    """How many times as fast the second run is as the first."""
    bursts = alternate({name: partial(_times, run) for name, run in runs.items()}, **pace)
    summary = summarise(bursts)
    first, second = (summary[name]["round_medians_ms"] for name in runs)
    ratios = quartiles([a / b for a, b in zip(first, second, strict=True)])
    milliseconds = {name: summary[name]["milliseconds"][1] for name in runs}
    return {"kind": kind, "what": what, "threads": threads, "times_as_fast": ratios, "ms": milliseconds}


def _times(run: Callable[[], Any], count: int) -> list[float]:
    run()
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def _name(kind: str, shape: Sequence[int]) -> str:
    return f"{kind} {' x '.join(map(str, shape))}"


def _dense(rows: int, depth: int, outputs: int) -> dict[str, Callable[[], Any]]:
    """sgemm of NumPy, and the same product of signs, packing of x included."""
    from minicnn_kernels import cpu

    x, weight = _normal(rows, depth), _normal(outputs, depth)
    right, bits = np.ascontiguousarray(weight.T), cpu.pack_binary_weight(weight)
    start, factor = np.full(outputs, depth, np.int32), np.ones(outputs, np.float32)
    return {"sgemm": lambda: x @ right, "bits": lambda: cpu.binary_linear_forward(x, bits, start, factor)}


def _convolution(images: int, channels: int, size: int, outputs: int) -> dict[str, Callable[[], Any]]:
    """sgemm of the im2col matrix (which is there already), and the convolution of signs."""
    from minicnn_kernels import cpu

    x = _normal(images, size, size, channels).transpose(0, 3, 1, 2)
    weight = _normal(outputs, channels, 3, 3)
    columns, right = _normal(images * size * size, 9 * channels), _normal(9 * channels, outputs)
    bits = cpu.pack_binary_weight(weight)
    start, factor = np.full(outputs, 9 * channels, np.int32), np.ones(outputs, np.float32)
    window = (3, 3), (1, 1), (1, 1), (1, 1)
    return {
        "sgemm": lambda: columns @ right,
        "bits": lambda: cpu.binary_conv2d_forward(x, bits, start, factor, *window),
    }


def _halved(net: str, *, biases_stay: bool = False) -> dict[str, Callable[[], Any]]:
    """A deployed net, and the same without half of the channels and units of all layers but the last.

    biases_stay: a channel without weights is still as bright as its bias. What the next convolution makes of
    it, other at its padded border than inside, is added as an image, which costs a pass of its own.
    """
    import minicnn
    from minicnn.compress import prune

    def remove(model: Any, layers: list[str]) -> None:
        prune(model, 0.5, unit="filter", layers=layers)
        for layer in map(model.get_submodule, layers if not biases_stay else ()):
            alive = np.abs(layer.weight.detach().numpy()).reshape(len(layer.weight), -1).any(axis=1)
            with minicnn.no_grad():
                layer.bias.copy_(minicnn.from_numpy(layer.bias.detach().numpy() * alive))

    return {"dense": _plan(_lowered(net)), "half": _plan(_lowered(net, remove))}


def _notes(net: str) -> list[dict[str, Any]]:
    """What the stopwatch says of a net without 90% of its weights."""
    from minicnn import deploy
    from minicnn.compress import prune

    graph = _lowered(net, lambda model, layers: prune(model, _ZEROS))
    return deploy.choose(graph, _normal(4, *NETS[net].image_shape))[1]


def _lowered(net: str, change: Callable[[Any, list[str]], Any] | None = None) -> Any:
    import minicnn
    from minicnn import deploy, nn
    from minicnn.compress import select_layers

    minicnn.manual_seed(0)
    model = NETS[net].build(nn).eval()
    if change is not None:
        change(model, list(select_layers(model))[:-1])
    return deploy.lower(model, _normal(2, *NETS[net].image_shape))


def _plan(graph: Any) -> Callable[[], Any]:
    """The graph as a file runs it, on a batch."""
    import minicnn
    from minicnn.deploy.program import of_batch
    from minicnn.graph.fuse import fuse
    from minicnn.graph.plan import Plan

    plan = Plan(fuse(of_batch(graph, _BATCH)), None)
    images = minicnn.from_numpy(_normal(_BATCH, *graph.inputs[0].shape[1:]))

    def run() -> None:
        with minicnn.no_grad():
            plan(images)

    return run


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


_TITLES = {
    "bits": "signs against sgemm",
    "channels": "half of the channels against all",
    "constants": "the same, but their biases stay",
}


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a line for each comparison, then what the stopwatch said."""
    rows, notes = [], []
    for entry in results:
        threads = f"{entry['threads']} thread{'s' * (entry['threads'] > 1)}"
        if entry["kind"] == "sparse":
            notes += [f"- {entry['what']}, {threads}, {note['words']}" for note in entry["notes"]]
            continue
        (first, slow), (second, fast) = entry["ms"].items()
        low, middle, high = entry["times_as_fast"]
        what = f"{_TITLES[entry['kind']]}: {entry['what']}"
        rows.append(
            [
                what,
                threads,
                f"{first} {slow:.3g}",
                f"{second} {fast:.3g}",
                f"{middle:.3g} ({low:.3g} to {high:.3g})",
            ]
        )
    head = ["what", "threads", "ms", "ms", "times as fast (quartiles)"]
    return "\n".join([markdown(head, rows), "", f"Without {_ZEROS:.0%} of the weights:", "", *notes])
