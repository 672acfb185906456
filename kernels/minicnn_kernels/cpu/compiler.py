"""The one way in which this back end compiles: `kernel`, a decorator on `numba.njit`.

It fixes what liberties the optimizer may take with floating point, and what happens when Python threads or
forked processes meet in the thread pool. Which loops are compiled is the business of the files beside this
one, where their machine code is kept that of `cache.py`.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
from numba.core import event

from minicnn_kernels import threads
from minicnn_kernels.cpu.cache import cache_folder, remove_unused, version_folder

_config: Any = numba.config  # filled at run time, so type checkers do not know what is in it
THREAD_SLOTS: int = _config.NUMBA_NUM_THREADS  # `get_thread_id()` is below this, whatever `set_threads` says

# A multiply and the add that follows may become one fused instruction: it rounds less, and NaN,
# infinities and signed zeros stay what they are. A reduction that must vectorize asks for REDUCTION.
CONTRACT = frozenset({"contract"})
REDUCTION = frozenset({"contract", "reassoc", "nsz"})


def kernel(
    function: Callable | None = None,
    *,
    parallel: bool = False,
    fastmath: Iterable[str] = CONTRACT,
    inline: str = "never",
) -> Any:
    """Compile `function` when it is first called; later processes load it from the disk.

    parallel: `prange` loops run on all threads. Such a kernel is called from Python only, not from
    other kernels. Its tasks must be split by shapes alone, so that results are the same for any
    number of threads. fastmath: the LLVM flags this function is allowed; none may break NaN.

    Define kernels at module level with run-time shapes: a closure never hits the cache.
    """
    if function is None:
        return functools.partial(kernel, parallel=parallel, fastmath=fastmath, inline=inline)
    flags = {"fastmath": set(fastmath), "inline": inline}
    if not parallel:
        return _compiled(function, version_folder(_source(function)), **flags)
    return _ParallelKernel(function, flags)


class _ParallelKernel:
    """A kernel with `prange` loops, safe to call from any Python thread and after a fork.

    GNU OpenMP ends a forked child that uses its parent's pool. There the same source is compiled
    without threads; the tasks, and so the results, are the same.
    """

    __slots__ = ("_call", "_flags", "_serial", "py_func")

    def __init__(self, function: Callable, flags: dict[str, Any]) -> None:
        self.py_func = function
        self._flags = flags
        self._call = _compiled(function, version_folder(_source(function)), parallel=True, **flags)
        self._serial: Callable | None = None

    def __call__(self, *args: Any) -> Any:
        if _forked:
            return self._without_threads()(*args)
        if _this_thread.changes_seen != threads.changes:
            _use_chosen_threads()
        if _one_at_a_time is None:
            return self._call(*args)
        with _one_at_a_time:
            return self._call(*args)

    def _without_threads(self) -> Callable:
        if self._serial is None:
            # A folder of its own: Numba's cache does not distinguish parallel from serial code.
            folder = version_folder(_source(self.py_func)) / "serial"
            self._serial = _compiled(self.py_func, folder, **self._flags)
        return self._serial


def _source(function: Callable) -> Path:
    return Path(function.__code__.co_filename)


def _compiled(function: Callable, folder: Path, **options: Any) -> Callable:
    """`numba.njit` with our defaults, cached in `folder`."""
    # Numba reads CACHE_DIR while it decorates; other packages of the process keep their own.
    previous = _config.CACHE_DIR
    _config.CACHE_DIR = str(folder)
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    finally:
        _config.CACHE_DIR = previous


class _Progress(event.Listener):
    """Says once that kernels are being compiled and, at exit, how long that took."""

    def __init__(self) -> None:
        self.kernels = 0
        self.seconds = 0.0
        self._depth = 0
        self._started = 0.0

    def on_start(self, event: event.Event) -> None:
        if not _is_ours(event):
            return
        if self._depth == 0:
            self._started = time.perf_counter()
            if self.kernels == 0:
                _say(
                    "minicnn: compiling CPU kernels for this machine "
                    f"(first run only; cached in {cache_folder()})"
                )
                atexit.register(self._finish)
        self._depth += 1

    def on_end(self, event: event.Event) -> None:
        if not _is_ours(event):
            return
        self._depth -= 1
        self.kernels += 1
        if self._depth == 0:
            self.seconds += time.perf_counter() - self._started

    def _finish(self) -> None:
        _say(f"minicnn: {self.kernels} CPU kernels took {self.seconds:.1f} s to compile")
        remove_unused()


def _is_ours(event: event.Event) -> bool:
    return event.data["dispatcher"].py_func.__module__.startswith("minicnn_kernels.")


def _say(line: str) -> None:
    if os.environ.get("MINICNN_QUIET", "") in ("", "0"):
        print(line, file=sys.stderr, flush=True)


def compiled() -> tuple[int, float]:
    """Kernels that this process had to compile (0 when all came from the cache), and the seconds it took."""
    return _progress.kernels, _progress.seconds


class _ThisThread(threading.local):
    changes_seen = -1


def _use_chosen_threads() -> None:
    """Numba's number of threads belongs to the Python thread that set it: repeat it in this one."""
    numba.set_num_threads(min(threads.get_threads(), _config.NUMBA_NUM_THREADS))
    _this_thread.changes_seen = threads.changes


def _note_fork() -> None:
    global _forked, _one_at_a_time
    _forked = numba.threading_layer() == "omp"
    if _one_at_a_time is not None:
        _one_at_a_time = threading.Lock()  # a thread that the child does not have may hold the parent's


@contextmanager
def _patient_threads() -> Iterator[None]:
    """GNU OpenMP, if it is loaded in this block, lets threads that wait fall asleep after 1 ms, not 15.

    They spin on cores that a data loader or another process needs. A W2 step in ms, alone on two cores and
    beside three busy processes: 15 ms of spinning 9.1 and 90 to 460, 1 ms 9.4 and 50 to 120, 0.1 ms 10.6
    and 38, none 12.1 and 31 to 39. Whoever set OpenMP's own variables is obeyed.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}.isdisjoint(os.environ):
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = "20000"  # pauses of 50 ns
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]  # read once, when the library is loaded; not for child processes


_this_thread = _ThisThread()
_progress = _Progress()
_forked = False
event.register("numba:compile", _progress)
with _patient_threads():
    threads.apply_threads()  # also starts Numba's pool, so that its kind is known from here on
# Numba's own pool aborts the process when two Python threads meet in it.
_one_at_a_time = threading.Lock() if numba.threading_layer() == "workqueue" else None
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
