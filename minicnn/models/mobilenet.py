"""MobileNet (Howard et al. 2017), depthwise separable convolutions, in the paper's size and a small one."""

from __future__ import annotations

from collections.abc import Sequence

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
    """conv 3x3 32, separable convolutions, global average, fc.

    plan: (filters, stride) of each separable convolution. stem_stride: of the first. dropout: before fc.
    136,202 parameters for one input channel and ten classes.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        num_classes: int = 10,
        dropout: float = 0.0,
        *,
        plan: Sequence[tuple[int, int]] = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
        stem_stride: int = 1,
    ) -> None:
        image_sides(self, image_size)
        layers: dict[str, nn.Module] = {
            "conv": nn.Conv2d(in_channels, 32, 3, stem_stride, padding=1, bias=False),
            "bn": nn.BatchNorm2d(32),
            "relu": nn.ReLU(),
        }
        channels = 32
        for i, (filters, stride) in enumerate(plan, 1):
            layers[f"block{i}"] = Separable(channels, filters, stride)
            channels = filters
        layers |= {
            "pool": nn.GlobalAvgPool(),
            "dropout": nn.Dropout(dropout),
            "fc": nn.Linear(channels, num_classes),
        }
        super().__init__(layers)


class MobileNet224(MobileNet):
    """The paper's network of width 1: thirteen separable convolutions up to 1024 channels.

    4,231,976 parameters for three input channels and a thousand classes.
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        dropout: float = 0.0,
    ) -> None:
        plan = (
            (64, 1),
            (128, 2),
            (128, 1),
            (256, 2),
            (256, 1),
            (512, 2),
            *[(512, 1)] * 5,
            (1024, 2),
            (1024, 1),
        )
        super().__init__(in_channels, image_size, num_classes, dropout, plan=plan, stem_stride=2)
