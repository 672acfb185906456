"""The two LeNets that the literature on compression measures itself by (LeCun et al. 1998)."""

from __future__ import annotations

from minicnn import nn
from minicnn.models.sizes import image_sides


class LeNet300_100(nn.Sequential):
    """Three dense layers: 300, 100, num_classes. 266,610 parameters for 28x28 and ten classes."""

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        num_classes: int = 10,
        dropout: float = 0.0,
    ) -> None:
        height, width = image_sides(self, image_size)
        super().__init__(
            {
                "flatten": nn.Flatten(),
                "fc1": nn.Linear(in_channels * height * width, 300),
                "relu1": nn.ReLU(),
                "fc2": nn.Linear(300, 100),
                "relu2": nn.ReLU(),
                "dropout": nn.Dropout(dropout),
                "fc3": nn.Linear(100, num_classes),
            }
        )


class LeNet5(nn.Sequential):
    """The variant that came with Caffe and that Han et al. (2015) compress: 431,080 parameters for 1x28x28.

    [conv 5x5 20, pool] [conv 5x5 50, pool] [fc 500, ReLU] [fc num_classes]; for 16 pixels and more a side.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 28,
        num_classes: int = 10,
        dropout: float = 0.0,
    ) -> None:
        height, width = (((side - 4) // 2 - 4) // 2 for side in image_sides(self, image_size, minimum=16))
        super().__init__(
            {
                "conv1": nn.Conv2d(in_channels, 20, 5),
                "pool1": nn.MaxPool2d(2),
                "conv2": nn.Conv2d(20, 50, 5),
                "pool2": nn.MaxPool2d(2),
                "flatten": nn.Flatten(),
                "fc1": nn.Linear(50 * height * width, 500),
                "relu": nn.ReLU(),
                "dropout": nn.Dropout(dropout),
                "fc2": nn.Linear(500, num_classes),
            }
        )
