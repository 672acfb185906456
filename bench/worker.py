"""One engine in a process of its own, driven over lines of JSON.

The child reads `["step", 6]` from stdin, runs two calls to warm up and then six with a stopwatch, and
answers with the six times in seconds. Before that it says once that it is ready, or why not. `Worker` is the
parent's end.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from typing import Any

from bench.engines import Unavailable, make

WARM_UP = 2


class Worker:
    """The parent's end of a process that holds one engine. Use it as a context manager.

    Raises Unavailable if the engine is not installed, RuntimeError if the process fails.
    """

    def __init__(self, engine: str, net: str, *, batch: int, threads: int) -> None:
        self.engine = engine
        command = [sys.executable, "-m", "bench.worker", engine, net, str(batch), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def wait_until_ready(self) -> dict[str, Any]:
        """Facts about the engine, once it has run both modes."""
        answer = self._read()
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"])
        return answer["facts"]

    def times(self, mode: str, count: int) -> list[float]:
        """Seconds of `count` runs of 'step' or 'forward'."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([mode, count]) + "\n")
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the process of {self.engine} ended with exit status {self._process.wait()}; see above"
            )
        return json.loads(line)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(engine: str, net: str, batch: int, threads: int) -> None:
    """The child's end."""
    answers, sys.stdout = sys.stdout, sys.stderr  # an engine that prints must not disturb the protocol

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        running = make(engine, net, batch=batch, threads=threads)
    except Unavailable as error:
        answer({"unavailable": str(error)})
        return
    modes = {"step": running.step, "forward": running.forward}
    for run in modes.values():
        run()
    answer({"facts": running.facts()})

    for line in sys.stdin:
        mode, count = json.loads(line)
        run = modes[mode]
        for _ in range(WARM_UP):
            run()
        times = []
        for _ in range(count):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        if not math.isfinite(running.loss()):
            raise RuntimeError(
                f"{engine} {net}: the loss is not finite; times of NaN arithmetic mean nothing"
            )
        answer(times)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
