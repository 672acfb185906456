"""Network architectures, each as short as its figure.

All take (in_channels, image_size, num_classes, dropout) and give logits (N, num_classes). `create` makes one
of those for small images by name; AlexNet, VGG16 and MobileNet224 are for images of 224 pixels a side.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from minicnn.models.alexnet import AlexNet
from minicnn.models.densenet import DenseNet
from minicnn.models.inception import Inception, InceptionNet
from minicnn.models.lenet import LeNet5, LeNet300_100
from minicnn.models.mlp import MLP
from minicnn.models.mobilenet import MobileNet, MobileNet224
from minicnn.models.resnet import ResNet, ResNet18, ResNet20
from minicnn.models.simple import DeepCNN, SimpleCNN
from minicnn.models.vgg import VGG, VGG16
from minicnn.nn import Module

__all__ = [
    "MLP",
    "MODELS",
    "VGG",
    "VGG16",
    "AlexNet",
    "DeepCNN",
    "DenseNet",
    "Inception",
    "InceptionNet",
    "LeNet5",
    "LeNet300_100",
    "MobileNet",
    "MobileNet224",
    "ResNet",
    "ResNet18",
    "ResNet20",
    "SimpleCNN",
    "create",
]

MODELS: dict[str, Callable[..., Module]] = {
    "simple": SimpleCNN,
    "deep": DeepCNN,
    "mlp": MLP,
    "lenet-300-100": LeNet300_100,
    "lenet-5": LeNet5,
    "resnet-20": ResNet20,
    "resnet-18": ResNet18,
    "vgg": VGG,
    "mobilenet": MobileNet,
    "densenet": DenseNet,
    "inception": InceptionNet,
}


def create(name: str, **options: Any) -> Module:
    """The model called `name` (a key of MODELS) with these options of its constructor, freshly initialised.

    Raises ValueError naming the nearest and all names, TypeError for an option that the model does not have.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown model {name!r}: {hint}expected one of {', '.join(MODELS)}")
    known = inspect.signature(MODELS[name]).parameters
    for option in options:
        if option not in known:
            raise TypeError(f"model {name!r} has no option {option!r}: expected some of {', '.join(known)}")
    return MODELS[name](**options)
