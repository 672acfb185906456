"""Datasets: labelled images that can be indexed by whole batches.

Images stay as they were published (uint8 in memory, a quarter of float32); the loader turns each
batch into float32 and applies the dataset's `transform` to it. Reading idx files is in `idx.py`,
batching and shuffling in `loader.py`, augmentation in `augment.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from minicnn.data.augment import Normalize, Transform
from minicnn.data.idx import IdxError, read_idx

# Mean and standard deviation of the 60,000 training images, scaled to [0, 1]:
#   python -c "from minicnn.data import *; print(Normalize.measured(FashionMNIST().images))"
FASHION_MNIST_NORMALIZE = Normalize(0.2860, 0.3530)
#   python -c "from minicnn.data import *; print(Normalize.measured(IdxFolder('FOLDER').images))"
MNIST_NORMALIZE = Normalize(0.1307, 0.3081)

_CHECKED_AT_ONCE = 1 << 24  # elements; bounds the memory of the search for NaN


class Dataset(Protocol):
    """What a loader needs: a length, and labelled images by index.

    dataset[i] gives an image (C, H, W) and its label; dataset[indices], with an integer array (N,),
    gives images (N, C, H, W), uint8 or floating, and labels (N,) int64.
    Two attributes are optional: `transform`, applied to every batch after conversion to float32, and
    `class_names`.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> tuple[np.ndarray, np.ndarray]: ...


class ArrayDataset:
    """Labelled images in memory.

    images: (N, C, H, W), or (N, H, W) for one channel; uint8 (which a loader scales to [0, 1]), float32 or
    float64 (used as they are). labels: (N,) integers from 0. class_names: one for each label value;
    without them the classes are numbered. transform: applied by the loader to every batch of float32 images.

    Raises TypeError for other dtypes, ValueError for wrong shapes, different lengths, no images, labels out
    of range, NaN or infinity in the images.
    """

    def __init__(
        self,
        images: Any,
        labels: Any,
        *,
        class_names: Sequence[str] | None = None,
        transform: Transform | None = None,
    ) -> None:
        self.images = _checked_images(np.asarray(images))
        self.labels = _checked_labels(np.asarray(labels), len(self.images), class_names)
        names = class_names if class_names is not None else range(int(self.labels.max()) + 1)
        self.class_names = tuple(str(name) for name in names)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> tuple[np.ndarray, np.ndarray]:
        return self.images[index], self.labels[index]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of every image."""
        return self.images.shape[1:]

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.image_shape))
        return f"{type(self).__name__}({len(self):,} images of {shape}, {len(self.class_names)} classes)"


class FashionMNIST(ArrayDataset):
    """Zalando's 70,000 pictures of garments, 1 x 28 x 28 in 10 classes; they come with the package.

    train: the 60,000 training images, or the 10,000 test images. Source: Xiao, Rasul and Vollgraf 2017,
    arXiv:1708.07747; MIT licence, in `fashion_mnist/LICENSE`.
    """

    def __init__(self, train: bool = True, *, transform: Transform | None = FASHION_MNIST_NORMALIZE) -> None:
        names = (
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
            "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
        )  # fmt: skip
        images, labels = _read_pair(files("minicnn.data") / "fashion_mnist", train)
        super().__init__(images, labels, class_names=names, transform=transform)


class IdxFolder(ArrayDataset):
    """MNIST or kin from a folder of idx files under their published names, with or without .gz.

    The names are `train-images-idx3-ubyte` and `train-labels-idx1-ubyte` for the training set, and the same
    with `t10k` for the test set. transform: for data unlike MNIST give `Normalize.measured(train.images)`.

    Raises FileNotFoundError naming what is missing, IdxError for damaged files, ValueError as ArrayDataset.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        train: bool = True,
        *,
        class_names: Sequence[str] | None = None,
        transform: Transform | None = MNIST_NORMALIZE,
    ) -> None:
        images, labels = _read_pair(Path(path), train)
        super().__init__(images, labels, class_names=class_names, transform=transform)


class Subset:
    """Part of a dataset, chosen by indices (which may repeat). Raises IndexError if one is out of range."""

    def __init__(self, dataset: Dataset, indices: Any) -> None:
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or chosen.size == 0 or chosen.dtype.kind not in "iu":
            raise ValueError(
                f"Subset: expected a non-empty 1-d sequence of integers, got shape {chosen.shape} of "
                f"{chosen.dtype}; a mask becomes indices through np.flatnonzero(mask)"
            )
        if chosen.min() < 0 or chosen.max() >= len(dataset):
            raise IndexError(
                f"Subset: indices must lie in 0 to {len(dataset) - 1} for this dataset, "
                f"got {chosen.min()} to {chosen.max()}"
            )
        self.dataset = dataset
        self.indices = chosen.astype(np.int64)
        self.class_names = getattr(dataset, "class_names", None)
        self.transform = getattr(dataset, "transform", None)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> tuple[np.ndarray, np.ndarray]:
        return self.dataset[self.indices[index]]


def random_split(dataset: Dataset, lengths: Sequence[float], *, seed: int = 0) -> list[Subset]:
    """Disjoint random parts of a dataset, the same for the same seed.

    lengths: counts that add up to len(dataset), or fractions that add up to 1; what rounding down of
    fractions leaves over goes to the first parts. Raises ValueError for other sums or empty parts.
    """
    total = len(dataset)
    if all(isinstance(length, (int, np.integer)) for length in lengths):
        counts = [int(length) for length in lengths]
    else:
        if abs(sum(lengths) - 1) > 1e-6:
            raise ValueError(
                f"random_split: fractions must add up to 1, {list(lengths)} give {sum(lengths):g}"
            )
        counts = [int(total * fraction) for fraction in lengths]
        for part in range(total - sum(counts)):
            counts[part % len(counts)] += 1
    if sum(counts) != total or min(counts, default=0) < 1:
        raise ValueError(
            f"random_split: expected parts of at least one that add up to {total}, the size of the dataset; "
            f"got {counts}, together {sum(counts)}"
        )
    order = np.random.Generator(np.random.Philox(seed)).permutation(total)
    return [Subset(dataset, part) for part in np.split(order, np.cumsum(counts)[:-1])]


def _read_pair(folder: Traversable, train: bool) -> tuple[np.ndarray, np.ndarray]:
    part = "train" if train else "t10k"
    images = read_idx(_find(folder, f"{part}-images-idx3-ubyte"), ndim=3)
    labels_file = _find(folder, f"{part}-labels-idx1-ubyte")
    labels = read_idx(labels_file, ndim=1)
    if len(labels) != len(images):
        raise IdxError(
            f"{labels_file}: {len(labels):,} labels for {len(images):,} images: "
            f"do both files come from the same dataset?"
        )
    return images, labels


def _find(folder: Traversable, name: str) -> Traversable:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of idx files")
    raise FileNotFoundError(
        f"{folder}: expected a file {name} or {name}.gz; the folder holds "
        f"{', '.join(sorted(entry.name for entry in folder.iterdir())[:8]) or 'nothing'}"
    )


def _checked_images(images: np.ndarray) -> np.ndarray:
    if images.dtype not in (np.uint8, np.float32, np.float64):
        raise TypeError(
            f"ArrayDataset: expected images of uint8 (0 to 255), float32 or float64, got {images.dtype}; "
            f"convert with astype"
        )
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4:
        raise ValueError(
            f"ArrayDataset: expected images of shape (N, C, H, W) or (N, H, W), got {images.shape}; "
            f"reshape them (features become (N, features, 1, 1))"
        )
    if images.size == 0:
        raise ValueError(f"ArrayDataset: no images to learn from: their shape is {images.shape}")
    if images.dtype.kind == "f":
        _check_finite(images)
    return images


def _check_finite(images: np.ndarray) -> None:
    step = max(1, _CHECKED_AT_ONCE // images[0].size)
    for start in range(0, len(images), step):
        finite = np.isfinite(images[start : start + step]).all(axis=(1, 2, 3))
        if not finite.all():
            raise ValueError(
                f"ArrayDataset: image {start + int(np.argmin(finite))} holds NaN or infinity; "
                f"clean the data (np.isfinite finds them) before training"
            )


def _checked_labels(labels: np.ndarray, n: int, class_names: Sequence[str] | None) -> np.ndarray:
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"ArrayDataset: expected integer labels (class numbers), got {labels.dtype}; "
            f"convert with astype('int64')"
        )
    if labels.ndim != 1:
        raise ValueError(
            f"ArrayDataset: expected labels of shape (N,), got {labels.shape}; "
            f"one-hot rows become class numbers through labels.argmax(1)"
        )
    if len(labels) != n:
        raise ValueError(f"ArrayDataset: {n:,} images but {len(labels):,} labels; each image needs one")
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise ValueError(
            f"ArrayDataset: labels count classes from 0, but label {int(labels.argmin())} is {low}"
        )
    if class_names is not None and high >= len(class_names):
        raise ValueError(
            f"ArrayDataset: label {int(labels.argmax())} is {high}, but {len(class_names)} class names allow "
            f"0 to {len(class_names) - 1} only"
        )
    return labels.astype(np.int64)
