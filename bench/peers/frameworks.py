"""The training step of W2 in other frameworks, each written the way its own examples are.

Weights are the frameworks' own random ones; batch, loss, learning rate and momentum are those of
`nets.py`. None of them has a switch for the number of threads that holds everywhere: the process is bound
to so many cores before the framework is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import numpy as np

from bench.nets import LEARNING_RATE, MOMENTUM, random_batch
from bench.worker import Engine, Unavailable, training

CHANNELS = (1, 32, 64)
FEATURES = (3136, 128, 10)


def make_jax(net: str, *, batch: int, threads: int) -> Engine:
    """JAX: one jitted function for the whole step, parameters given away to it (donated)."""
    jax = _import("jax", net, threads)
    import jax.numpy as jnp

    images, labels = (jnp.asarray(array) for array in random_batch(net, batch))
    rng = np.random.default_rng(0)
    weights = [_he(rng, o, c, 3, 3) for c, o in pairwise(CHANNELS)]
    weights += [_he(rng, o, i) for i, o in pairwise(FEATURES)]
    parameters = [(jnp.asarray(w), jnp.zeros(len(w), jnp.float32)) for w in weights]
    momenta = jax.tree.map(jnp.zeros_like, parameters)

    def loss_of(parameters: Any) -> Any:
        x = images
        for weight, bias in parameters[:2]:
            x = jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME") + bias[:, None, None]
            x = jax.lax.reduce_window(
                jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID"
            )
        (w1, b1), (w2, b2) = parameters[2:]
        logits = jax.nn.relu(x.reshape(batch, -1) @ w1.T + b1) @ w2.T + b2
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(batch), labels])

    def update(parameters: Any, momenta: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(parameters)
        momenta = jax.tree.map(lambda v, g: MOMENTUM * v + g, momenta, gradients)
        return loss, jax.tree.map(lambda p, v: p - LEARNING_RATE * v, parameters, momenta), momenta

    update = jax.jit(update, donate_argnums=(0, 1))
    state: list[Any] = [None, parameters, momenta]

    def step() -> None:
        state[:] = jax.block_until_ready(update(*state[1:]))

    return training(step, lambda: float(loss_of(state[1])), lambda: {"version": jax.__version__})


def make_tinygrad(net: str, *, batch: int, threads: int) -> Engine:
    """tinygrad on its CPU device, the step captured by TinyJit."""
    os.environ |= {"DEV": "CPU", "TRAINING": "1"}  # read when it is imported
    _import("tinygrad", net, threads)
    from tinygrad import Device, Tensor, TinyJit, nn

    images, labels = random_batch(net, batch)
    x, y = Tensor(images), Tensor(labels.astype(np.int32))
    convolutions = [nn.Conv2d(c, o, 3, padding=1) for c, o in pairwise(CHANNELS)]
    dense = [nn.Linear(i, o) for i, o in pairwise(FEATURES)]
    parameters = nn.state.get_parameters([convolutions, dense])
    optimizer = nn.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM)

    def loss_of() -> Any:
        result: Any = x
        for layer in convolutions:
            result = layer(result).relu().max_pool2d()
        return dense[1](dense[0](result.flatten(1)).relu()).sparse_categorical_crossentropy(y)

    @TinyJit
    def update() -> Any:
        optimizer.zero_grad()
        loss = loss_of().backward()
        return loss.realize(*optimizer.schedule_step())

    def step() -> None:
        update()

        Device["CPU"].synchronize()

    def loss() -> float:
        return loss_of().item()

    try:
        step()
    except (RuntimeError, OSError) as error:
        raise Unavailable(f"tinygrad cannot compile for the CPU: {error}") from error  # it wants clang
    return training(step, loss, lambda: {"version": version("tinygrad")})


def make_dezero(net: str, *, batch: int, threads: int) -> Engine:
    """DeZero ('Deep Learning from Scratch 3'): im2col and NumPy."""
    vars(np)["int"] = int  # an alias that NumPy had when DeZero 0.0.13 was released, in 2020
    dezero: Any = _import("dezero", net, threads)
    import dezero.functions as F
    import dezero.layers as L

    images, labels = random_batch(net, batch)

    class Model(dezero.Model):  # type: ignore[name-defined]  # a module that is imported by name
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = L.Conv2d(CHANNELS[1], 3, pad=1)
            self.conv2 = L.Conv2d(CHANNELS[2], 3, pad=1)
            self.fc1, self.fc2 = L.Linear(FEATURES[1]), L.Linear(FEATURES[2])

        def forward(self, x: Any) -> Any:
            for layer in (self.conv1, self.conv2):
                x = F.pooling(F.relu(layer(x)), 2, 2)
            return self.fc2(F.relu(self.fc1(F.reshape(x, (x.shape[0], -1)))))

    model = Model()
    optimizer = dezero.optimizers.MomentumSGD(LEARNING_RATE, MOMENTUM).setup(model)

    def loss_of() -> Any:
        return F.softmax_cross_entropy(model(images), labels)

    def step() -> None:
        loss = loss_of()
        model.cleargrads()
        loss.backward()
        optimizer.update()

    return training(step, lambda: float(loss_of().data), lambda: {"version": version("dezero")})


def make_minitorch(net: str, *, batch: int, threads: int) -> Engine:
    """MiniTorch, a course: its published code leaves the kernels as exercises, and no registry has it."""
    raise Unavailable("MiniTorch is not in the package registry, and its kernels are exercises")


def _he(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """He-normal weights (outputs, ...)."""
    scale = np.sqrt(2 / np.prod(shape[1:]))
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def _import(module: str, net: str, threads: int) -> Any:
    """Import a framework into a process that has `threads` cores."""
    if net != "W2":
        raise Unavailable(f"{module} has only W2 here")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    try:
        return import_module(module)
    except ImportError as error:
        raise Unavailable(f"{module} is not installed") from error


FRAMEWORKS: dict[str, Callable[..., Engine]] = {
    "jax": make_jax,
    "tinygrad": make_tinygrad,
    "dezero": make_dezero,
    "minitorch": make_minitorch,
}
