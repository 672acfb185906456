"""How cost grows with the size of a problem, and how it falls with threads: `python -m bench growth`.

Three tables, each of minicnn against itself: time per image of a W2 step over batch sizes; time per
multiply-accumulate of a 3x3 convolution over channels and over pixels (those of the plain algorithm, whatever
runs); a step of every net with one thread and with all. What belongs together is timed in alternation.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

import numpy as np

from bench.bursts import Stopwatch, alternate, paired_ratios, quartiles
from bench.engines import minicnn_facts
from bench.record import markdown
from bench.steps import spread
from bench.worker import Engine, Mode, Worker

BATCHES = (16, 32, 64, 128, 256, 512, 1024)
CHANNELS = (16, 32, 64, 128, 256, 512)
PIXELS = (8, 16, 32, 64, 128)
_MACS = 1 << 31  # of one convolution, as far as between 4 and 64 images allow


def measure(
    nets: Sequence[str], *, threads: int, rounds: int, burst_seconds: float, quick: bool
) -> dict[str, list[dict[str, Any]]]:
    """Entries of the three tables: 'batch' and 'convolution' as `per_unit`, 'threads' as `_speedup`."""
    pace = {"rounds": rounds, "burst_seconds": burst_seconds}
    batches = BATCHES[::3] if quick else BATCHES
    channels, pixels = (CHANNELS[1::3], PIXELS[::3]) if quick else (CHANNELS, PIXELS)
    shapes = list(dict.fromkeys([*((c, 16) for c in channels), *((64, p) for p in pixels)]))
    return {
        "batch": _batches(batches, threads, **pace),
        "convolution": _convolutions(shapes, threads, **pace),
        "threads": [_speedup(net, threads, **pace) for net in nets] if threads > 1 else [],
    }


def _batches(batches: Sequence[int], threads: int, **pace: Any) -> list[dict[str, Any]]:
    images = {f"W2 step, batch {batch}": batch for batch in batches}
    with ExitStack() as stack:
        watches = {
            name: _stopwatch(_step(stack, "W2", batch=batch, threads=threads), "step")
            for name, batch in images.items()
        }
        return per_unit(_timed(watches, **pace), images)


def _convolutions(shapes: Sequence[tuple[int, int]], threads: int, **pace: Any) -> list[dict[str, Any]]:
    macs, watches = {}, {}
    with ExitStack() as stack:
        worker = stack.enter_context(Worker("bench.growth:make_convolution", threads=threads))
        worker.wait_until_ready()
        for channels, pixels in shapes:
            name = f"3x3, {channels} channels, {pixels}x{pixels}"
            macs[name] = images_for(channels, pixels) * _macs(channels, pixels)
            watches[name] = _stopwatch(worker, f"{channels} {pixels}")
        return per_unit(_timed(watches, **pace), macs)


def _speedup(net: str, threads: int, **pace: Any) -> dict[str, Any]:
    """A net's step with all threads: milliseconds, and how many times as fast as with one."""
    with ExitStack() as stack:
        watches = {
            str(count): _stopwatch(_step(stack, net, batch=64, threads=count), "step")
            for count in (1, threads)
        }
        bursts = _timed(watches, **pace)
    one, many = ([1e3 * median(burst) for burst in rounds] for rounds in bursts.values())
    return {
        "what": f"{net} step, {threads} threads against 1",
        "milliseconds": [round(median(one), 4), round(median(many), 4)],
        "times_as_fast": paired_ratios(one, many),
    }


def _step(stack: ExitStack, net: str, *, batch: int, threads: int) -> Worker:
    options: dict[str, Any] = {"name": "minicnn", "net": net, "batch": batch, "threads": threads}
    worker = stack.enter_context(Worker("bench.engines:make", **options))
    worker.wait_until_ready()
    return worker


def _stopwatch(worker: Worker, mode: str) -> Stopwatch:
    worker.prepare(mode)
    return worker.stopwatch(mode)


def _timed(watches: Mapping[str, Stopwatch], **pace: Any) -> dict[str, list[list[float]]]:
    print(f"{', '.join(watches)} ...", file=sys.stderr, flush=True)
    return alternate(watches, **pace)


def per_unit(
    bursts: Mapping[str, Sequence[Sequence[float]]], units: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Nanoseconds per unit (image, multiply-accumulate) by name, and how many times those of the best."""
    costs = {name: [1e9 * median(b) / units[name] for b in rounds] for name, rounds in bursts.items()}
    best = min(costs.values(), key=median)
    return [
        {"what": name, "nanoseconds": quartiles(cost), "times_best": paired_ratios(cost, best)}
        for name, cost in costs.items()
    ]


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: the three tables."""
    texts = []
    for part, unit in (("batch", "µs per image"), ("convolution", "ps per multiply-accumulate")):
        rows = [
            [e["what"], f"{_scaled(e['nanoseconds'][1], part):.1f}", spread(e["times_best"])]
            for e in results[part]
        ]
        texts.append(markdown(["what", unit, "times the best"], rows))
    rows = [
        [e["what"], *(f"{value:.2f}" for value in e["milliseconds"]), spread(e["times_as_fast"])]
        for e in results["threads"]
    ]
    texts.append(markdown(["what", "ms, 1 thread", "ms, all", "times as fast"], rows))
    return "\n\n".join(texts)


def _scaled(nanoseconds: float, part: str) -> float:
    return nanoseconds / 1e3 if part == "batch" else nanoseconds * 1e3


def images_for(channels: int, pixels: int) -> int:
    """So many images that a convolution is worth timing and fits into memory."""
    return min(max(_MACS // _macs(channels, pixels), 4), 64)


def _macs(channels: int, pixels: int) -> int:
    """Of a 3x3 convolution of one image that keeps channels and pixels."""
    return pixels**2 * channels**2 * 9


def make_convolution(threads: int) -> Engine:
    """3x3 convolutions of ours; a mode is 'CHANNELS PIXELS'."""
    import minicnn_kernels as kernels
    from bench.cases import normal
    from minicnn_kernels import memory

    kernels.set_threads(threads)
    forward = kernels.backend("cpu").conv2d_forward

    def prepare(mode: str) -> Mode:
        channels, pixels = map(int, mode.split())
        rng = np.random.default_rng(0)
        x = memory.empty_images(images_for(channels, pixels), channels, pixels, pixels)
        x[...] = normal(rng, *x.shape)
        weight, bias = normal(rng, channels, channels, 3, 3), normal(rng, channels)
        return Mode(lambda: forward(x, weight, bias, (1, 1), (1, 1), (1, 1), 1))

    return Engine(prepare, minicnn_facts)
