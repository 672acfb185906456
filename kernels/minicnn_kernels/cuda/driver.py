"""The one door to numba.cuda: what is there, how kernels are declared and how they are launched.

Every other module takes `cuda` and scalar functions from here. With NUMBA_ENABLE_CUDASIM=1 kernels run as
Python: `SIMULATED` is True then, blocks have one thread or a few (`simulator.py`), and the scalar functions
are NumPy's, which answer infinity and NaN as the hardware does where `math` raises.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import config

from minicnn_kernels.cuda import simulator
from minicnn_kernels.device_array import NoDeviceError

SIMULATED = bool(getattr(config, "ENABLE_CUDASIM"))  # noqa: B009  (made when Numba is imported)

if not SIMULATED and importlib.util.find_spec("numba_cuda") is None:
    raise ImportError(
        "device 'cuda': the package numba-cuda is missing; install it with pip install 'minicnn[gpu]'"
    )

from numba import cuda  # noqa: E402  (reads the setting above)

__all__ = [
    "BLOCK", "KERNELS", "SIMULATED", "Elements", "Kernel", "Launch", "atan2", "ceil", "cos", "cuda",
    "device_function", "erf", "event", "exp", "expm1", "floor", "fmod", "inline_function", "isinf", "isnan",
    "kernel", "launch", "launch_blocks", "listening", "log", "log1p", "log2", "repeated", "require_device",
    "rint", "sin", "sqrt", "stream", "tan", "tanh", "trunc", "unrolled",
]  # fmt: skip

BLOCK = 1 if SIMULATED else 256  # threads of a block, where the kernel does not care
_MOST_BLOCKS = 2 if SIMULATED else 132 * 16  # of a grid-stride kernel: an H100 holds as many at once


if SIMULATED:
    simulator.install()


class Kernel:
    """A compiled-when-first-launched kernel and the arguments that it is meant for.

    signature: a Numba signature for float32 work, by which `code.py` compiles the kernel without a GPU.
    options: of the compiler, as `cuda.jit` and `cuda.compile` know them.
    """

    def __init__(self, function: Callable, signature: str, registers: int, **options: Any) -> None:
        self.function, self.signature, self.registers, self.options = function, signature, registers, options
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__.split('.')[0]}"
        self.compiled = cuda.jit(**({} if SIMULATED else options))(function)
        self._configured: dict[tuple, Callable] = {}

    def run(self, grid: Any, block: int, arguments: tuple) -> None:
        """Launch it, or leave that to a recording."""
        if listening.recording is not None:
            listening.recording.hear(self, grid, block, arguments)
        else:
            given = tuple(x.given() if isinstance(x, Elements) else x for x in arguments)
            self.run_unheard(grid, block, given)

    def run_unheard(self, grid: Any, block: int, given: tuple) -> None:
        """Launch it. Numba keeps 128 configurations of all kernels together, a training step has more."""
        configured = self._configured.get((grid, block))
        if configured is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a small array makes a small grid
                configured = self.compiled[grid, block, stream()]
            if not SIMULATED:  # there the kernel itself holds the newest configuration
                self._configured[grid, block] = configured
        configured(*given)


class Launch(NamedTuple):
    """A launch to be done again. It has the memory itself, not `Elements`, which would keep it taken."""

    kernel: Kernel
    grid: Any
    block: int
    given: tuple

    @classmethod
    def of(cls, kernel: Kernel, grid: Any, block: int, arguments: Sequence[Any]) -> Launch:
        """What `Kernel.run` is about to launch."""
        given = tuple(x.given() if isinstance(x, Elements) else x for x in arguments)
        return cls(kernel, grid, block, given)

    def run(self) -> None:
        """Launch the kernel again, on the same memory."""
        self.kernel.run_unheard(self.grid, self.block, self.given)


class _Listening(threading.local):
    recording: Any = None  # the Recording or Rehearsal that hears this thread's launches


listening = _Listening()
KERNELS: list[Kernel] = []


def kernel(
    signature: str, *, name: str | None = None, registers: int = 64, **options: Any
) -> Callable[[Callable], Kernel]:
    """Declare a kernel; arguments as `Kernel`'s. registers: how many a thread may use at most, which
    `code.py` checks."""

    def declare(function: Callable) -> Kernel:
        declared = Kernel(function, signature, registers, **options)
        if name is not None:
            declared.name = name
        KERNELS.append(declared)
        return declared

    return declare


def device_function(function: Callable) -> Callable:
    """A function that kernels call. Where it touches `cuda`, it stands in one file with them.

    The simulator puts itself in the place of `cuda` in the file of the kernel that runs, and there only.
    """
    return function if SIMULATED else cuda.jit(device=True)(function)


class Elements(NamedTuple):
    """An array as `launch` takes it: a stretch of device memory, which stays taken until then.

    memory: the lease of `storage.py`. Of a copy that is made for one launch nothing else may be left, and
    what is given back would be handed out to the next such copy of the same launch. seen_as: another type
    for the same bytes.
    """

    memory: Any
    first: int
    end: int
    seen_as: Any = None

    def view(self, dtype: Any) -> Elements:
        """The same bytes as elements of another type."""
        return self._replace(seen_as=dtype)

    def given(self) -> Any:
        """What the kernel gets.

        On a GPU there may be more behind the end: kernels are told how many to touch, and cutting a device
        array takes Python longer than launching. The simulator cuts, and so sees a kernel that reads too far.
        """
        elements = self.cut() if SIMULATED or self.first else self.memory.elements
        return elements if self.seen_as is None else elements.view(self.seen_as)

    def after(self, count: int) -> Elements:
        """All but the first `count`."""
        return self._replace(first=self.first + count)

    @property
    def is_aligned(self) -> bool:
        """Whether they begin at a multiple of 16 bytes, as loads of 128 bits want it; memory itself does."""
        start = self.first * self.memory.elements.dtype.itemsize
        return (start + (self.memory.elements.ctypes.data if SIMULATED else 0)) % 16 == 0

    def cut(self) -> Any:
        """These elements and no more, of their own type."""
        return self.memory.elements[self.first : self.end]


def inline_function(function: Callable) -> Callable:
    """A `device_function` whose body takes the place of every call, however long it is.

    For functions that work on local arrays: only where all their indices become constants are these
    registers.
    """
    options = {} if SIMULATED else {"forceinline": True}
    return function if SIMULATED else cuda.jit(device=True, **options)(function)


def unrolled(body: Callable, count: int) -> Callable:
    """run(first, state): body(first, state), body(first + 1, state) and so on, `count` times, without a loop.

    body: an inline function. The compiler unrolls short loops by itself, and those of a long body not.
    """
    if count == 1:
        return body
    half = count // 2
    one, other = unrolled(body, half), unrolled(body, count - half)

    @inline_function
    def run(first: Any, state: Any) -> None:
        one(first, state)
        other(first + half, state)

    return run


def launch(kernel: Kernel, size: int, *arguments: Any) -> None:
    """Run a kernel that strides over `size` elements; nothing happens for none."""
    if size:
        kernel.run(min(-(-size // BLOCK), _MOST_BLOCKS), BLOCK, arguments)


def launch_blocks(kernel: Kernel, grid: tuple[int, ...], block: int, *arguments: Any) -> None:
    """Run a kernel on a grid of blocks with `block` threads each; nothing happens for an empty grid."""
    if all(grid):
        kernel.run(grid, block, arguments)


@functools.cache
def stream() -> Any:
    """The stream on which all kernels run, and copies that they wait for.

    Not CUDA's default stream: that one waits for all others, so nothing could be copied beside a kernel, and
    it cannot be captured as a graph.
    """
    return cuda.stream()


def repeated(launches: Sequence[Launch]) -> Callable[[], None]:
    """A function that does these launches again: one CUDA graph; in the simulator one launch after another.

    Each kernel must have run before: nothing may be compiled or loaded while a graph is captured. Where the
    driver captures none, a RuntimeWarning says why, and they are launched one by one.
    """

    def one_by_one() -> None:
        for launch in launches:
            launch.run()

    if SIMULATED:
        return one_by_one
    try:
        return _captured(one_by_one)
    except Exception as error:  # of many kinds: the driver's, its bindings' and Numba's
        warnings.warn(
            f"device 'cuda': no graph was captured, launches go one by one: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return one_by_one


def _captured(run: Callable[[], None]) -> Callable[[], None]:
    """What launches, as one CUDA graph, all that `run` launches. The graph does not keep memory alive."""
    ours = importlib.import_module("cuda.core").Stream.from_handle(int(stream()))  # numba-cuda brings it
    builder = ours.create_graph_builder().begin_building()
    try:
        run()
    finally:  # else the stream would be captured for ever
        builder.end_building()
    graph = builder.complete()
    return lambda: graph.launch(ours)


def event() -> Any:
    """A mark in a stream that another stream or the host can wait for."""
    return cuda.event(**({} if SIMULATED else {"timing": False}))


@functools.cache
def require_device() -> None:
    """Raises NoDeviceError, which says what is missing, if no kernel can run here."""
    if not SIMULATED and not cuda.is_available():
        raise NoDeviceError(
            "device 'cuda': no NVIDIA GPU or driver was found (does nvidia-smi list one?); use device 'cpu'"
        )


def _scalar_functions() -> Iterator[Any]:
    if SIMULATED:
        yield from (np.arctan2, np.cos, np.exp, np.expm1, np.fmod, np.isinf, np.isnan)
        yield from (np.log, np.log1p, np.log2, np.sin, np.sqrt, np.tan, np.tanh)
        yield from (np.ceil, np.floor, np.rint, np.trunc)
    else:
        yield from (math.atan2, math.cos, math.exp, math.expm1, math.fmod, math.isinf, math.isnan)
        yield from (math.log, math.log1p, math.log2, math.sin, math.sqrt, math.tan, math.tanh)
        device = getattr(cuda, "libdevice")  # noqa: B009  (numba-cuda has it, its ancestor in Numba not)
        # in Python, and so in Numba, math.floor gives a whole number
        yield from (device.ceilf, device.floorf, device.rintf, device.truncf)


(
    atan2,
    cos,
    exp,
    expm1,
    fmod,
    isinf,
    isnan,
    log,
    log1p,
    log2,
    sin,
    sqrt,
    tan,
    tanh,
    ceil,
    floor,
    rint,
    trunc,
) = _scalar_functions()


def _simulated_erf(x: Any) -> Any:
    return np.float32(math.erf(x))


erf = _simulated_erf if SIMULATED else math.erf
