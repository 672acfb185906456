"""One engine in a process of its own, driven over lines of JSON.

`Worker` is the parent's end; the child, `serve`, first makes the engine and says that it is ready, or why it
is not. Then it answers `["prepare", mode]`, `["times", mode, 6]` (some runs to warm up, six with a stopwatch,
the six times in seconds), `["forget", mode]` and `["facts"]`.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from bench.bursts import Stopwatch

WARM_UP_RUNS = 2
WARM_UP_SECONDS = 0.03  # threads that slept wake on the core that woke them, and are moved after some ms


class Unavailable(RuntimeError):
    """An engine that is not installed here, or cannot do what is asked; the message says why."""


class Wrong(RuntimeError):
    """An engine whose results are not what they should be: its times mean nothing."""


def always_right() -> None:
    """The check of engines that were checked when they were prepared."""


class Mode(NamedTuple):
    """What can be timed. error: of its result, as a part of the largest element, if that was looked at."""

    run: Callable[[], Any]
    error: float | None = None


class Engine(NamedTuple):
    """What a process serves.

    prepare: gives a mode by its name; raises Unavailable or Wrong. facts: for the record. check: called after
    every burst; raises Wrong.
    """

    prepare: Callable[[str], Mode]
    facts: Callable[[], dict[str, Any]]
    check: Callable[[], None] = always_right


def training(
    step: Callable[[], Any], loss: Callable[[], float], facts: Callable[[], dict[str, Any]]
) -> Engine:
    """An Engine with the one mode 'step', whose loss must stay finite."""

    def check() -> None:
        if not math.isfinite(loss()):
            raise Wrong("the loss is not finite; times of NaN arithmetic mean nothing")

    return Engine({"step": Mode(step)}.__getitem__, facts, check)


class Worker:
    """The parent's end of a process that holds one engine. Use it as a context manager.

    maker: 'module:function' that gives an Engine from `arguments`, which are sent as JSON. environment:
    variables for this process alone. Methods raise Unavailable if the engine is, or if its process ends.
    """

    def __init__(self, maker: str, *, environment: Mapping[str, str] | None = None, **arguments: Any) -> None:
        command = [sys.executable, "-m", "bench.worker", maker, json.dumps(arguments)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, **(environment or {})},
        )

    def wait_until_ready(self) -> None:
        """Return when the engine is made."""
        self._read()

    def prepare(self, mode: str) -> float | None:
        """Have the function of `mode` made, checked and run once. Returns the error of its result."""
        return self._ask("prepare", mode)

    def forget(self, mode: str) -> None:
        """Let go of a mode's arrays."""
        self._ask("forget", mode)

    def stopwatch(self, mode: str) -> Stopwatch:
        """`times` of one mode."""
        return partial(self.times, mode)

    def times(self, mode: str, count: int) -> list[float]:
        """Seconds of `count` runs of a mode that was prepared."""
        return self._ask("times", mode, count)

    def facts(self) -> dict[str, Any]:
        """The engine's version, threads and the like."""
        return self._ask("facts")

    def _ask(self, *request: Any) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
        except BrokenPipeError:
            raise Unavailable(f"its process ended with status {self._process.wait()}") from None
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable(f"its process ended with status {self._process.wait()}")
        answer = json.loads(line)
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"])
        return answer["result"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # its process may have ended
            self._process.stdin.close()
        self._process.wait()


def start(stack: ExitStack, workers: Mapping[str, Worker]) -> tuple[dict[str, Worker], dict[str, str]]:
    """The workers that are ready, and for the others the reason."""
    entered = {name: stack.enter_context(worker) for name, worker in workers.items()}
    answers, missing = ask_all(entered, Worker.wait_until_ready)
    return {name: entered[name] for name in answers}, missing


def ask_all(
    workers: Mapping[str, Worker], ask: Callable[[Worker], Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The answers of those that can, and why the others cannot.

    Raises RuntimeError if the first cannot: it is the one that is measured.
    """
    answers, missing = {}, {}
    for position, (name, worker) in enumerate(workers.items()):
        try:
            answers[name] = ask(worker)
        except Unavailable as error:
            if position == 0:
                raise RuntimeError(f"{name} cannot be measured: {error}") from error
            missing[name] = str(error)
    return answers, missing


def serve(maker: str, arguments: dict[str, Any]) -> None:
    """The child's end."""
    answers, sys.stdout = sys.stdout, sys.stderr  # an engine that prints must not disturb the protocol

    def answer(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=answers, flush=True)

    module, function = maker.split(":")
    try:
        engine: Engine = getattr(import_module(module), function)(**arguments)
    except Unavailable as error:
        answer({"unavailable": str(error)})
        return
    answer({"result": None})
    prepared: dict[str, Callable[[], Any]] = {}

    def prepare(mode: str) -> float | None:
        run, error = engine.prepare(mode)
        run()
        prepared[mode] = run
        return error

    def times(mode: str, count: int) -> list[float]:
        run = prepared[mode]
        runs, warm = 0, time.perf_counter() + WARM_UP_SECONDS
        while runs < WARM_UP_RUNS or time.perf_counter() < warm:
            run()
            runs += 1
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        engine.check()
        return seconds

    def forget(mode: str) -> None:
        del prepared[mode]

    requests: dict[str, Callable[..., Any]]
    requests = {"prepare": prepare, "times": times, "forget": forget, "facts": engine.facts}
    for line in sys.stdin:
        what, *values = json.loads(line)
        try:
            answer({"result": requests[what](*values)})
        except (Unavailable, Wrong) as error:
            answer({"unavailable": str(error)})


if __name__ == "__main__":
    from bench import worker  # this file under its own name: as __main__ its classes would be others

    worker.serve(sys.argv[1], json.loads(sys.argv[2]))
