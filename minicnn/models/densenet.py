"""Densely connected networks for small images (Huang et al. 2017): a layer reads all that came before it."""

from __future__ import annotations

from collections.abc import Sequence

from minicnn import nn
from minicnn.functions import cat
from minicnn.models.sizes import image_sides
from minicnn.tensor import Tensor


class DenseLayer(nn.Module):
    """cat(x, conv3x3(relu(bn(conv1x1(relu(bn(x))))))): (N, C, H, W) becomes (N, C + growth, H, W).

    The 1x1 convolution, the bottleneck, has 4 growth filters.
    """

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        x = self.conv1(self.relu1(self.bn1(input)))
        x = self.conv2(self.relu2(self.bn2(x)))
        return cat([input, x], dim=1)


class Transition(nn.Sequential):
    """Between two blocks: fewer channels by a 1x1 convolution, half the pixels a side by averaging."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            {
                "bn": nn.BatchNorm2d(in_channels),
                "relu": nn.ReLU(),
                "conv": nn.Conv2d(in_channels, out_channels, 1, bias=False),
                "pool": nn.AvgPool2d(2),
            }
        )


class DenseNet(nn.Sequential):
    """DenseNet-BC: conv 3x3, dense blocks with transitions between them, global average, fc.

    growth: channels that each layer adds. layers: how many each block has; the paper's L is 2 sum(layers) + 4
    for three blocks. compression: share of the channels that a transition keeps. dropout: before fc.
    For images of 4 pixels and more a side with three blocks. 102,298 parameters for 1x28x28 and ten classes;
    769,162 for 3x32x32, growth 12 and layers (16, 16, 16), the paper's L = 100.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        num_classes: int = 10,
        dropout: float = 0.0,
        *,
        growth: int = 12,
        layers: Sequence[int] = (4, 4, 4),
        compression: float = 0.5,
    ) -> None:
        image_sides(self, image_size, minimum=2 ** (len(layers) - 1))
        if not 0 < compression <= 1:
            raise ValueError(f"{type(self).__name__}: expected 0 < compression <= 1, got {compression!r}")
        channels = 2 * growth
        parts: dict[str, nn.Module] = {"conv": nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)}
        for i, count in enumerate(layers, 1):
            parts[f"block{i}"] = nn.Sequential(
                *(DenseLayer(channels + j * growth, growth) for j in range(count))
            )
            channels += count * growth
            if i < len(layers):
                kept = int(compression * channels)
                parts[f"transition{i}"] = Transition(channels, kept)
                channels = kept
        parts |= {
            "bn": nn.BatchNorm2d(channels),
            "relu": nn.ReLU(),
            "pool": nn.GlobalAvgPool(),
            "dropout": nn.Dropout(dropout),
            "fc": nn.Linear(channels, num_classes),
        }
        super().__init__(parts)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
