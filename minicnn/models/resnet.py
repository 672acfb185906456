"""Residual networks for small images (He et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence

from minicnn import nn
from minicnn.models.sizes import image_sides
from minicnn.nn import arguments
from minicnn.nn import functional as F
from minicnn.tensor import Tensor


class Shortcut(nn.Module):
    """What a block adds when its shape changes, option A: every other pixel, and zeros for new channels."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels, self.stride = out_channels - in_channels, stride

    def forward(self, input: Tensor) -> Tensor:
        before = self.new_channels // 2
        picked = input[:, :, :: self.stride, :: self.stride]
        return F.pad(picked, (0, 0, 0, 0, before, self.new_channels - before))

    def extra_repr(self) -> str:
        return f"new_channels={self.new_channels}, stride={self.stride}"


class BasicBlock(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x)))))), two 3x3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        if stride == 1 and in_channels == out_channels:
            self.shortcut: nn.Module = nn.Identity()
        elif option == "A":
            self.shortcut = Shortcut(in_channels, out_channels, stride)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, input: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(input)))
        x = self.bn2(self.conv2(x))
        return self.relu2(x + self.shortcut(input))


class ResNet(nn.Module):
    """A stem, stages of residual blocks, global average, fc. Each stage after the first halves the image.

    stem: 'small', conv 3x3, or 'large', conv 7x7 and max-pooling 3x3, both of stride 2.
    widths: channels of each stage. blocks: how many blocks each has. dropout: before fc.
    option: how a shortcut changes shape, 'A' (subsampling and zeros, no parameters) or 'B' (1x1 convolution
    and batch norm).
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int | tuple[int, int],
        num_classes: int,
        dropout: float,
        *,
        widths: Sequence[int],
        blocks: Sequence[int],
        option: str,
        stem: str = "small",
    ) -> None:
        super().__init__()
        image_sides(self, image_size)
        arguments.choice(self, "option", option, ("A", "B"))
        arguments.choice(self, "stem", stem, ("small", "large"))
        channels = widths[0]
        if stem == "small":
            self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
            self.stem_pool: nn.Module = nn.Identity()
        else:
            self.conv = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
            self.stem_pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.stages = nn.Sequential()
        for i, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            stage = nn.Sequential()
            for j in range(count):
                stage.append(BasicBlock(channels, width, 2 if i > 0 and j == 0 else 1, option))
                channels = width
            self.stages.append(stage)
        self.pool = nn.GlobalAvgPool()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, input: Tensor) -> Tensor:
        x = self.stem_pool(self.relu(self.bn(self.conv(input))))
        x = self.pool(self.stages(x))
        return self.fc(self.dropout(x))


class ResNet20(ResNet):
    """The paper's net for CIFAR-10: 16, 32, 64 channels, three blocks each. 269,722 parameters for 3x32x32.

    option: 'A' as in the paper, or 'B' (272,474 parameters).
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
        num_classes: int = 10,
        dropout: float = 0.0,
        *,
        option: str = "A",
    ) -> None:
        super().__init__(
            in_channels,
            image_size,
            num_classes,
            dropout,
            widths=(16, 32, 64),
            blocks=(3, 3, 3),
            option=option,
        )


class ResNet18(ResNet):
    """ResNet-18: 64, 128, 256, 512 channels, two blocks each, option B.

    11,173,962 parameters for 3x32x32 and ten classes; 11,689,512 with the large stem and a thousand.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        num_classes: int = 10,
        dropout: float = 0.0,
        *,
        stem: str = "small",
    ) -> None:
        super().__init__(
            in_channels,
            image_size,
            num_classes,
            dropout,
            widths=(64, 128, 256, 512),
            blocks=(2, 2, 2, 2),
            option="B",
            stem=stem,
        )
