"""Training steps of the nets in minicnn and PyTorch: how each engine builds a net, and runs a step.

Engines are imported where they are used, so that a process holds one of them only. Other frameworks are in
`peers/frameworks.py`, forward passes in `peers/inference.py`, the processes in `worker.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.nets import LEARNING_RATE, MOMENTUM, NETS, random_batch
from bench.worker import Engine, Unavailable, training


def make_minicnn(net: str, *, batch: int, threads: int, compiled: bool) -> Engine:
    """minicnn through its public API and tape; compiled as `fit` does, or module by module."""
    import minicnn
    from minicnn import nn, optim
    from minicnn.nn import functional as F

    minicnn.set_num_threads(threads)
    images, labels = (minicnn.from_numpy(array) for array in random_batch(net, batch))
    model = NETS[net].build(nn)
    optimizer = optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    if compiled:
        model = minicnn.compile(model)

    def step() -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    def loss() -> float:
        return F.cross_entropy(model(images), labels).item()

    return training(step, loss, minicnn_facts)


def minicnn_facts() -> dict[str, Any]:
    """What this process runs on."""
    import minicnn
    from minicnn_kernels.cpu.about import about

    machine = about()
    del machine["cache"]  # a folder, of no meaning elsewhere
    return {"version": minicnn.__version__, "threads": minicnn.get_num_threads(), **machine}


def make_torch(
    net: str, *, batch: int, threads: int, channels_last: bool = False, compiled: bool = False
) -> Engine:
    """PyTorch on the CPU: eager, with channels-last memory, or through torch.compile."""
    torch = import_torch(threads)
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)
    images, labels = (torch.from_numpy(array) for array in random_batch(net, batch))
    model = NETS[net].build(nn)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    if compiled:
        model = torch.compile(model)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    def loss() -> float:
        return F.cross_entropy(model(images), labels).item()

    if compiled:
        compile_now(step)
    return training(step, loss, torch_facts)


def import_torch(threads: int) -> Any:
    """PyTorch with so many threads. Raises Unavailable."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise Unavailable("PyTorch is not installed") from error
    torch.set_num_threads(threads)
    return torch


def compile_now(run: Callable[[], Any]) -> None:
    """The first run of what torch.compile gave. Raises Unavailable with the reason if that fails."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    try:
        run()
    except (TorchDynamoException, InductorError, RuntimeError) as error:  # mostly: no C++ compiler
        raise Unavailable(f"torch.compile failed: {str(error).strip().splitlines()[0]}") from error


def torch_facts() -> dict[str, Any]:
    """What this process runs on."""
    import torch

    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
    }


def make(name: str, net: str, *, batch: int, threads: int) -> Engine:
    """The engine called `name`. Raises Unavailable if it is not installed."""
    if name in MINICNN_VARIANTS:
        return make_minicnn(net, batch=batch, threads=threads, **MINICNN_VARIANTS[name])
    if name in TORCH_VARIANTS:
        return make_torch(net, batch=batch, threads=threads, **TORCH_VARIANTS[name])
    from bench.peers.frameworks import FRAMEWORKS

    return FRAMEWORKS[name](net, batch=batch, threads=threads)


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
