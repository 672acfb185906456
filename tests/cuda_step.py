"""A small network trained for some steps on the host and on device "cuda", and the losses side by side.

Run by `test_cuda.py` in a process of its own, because the simulator is chosen when Numba is imported. Prints
one line of JSON: for each optimizer the losses on both. On the host the reference computes: it compiles
nothing, and the cpu's kernels equal it by their own tests.
"""

from __future__ import annotations

import copy
import json

import numpy as np

import minicnn
import minicnn_kernels as kernels
from minicnn import nn, optim

STEPS = 3


def network() -> nn.Module:
    """Every kind of layer that a small CNN has."""
    return nn.Sequential(
        nn.Conv2d(1, 3, kernel_size=3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(4 * 2 * 2, 5),
    )


OPTIMIZERS = {
    "sgd": lambda parameters: optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda parameters: optim.Adam(parameters, lr=0.01),
}


def losses(
    model: nn.Module, images: minicnn.Tensor, labels: minicnn.Tensor, make: object, device: str
) -> list[float]:
    """The loss before each step."""
    model = copy.deepcopy(model).to(device)
    images, labels = images.to(device), labels.to(device)
    optimizer = make(model.parameters())
    minicnn.manual_seed(1)  # the masks of dropout
    found = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert all(parameter.device == device for parameter in model.parameters())
    return found


def on_host(*arguments: object) -> list[float]:
    """`losses` by the reference."""
    with kernels.use("reference"):
        return losses(*arguments, "cpu")


def main() -> None:
    """Train with each optimizer on host and device."""
    minicnn.manual_seed(0)
    with kernels.use("reference"):
        model = network()
    rng = np.random.default_rng(0)
    images = minicnn.tensor(rng.standard_normal((4, 1, 8, 8)).astype(np.float32))
    labels = minicnn.tensor(rng.integers(0, 5, 4))
    print(
        json.dumps(
            {
                name: [on_host(model, images, labels, make), losses(model, images, labels, make, "cuda")]
                for name, make in OPTIMIZERS.items()
            }
        )
    )


if __name__ == "__main__":
    main()
