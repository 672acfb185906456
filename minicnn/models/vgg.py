"""VGG-16 (Simonyan and Zisserman 2015) and a small network in its manner, with batch normalization."""

from __future__ import annotations

from collections.abc import Sequence

from minicnn import nn
from minicnn.models.sizes import image_sides
from minicnn.tensor import Tensor


class VGG(nn.Module):
    """Blocks of 3x3 convolutions and a pooling, then dense layers.

    widths: filters of each block. convolutions: how many each block has, one number for all or one for each.
    units: of the dense layers before the last. dropout: after each of them. batch_norm: normalize after each
    convolution. 584,618 parameters for 1x28x28 and ten classes.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        num_classes: int = 10,
        dropout: float = 0.0,
        *,
        widths: Sequence[int] = (32, 64, 128),
        convolutions: int | Sequence[int] = 2,
        units: Sequence[int] = (256,),
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(convolutions, int):
            convolutions = (convolutions,) * len(widths)
        height, width = image_sides(self, image_size, minimum=2 ** len(widths))
        self.features = nn.Sequential()
        channels = in_channels
        for filters, count in zip(widths, convolutions, strict=True):
            for _ in range(count):
                self.features.append(nn.Conv2d(channels, filters, 3, padding=1, bias=not batch_norm))
                if batch_norm:
                    self.features.append(nn.BatchNorm2d(filters))
                self.features.append(nn.ReLU())
                channels = filters
            self.features.append(nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Flatten())
        features = channels * (height >> len(widths)) * (width >> len(widths))
        for count in units:
            for layer in (nn.Linear(features, count), nn.ReLU(), nn.Dropout(dropout)):
                self.classifier.append(layer)
            features = count
        self.classifier.append(nn.Linear(features, num_classes))

    def forward(self, input: Tensor) -> Tensor:
        return self.classifier(self.features(input))


class VGG16(VGG):
    """The paper's network D: thirteen convolutions up to 512 filters, fc 4096 twice, no normalization.

    138,357,544 parameters for 3x224x224 and a thousand classes.
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(
            in_channels,
            image_size,
            num_classes,
            dropout,
            widths=(64, 128, 256, 512, 512),
            convolutions=(2, 2, 3, 3, 3),
            units=(4096, 4096),
            batch_norm=False,
        )
