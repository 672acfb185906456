"""The Inception block (Szegedy et al. 2015) and a small network of such blocks."""

from __future__ import annotations

from minicnn import nn
from minicnn.functions import cat
from minicnn.models.sizes import image_sides
from minicnn.tensor import Tensor


def _conv(in_channels: int, out_channels: int, kernel_size: int, batch_norm: bool) -> nn.Sequential:
    """A convolution that keeps the image's size, with ReLU."""
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not batch_norm
        )
    }
    if batch_norm:
        layers["bn"] = nn.BatchNorm2d(out_channels)
    return nn.Sequential(layers | {"relu": nn.ReLU()})


class Inception(nn.Module):
    """Four views of one input side by side: 1x1, 1x1 then 3x3, 1x1 then 5x5, 3x3 max-pooling then 1x1.

    (N, in_channels, H, W) becomes (N, ones + threes + fives + pooled, H, W). The 1x1 convolutions before the
    wide ones reduce the channels, `reduce_threes` and `reduce_fives`, and with them the work.
    batch_norm: normalize each convolution, as in the paper's successor (Ioffe and Szegedy 2015).
    The paper's block 3a, Inception(192, 64, 96, 128, 16, 32, 32), has 163,696 parameters.
    """

    def __init__(
        self,
        in_channels: int,
        ones: int,
        reduce_threes: int,
        threes: int,
        reduce_fives: int,
        fives: int,
        pooled: int,
        *,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.branch1 = _conv(in_channels, ones, 1, batch_norm)
        self.branch2 = nn.Sequential(
            _conv(in_channels, reduce_threes, 1, batch_norm), _conv(reduce_threes, threes, 3, batch_norm)
        )
        self.branch3 = nn.Sequential(
            _conv(in_channels, reduce_fives, 1, batch_norm), _conv(reduce_fives, fives, 5, batch_norm)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), _conv(in_channels, pooled, 1, batch_norm)
        )

    def forward(self, input: Tensor) -> Tensor:
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return cat([branch(input) for branch in branches], dim=1)


class InceptionNet(nn.Sequential):
    """conv 3x3 32, pool, two Inception blocks, pool, two more, global average, fc; all normalized.

    dropout: before fc. For images of 4 pixels and more a side. 118,490 parameters for one input channel and
    ten classes.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        num_classes: int = 10,
        dropout: float = 0.0,
    ) -> None:
        image_sides(self, image_size, minimum=4)
        super().__init__(
            {
                "stem": _conv(in_channels, 32, 3, batch_norm=True),
                "pool1": nn.MaxPool2d(2),
                "block1": Inception(32, 16, 24, 32, 4, 8, 8, batch_norm=True),
                "block2": Inception(64, 32, 32, 48, 8, 24, 16, batch_norm=True),
                "pool2": nn.MaxPool2d(2),
                "block3": Inception(120, 48, 24, 52, 4, 12, 16, batch_norm=True),
                "block4": Inception(128, 64, 48, 80, 8, 24, 24, batch_norm=True),
                "pool3": nn.GlobalAvgPool(),
                "dropout": nn.Dropout(dropout),
                "fc": nn.Linear(192, num_classes),
            }
        )
