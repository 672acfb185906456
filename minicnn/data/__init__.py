"""Images and labels: datasets, the loader that batches them, and augmentation."""

from minicnn.data.augment import (
    Compose,
    Cutout,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    RandomRotation,
    RandomShift,
    Transform,
)
from minicnn.data.datasets import ArrayDataset, Dataset, FashionMNIST, IdxFolder, Subset, random_split
from minicnn.data.idx import IdxError, read_idx
from minicnn.data.loader import DataLoader

__all__ = [
    "ArrayDataset",
    "Compose",
    "Cutout",
    "DataLoader",
    "Dataset",
    "FashionMNIST",
    "IdxError",
    "IdxFolder",
    "Normalize",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomRotation",
    "RandomShift",
    "Subset",
    "Transform",
    "random_split",
    "read_idx",
]
