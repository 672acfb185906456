"""The networks of the benchmarks, written once for every engine: `nn` is `minicnn.nn` or `torch.nn`.

That one definition serves both is itself a check of the public API. Every engine trains them on the same
batch with the same constants; how is in `engines.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

CLASSES = 10
LEARNING_RATE, MOMENTUM = 1e-4, 0.9  # small: thousands of steps on one batch must stay finite


class Net(NamedTuple):
    """A network and the shape (C, H, W) of the images it takes."""

    build: Callable[[Any], Any]
    image_shape: tuple[int, int, int]


def _two_convolutions(nn: Any, channels: int, pixels: int) -> Any:
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (pixels // 4) ** 2, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def _four_convolutions(nn: Any) -> Any:
    layers, channels = [], 3
    for width in (32, 64, 128, 256):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))


def _resnet20(nn: Any) -> Any:
    """He et al. 2016, section 4.2; shortcuts without parameters (their option A)."""

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.relu1 = nn.ReLU()
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.relu2 = nn.ReLU()
            self.stride, self.added = stride, outputs - inputs

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
            if self.stride > 1:  # every other pixel, and zeros for the new channels
                x = x[:, :, :: self.stride, :: self.stride]
                x = nn.functional.pad(x, (0, 0, 0, 0, self.added // 2, self.added // 2))
            return self.relu2(y + x)

    blocks, channels = [], 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        for i in range(3):
            blocks.append(Block(channels, width, stride if i == 0 else 1))
            channels = width
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


NETS = {
    "W1": Net(lambda nn: _two_convolutions(nn, 3, 32), (3, 32, 32)),
    "W2": Net(lambda nn: _two_convolutions(nn, 1, 28), (1, 28, 28)),
    "W3": Net(_four_convolutions, (3, 32, 32)),
    "R20": Net(_resnet20, (3, 32, 32)),
}


def random_batch(net: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal images (N, C, H, W) float32 and labels (N,) int64, always the same."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, *NETS[net].image_shape), dtype=np.float32)
    return images, rng.integers(0, CLASSES, batch)
