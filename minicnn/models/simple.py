"""Plain convolutional networks: layers in a row, named as in their figure."""

from __future__ import annotations

from minicnn import nn
from minicnn.models.sizes import image_sides
from minicnn.tensor import Tensor


class SimpleCNN(nn.Sequential):
    """Two convolutions and two dense layers, for images (N, in_channels, image_size, image_size).

    [conv 3x3 32, pool] [conv 3x3 64, pool] [fc 128] [fc num_classes], with ReLU after all but the last.
    batch_norm: normalize after each convolution. dropout: before the last layer. width: factor of the numbers
    of channels and units. 421,642 parameters for 1x28x28 and ten classes, 105,866 of half the width; 545,098
    for 3x32x32.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        num_classes: int = 10,
        dropout: float = 0.0,
        *,
        batch_norm: bool = False,
        width: float = 1.0,
    ) -> None:
        if not width > 0:
            raise ValueError(f"{type(self).__name__}: expected width > 0, got {width!r}")
        rows, columns = image_sides(self, image_size, minimum=4)
        first, second, units = (max(round(width * size), 1) for size in (32, 64, 128))
        layers: dict[str, nn.Module] = {}
        channels = in_channels
        for i, filters in enumerate((first, second), 1):
            layers[f"conv{i}"] = nn.Conv2d(channels, filters, 3, padding=1)
            if batch_norm:
                layers[f"bn{i}"] = nn.BatchNorm2d(filters)
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            channels = filters
        layers |= {
            "flatten": nn.Flatten(),
            "fc1": nn.Linear(channels * (rows // 4) * (columns // 4), units),
            "relu3": nn.ReLU(),
            "dropout": nn.Dropout(dropout),
            "fc2": nn.Linear(units, num_classes),
        }
        super().__init__(layers)


class Residual(nn.Module):
    """bn(conv3x3(x)) + bn(conv1x1(x)): the short way has weights, for the number of channels changes."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        )

    def forward(self, input: Tensor) -> Tensor:
        return self.bn(self.conv(input)) + self.shortcut(input)


class DeepCNN(nn.Sequential):
    """Four normalized convolutions and two dense layers, for images of 16 pixels and more a side.

    [conv 3x3 + batch norm, pool] with 32, 64, 128 and 256 filters, [fc 1024] [fc num_classes], ReLU after all
    but the last. dropout: before the last layer. residual: add a normalized 1x1 convolution to each 3x3 one.
    1,449,226 parameters for 3x32x32 and ten classes, 1,493,290 with residuals.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        num_classes: int = 10,
        dropout: float = 0.0,
        *,
        residual: bool = False,
    ) -> None:
        height, width = image_sides(self, image_size, minimum=16)
        layers: dict[str, nn.Module] = {}
        channels = in_channels
        for i, filters in enumerate((32, 64, 128, 256), 1):
            if residual:
                layers[f"block{i}"] = Residual(channels, filters)
            else:
                layers[f"conv{i}"] = nn.Conv2d(channels, filters, 3, padding=1)
                layers[f"bn{i}"] = nn.BatchNorm2d(filters)
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            channels = filters
        layers |= {
            "flatten": nn.Flatten(),
            "fc1": nn.Linear(256 * (height // 16) * (width // 16), 1024),
            "relu5": nn.ReLU(),
            "dropout": nn.Dropout(dropout),
            "fc2": nn.Linear(1024, num_classes),
        }
        super().__init__(layers)
