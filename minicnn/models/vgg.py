"""A small network in the manner of VGG (Simonyan and Zisserman 2015), with batch normalization."""

from __future__ import annotations

from collections.abc import Sequence

from minicnn import nn
from minicnn.models.sizes import image_sides
from minicnn.tensor import Tensor


class VGG(nn.Module):
    """Blocks of two 3x3 convolutions and a pooling, then fc 256 and fc num_classes.

    widths: filters of each block. dropout: before the last layer.
    584,618 parameters for 1x28x28 and ten classes.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        num_classes: int = 10,
        dropout: float = 0.0,
        *,
        widths: Sequence[int] = (32, 64, 128),
    ) -> None:
        super().__init__()
        height, width = image_sides(self, image_size, minimum=2 ** len(widths))
        self.features = nn.Sequential()
        channels = in_channels
        for filters in widths:
            for inputs in (channels, filters):
                self.features.append(nn.Conv2d(inputs, filters, 3, padding=1, bias=False))
                self.features.append(nn.BatchNorm2d(filters))
                self.features.append(nn.ReLU())
            self.features.append(nn.MaxPool2d(2))
            channels = filters
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * (height >> len(widths)) * (width >> len(widths)), 256),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(256, num_classes),
        )

    def forward(self, input: Tensor) -> Tensor:
        return self.classifier(self.features(input))
