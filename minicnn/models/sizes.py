"""The size of the images that a network is made for."""

from __future__ import annotations

from minicnn import nn
from minicnn.nn import arguments


def image_sides(model: nn.Module, image_size: int | tuple[int, int], minimum: int = 1) -> tuple[int, int]:
    """Height and width; image_size is one number or both.

    Raises ValueError below `minimum`, where the network's poolings would leave nothing.
    """
    height, width = arguments.integers(model, "image_size", image_size, 2, minimum)
    return height, width
