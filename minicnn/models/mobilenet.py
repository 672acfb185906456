"""A small network of depthwise separable convolutions, in the manner of MobileNet (Howard et al. 2017)."""

from __future__ import annotations

from minicnn import nn
from minicnn.models.sizes import image_sides


class Separable(nn.Sequential):
    """A 3x3 convolution of each channel alone, then a 1x1 convolution across channels, both normalized."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(
            {
                "depthwise": nn.Conv2d(
                    in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False
                ),
                "bn1": nn.BatchNorm2d(in_channels),
                "relu1": nn.ReLU(),
                "pointwise": nn.Conv2d(in_channels, out_channels, 1, bias=False),
                "bn2": nn.BatchNorm2d(out_channels),
                "relu2": nn.ReLU(),
            }
        )


class MobileNet(nn.Sequential):
    """conv 3x3 32, five separable convolutions up to 256 channels, global average, fc.

    dropout: before fc. 136,202 parameters for one input channel and ten classes.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        num_classes: int = 10,
        dropout: float = 0.0,
    ) -> None:
        image_sides(self, image_size)
        layers: dict[str, nn.Module] = {
            "conv": nn.Conv2d(in_channels, 32, 3, padding=1, bias=False),
            "bn": nn.BatchNorm2d(32),
            "relu": nn.ReLU(),
        }
        channels = 32
        plan = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1))
        for i, (filters, stride) in enumerate(plan, 1):
            layers[f"block{i}"] = Separable(channels, filters, stride)
            channels = filters
        layers |= {
            "pool": nn.GlobalAvgPool(),
            "dropout": nn.Dropout(dropout),
            "fc": nn.Linear(channels, num_classes),
        }
        super().__init__(layers)
