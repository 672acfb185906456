"""The engines that are compared: how each builds a net and runs a training step or a forward pass.

Engines are imported where they are used, so that a process holds one of them only. The processes and the
stopwatch are in `worker.py` and `steps.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bench.nets import NETS

CLASSES = 10
LEARNING_RATE, MOMENTUM = 1e-4, 0.9  # small: thousands of steps on one batch must stay finite


class Unavailable(RuntimeError):
    """An engine that is not installed here."""


class Engine(NamedTuple):
    """What can be run, and facts for the record.

    step: one training step. forward: one pass without gradients. loss: that of the batch at hand.
    """

    step: Callable[[], None]
    forward: Callable[[], Any]
    loss: Callable[[], float]
    facts: Callable[[], dict[str, Any]]


def random_batch(net: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal images (N, C, H, W) float32 and labels (N,) int64, always the same."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, *NETS[net].image_shape), dtype=np.float32)
    return images, rng.integers(0, CLASSES, batch)


def make_minicnn(net: str, *, batch: int, threads: int, compiled: bool) -> Engine:
    """minicnn through its public API and tape; compiled as `fit` does, or module by module."""
    import minicnn
    from minicnn import nn, optim
    from minicnn.nn import functional as F

    minicnn.set_num_threads(threads)
    images, labels = (minicnn.from_numpy(array) for array in random_batch(net, batch))
    model = NETS[net].build(nn)
    frozen = copy.deepcopy(model).eval()
    optimizer = optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    if compiled:
        model, frozen = minicnn.compile(model), minicnn.compile(frozen)

    def step() -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    def forward() -> Any:
        with minicnn.no_grad():
            return frozen(images)

    def loss() -> float:
        return F.cross_entropy(model(images), labels).item()

    def facts() -> dict[str, Any]:
        import numba

        return {
            "version": minicnn.__version__,
            "numba": numba.__version__,
            "threading_layer": numba.threading_layer(),
            "threads": minicnn.get_num_threads(),
        }

    return Engine(step, forward, loss, facts)


def make_torch(
    net: str, *, batch: int, threads: int, channels_last: bool = False, compiled: bool = False
) -> Engine:
    """PyTorch on the CPU: eager, with channels-last memory, or through torch.compile."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise Unavailable("PyTorch is not installed") from error
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images, labels = (torch.from_numpy(array) for array in random_batch(net, batch))
    model = NETS[net].build(nn)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    frozen = copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    if compiled:
        model, frozen = torch.compile(model), torch.compile(frozen)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    def forward() -> Any:
        with torch.inference_mode():
            return frozen(images)

    def loss() -> float:
        return F.cross_entropy(model(images), labels).item()

    def facts() -> dict[str, Any]:
        return {"version": torch.__version__, "threads": torch.get_num_threads()}

    return Engine(step, forward, loss, facts)


def make(name: str, net: str, *, batch: int, threads: int) -> Engine:
    """The engine called `name`. Raises Unavailable if it is not installed."""
    if name in MINICNN_VARIANTS:
        return make_minicnn(net, batch=batch, threads=threads, **MINICNN_VARIANTS[name])
    return make_torch(net, batch=batch, threads=threads, **TORCH_VARIANTS[name])


MINICNN_VARIANTS: dict[str, dict[str, bool]] = {
    "minicnn": {"compiled": True},
    "minicnn-eager": {"compiled": False},
}
TORCH_VARIANTS: dict[str, dict[str, bool]] = {
    "torch": {},
    "torch-channels-last": {"channels_last": True},
    "torch-compile": {"compiled": True},
}
ENGINES = (*MINICNN_VARIANTS, *TORCH_VARIANTS)
