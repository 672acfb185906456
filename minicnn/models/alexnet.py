"""AlexNet (Krizhevsky et al. 2012) in its form for one device (Krizhevsky 2014)."""

from __future__ import annotations

from minicnn import nn
from minicnn.models.sizes import image_sides


class AlexNet(nn.Sequential):
    """Five convolutions with three poolings, then fc 4096, fc 4096, fc num_classes.

    dropout: before both layers of 4096 units. For images of 63 pixels and more a side, 224 in the paper: then
    61,100,840 parameters for three input channels and a thousand classes.
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
        dropout: float = 0.5,
    ) -> None:
        height, width = (self._pooled(side) for side in image_sides(self, image_size, minimum=63))
        layers: dict[str, nn.Module] = {}
        channels = in_channels
        plan = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
        for i, (filters, kernel_size, stride, padding) in enumerate(plan, 1):
            layers[f"conv{i}"] = nn.Conv2d(channels, filters, kernel_size, stride, padding)
            layers[f"relu{i}"] = nn.ReLU()
            if i in (1, 2, 5):
                layers[f"pool{i}"] = nn.MaxPool2d(3, stride=2)
            channels = filters
        layers |= {
            "flatten": nn.Flatten(),
            "dropout1": nn.Dropout(dropout),
            "fc1": nn.Linear(channels * height * width, 4096),
            "relu6": nn.ReLU(),
            "dropout2": nn.Dropout(dropout),
            "fc2": nn.Linear(4096, 4096),
            "relu7": nn.ReLU(),
            "fc3": nn.Linear(4096, num_classes),
        }
        super().__init__(layers)

    @staticmethod
    def _pooled(side: int) -> int:
        """Pixels that are left of `side` after the strided convolution and three poolings."""
        side = (side + 4 - 11) // 4 + 1
        for _ in range(3):
            side = (side - 3) // 2 + 1
        return side
