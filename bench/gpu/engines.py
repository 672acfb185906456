"""What is timed on a GPU: matrix products and training steps, of ours and of the libraries of others.

A run is several products or steps and one wait for the device: launches overlap with kernels as they do in
training, and the wait counts little. Both sides get the same inputs, and results are checked first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.nets import CLASSES, LEARNING_RATE, MOMENTUM, NETS, Net, random_batch
from bench.worker import Engine, Mode, Unavailable, Wrong, training

PRODUCT_ENGINES = ("minicnn", "cublas by torch", "cublas by cupy")
STEP_ENGINES = ("minicnn", "minicnn, launch by launch", "torch")
_IN_ONE_RUN = 10
_CHECKED_ROWS = 8
_ALLOWED = {"float32": 1e-5, "tf32": 2e-3}  # error as a part of the largest element


def make_product(name: str, *, size: int, precision: str) -> Engine:
    """a @ b of (size, size) matrices on the device."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size), np.float32) for _ in range(2))
    multiply, wait, on_host, facts = _PRODUCTS[name](a, b, precision)

    def prepare(mode: str) -> Mode:
        exact = a[:_CHECKED_ROWS].astype(np.float64) @ b
        error = float(np.abs(on_host(multiply())[:_CHECKED_ROWS] - exact).max() / np.abs(exact).max())
        if not error <= _ALLOWED[precision]:
            raise Wrong(f"a wrong product: off by {error:.1e} of the largest element")
        return Mode(_several(multiply, wait), error)

    return Engine(prepare, lambda: facts)


def _several(run: Callable[[], Any], wait: Callable[[], None]) -> Callable[[], None]:
    from minicnn_kernels.cuda.driver import SIMULATED

    def runs() -> None:
        for _ in range(1 if SIMULATED else _IN_ONE_RUN):
            run()
        wait()

    return runs


def _ours(a: np.ndarray, b: np.ndarray, precision: str) -> tuple[Any, ...]:
    import minicnn_kernels as kernels
    from minicnn_kernels import cuda

    kernels.set_algorithm("matmul", precision)
    on_device = [cuda.to_device(x) for x in (a, b)]
    return lambda: cuda.matmul(*on_device), _wait_for_ours, cuda.to_host, {}


def _wait_for_ours() -> None:
    from minicnn_kernels.cuda import driver

    driver.stream().synchronize()


def _torch() -> Any:
    """PyTorch with a GPU. Raises Unavailable."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise Unavailable("PyTorch is not installed") from error
    if not torch.cuda.is_available():
        raise Unavailable("PyTorch sees no GPU")
    return torch


def _by_torch(a: np.ndarray, b: np.ndarray, precision: str) -> tuple[Any, ...]:
    torch = _torch()
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    left, right = (torch.from_numpy(x).cuda() for x in (a, b))
    facts = {"version": torch.__version__, "cuda": torch.version.cuda}
    return lambda: left @ right, torch.cuda.synchronize, lambda y: y.cpu().numpy(), facts


def _by_cupy(a: np.ndarray, b: np.ndarray, precision: str) -> tuple[Any, ...]:
    try:
        import cupy
    except ModuleNotFoundError as error:
        raise Unavailable("CuPy is not installed") from error
    if not cupy.cuda.is_available():
        raise Unavailable("CuPy sees no GPU")
    from cupy._core import _routines_linalg as kinds  # its documented switch, CUPY_TF32, is read at import

    kinds.set_compute_type(np.float32, getattr(kinds, _CUPY_KINDS[precision]))
    left, right = cupy.asarray(a), cupy.asarray(b)
    wait = cupy.cuda.get_current_stream().synchronize
    return lambda: left @ right, wait, cupy.asnumpy, {"version": cupy.__version__}


_CUPY_KINDS = {"float32": "COMPUTE_TYPE_FP32", "tf32": "COMPUTE_TYPE_TF32"}
_PRODUCTS = {"minicnn": _ours, "cublas by torch": _by_torch, "cublas by cupy": _by_cupy}


def _tiny(nn: Any) -> Any:
    """Every kind of layer that the nets have, small enough for the simulator."""
    layers = [nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * 3 * 3, CLASSES))


ALL_NETS = {**NETS, "tiny": Net(_tiny, (1, 6, 6))}


def make_step(name: str, *, net: str, batch: int) -> Engine:
    """Forward, loss, backward and SGD with momentum, on images that are on the device already."""
    engine = {"minicnn": _our_step, "minicnn, launch by launch": _our_plain_step, "torch": _torch_step}[name]
    return engine(net, batch)


def our_step(net: str, batch: int, *, recorded: bool) -> tuple[Callable[[], None], Callable[[], float]]:
    """(a training step as `fit` runs it, the loss now). recorded: launches as two CUDA graphs."""
    import minicnn
    from minicnn import nn, optim
    from minicnn.graph import compile_step, compile_update
    from minicnn.nn import functional as F

    images, labels = (minicnn.from_numpy(x).cuda() for x in _batch(net, batch))
    model = ALL_NETS[net].build(nn).cuda()
    optimizer = optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    compiled = minicnn.compile(model)

    def gradients(images: Any, labels: Any) -> Any:
        loss = F.cross_entropy(compiled(images), labels)
        loss.backward()
        return loss.detach()

    taken = compile_step(gradients, model) if recorded else gradients
    update = compile_update(optimizer.step, model) if recorded else optimizer.step

    def step() -> None:
        optimizer.zero_grad()
        taken(images, labels)
        update()

    return step, lambda: F.cross_entropy(model(images), labels).item()


def _our_step(net: str, batch: int) -> Engine:
    step, loss = our_step(net, batch, recorded=True)
    return _training(step, loss, _wait_for_ours, {})


def _our_plain_step(net: str, batch: int) -> Engine:
    step, loss = our_step(net, batch, recorded=False)
    return _training(step, loss, _wait_for_ours, {})


def _torch_step(net: str, batch: int) -> Engine:
    torch = _torch()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True  # the quickest of its algorithms, as one would train
    from torch import nn
    from torch.nn import functional as F

    images, labels = (torch.from_numpy(x).cuda() for x in _batch(net, batch))
    model = ALL_NETS[net].build(nn).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    facts = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    return _training(
        step, lambda: F.cross_entropy(model(images), labels).item(), torch.cuda.synchronize, facts
    )


def _training(step: Any, loss: Any, wait: Any, facts: dict[str, Any]) -> Engine:
    engine = training(_several(step, wait), loss, lambda: facts)
    return engine._replace(prepare=lambda mode: engine.prepare("step"))


def _batch(net: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
    if net in NETS:
        return random_batch(net, batch)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, *ALL_NETS[net].image_shape), dtype=np.float32)
    return images, rng.integers(0, CLASSES, batch)
