"""A multi-layer perceptron: dense layers in a row."""

from __future__ import annotations

from collections.abc import Sequence

from minicnn import nn
from minicnn.models.sizes import image_sides


class MLP(nn.Sequential):
    """Dense layers with ReLU between them, on all pixels in a row.

    hidden: units of each layer before the last. dropout: before the last layer. 50,890 parameters for 1x28x28
    and ten classes; the net 32-64-10 on 32 numbers is MLP(32, 1), with 2,762.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        num_classes: int = 10,
        dropout: float = 0.0,
        *,
        hidden: Sequence[int] = (64,),
    ) -> None:
        height, width = image_sides(self, image_size)
        layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
        features = in_channels * height * width
        for i, units in enumerate(hidden, 1):
            layers |= {f"fc{i}": nn.Linear(features, units), f"relu{i}": nn.ReLU()}
            features = units
        layers |= {"dropout": nn.Dropout(dropout), f"fc{len(hidden) + 1}": nn.Linear(features, num_classes)}
        super().__init__(layers)
