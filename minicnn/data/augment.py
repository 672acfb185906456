"""Transforms of whole batches: augmentation and normalisation, vectorised in NumPy.

A transform is called as `transform(images, rng)` with floating images (N, C, H, W) and a NumPy
generator, and returns a new batch; the draws of `rng` are its only chance, so equal generators give
equal batches. The loader hands each batch a generator of its own (`loader.py`). Nothing here is
differentiable: gradients begin at the model's input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from minicnn_kernels import memory

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Compose:
    """Transforms applied one after the other."""

    transforms: Sequence[Transform]

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for transform in self.transforms:
            images = transform(images, rng)
        return images


@dataclass(frozen=True)
class Normalize:
    """(images - mean) / std, with a number for all channels or one for each.

    Raises ValueError if std is not positive, or if the images have another number of channels.
    """

    mean: float | Sequence[float]
    std: float | Sequence[float]
    _mean: np.ndarray = field(init=False, repr=False, compare=False)
    _std: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        mean, std = (np.asarray(value, np.float64) for value in (self.mean, self.std))
        if (
            mean.ndim > 1
            or std.ndim > 1
            or not np.isfinite(mean).all()
            or not (np.isfinite(std) & (std > 0)).all()
        ):
            raise ValueError(
                f"Normalize: expected a finite mean and a positive std, numbers or one per channel, "
                f"got mean {self.mean} and std {self.std}"
            )
        object.__setattr__(self, "_mean", mean.reshape(-1, 1, 1))
        object.__setattr__(self, "_std", std.reshape(-1, 1, 1))

    @classmethod
    def measured(cls, images: np.ndarray) -> Normalize:
        """The normalisation that gives these images, (N, C, H, W), mean 0 and deviation 1 in every channel.

        uint8 images count as scaled to [0, 1], as the loader gives them. A constant channel gets std 1.
        """
        means, deviations = [], []
        for channel in np.moveaxis(images, 1, 0):
            if images.dtype == np.uint8:  # exact, and without a float copy of the whole dataset
                values, counts = np.arange(256) / 255, np.bincount(channel.reshape(-1), minlength=256)
                mean = np.average(values, weights=counts)
                deviation = np.sqrt(np.average((values - mean) ** 2, weights=counts))
            else:
                mean, deviation = channel.mean(dtype=np.float64), channel.std(dtype=np.float64)
            means.append(float(mean))
            deviations.append(float(deviation) or 1.0)
        return cls(tuple(means), tuple(deviations))

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        channels = _checked(images, self).shape[1]
        if {len(self._mean), len(self._std)} - {1, channels}:
            raise ValueError(
                f"{self}: expected images with as many channels, got {channels} in {images.shape}"
            )
        result = memory.empty_like(images)
        np.subtract(images, self._mean.astype(images.dtype), out=result)
        return np.divide(result, self._std.astype(images.dtype), out=result)


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Mirrors each image left to right with probability `p`."""

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"{self}: expected a probability p in [0, 1]")

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        flipped = rng.random(len(_checked(images, self))) < self.p
        return np.where(flipped[:, None, None, None], images[..., ::-1], images)


@dataclass(frozen=True)
class RandomCrop:
    """A random window of `size` (height, width; an int for both; None for the images' own size) out of
    each image after `padding` pixels of value `fill` are added on every side.

    With padding 4 and no size this is the standard augmentation of CIFAR (He et al. 2016, section 4.2).
    Raises ValueError if the window is larger than the padded image.
    """

    size: int | tuple[int, int] | None = None
    padding: int = 0
    fill: float = 0.0

    def __post_init__(self) -> None:
        sizes = () if self.size is None else np.ravel(self.size).tolist()
        if self.padding < 0 or any(size < 1 for size in sizes) or len(sizes) > 2:
            raise ValueError(f"{self}: expected size of at least 1 and padding of at least 0 pixels")

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        n, _, height, width = _checked(images, self).shape
        if self.size is not None:
            height, width = np.broadcast_to(self.size, 2).tolist()
        border = (self.padding, self.padding)
        padded = np.pad(images, ((0, 0), (0, 0), border, border), constant_values=self.fill)
        rows, columns = padded.shape[2] - height + 1, padded.shape[3] - width + 1
        if rows < 1 or columns < 1:
            raise ValueError(f"{self}: the window does not fit into padded images of {padded.shape[2:]}")
        windows = sliding_window_view(padded, (height, width), axis=(2, 3))
        return windows[np.arange(n), :, rng.integers(rows, size=n), rng.integers(columns, size=n)]


@dataclass(frozen=True)
class RandomShift:
    """Moves each image by up to `pixels` rows and columns; what comes in at the border is `fill`."""

    pixels: int
    fill: float = 0.0

    def __post_init__(self) -> None:
        if self.pixels < 0:
            raise ValueError(f"{self}: expected at least 0 pixels")

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return RandomCrop(padding=self.pixels, fill=self.fill)(images, rng)


@dataclass(frozen=True)
class RandomRotation:
    """Turns each image about its centre by an angle drawn evenly from [-degrees, degrees].

    Bilinear interpolation; outside of the image lies `fill`. Positive angles turn counter-clockwise.
    """

    degrees: float
    fill: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.degrees <= 360:
            raise ValueError(f"{self}: expected degrees in [0, 360]")

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        angles = rng.uniform(-self.degrees, self.degrees, len(_checked(images, self)))
        return rotate(images, np.deg2rad(angles), fill=self.fill)


@dataclass(frozen=True)
class Cutout:
    """Covers a square of `size` pixels, centred on a random pixel of each image and clipped at the border.

    Source: DeVries and Taylor 2017, arXiv:1708.04552. They cover with the mean, that is, with 0 after
    normalisation; here `fill` is a value in the images' own scale.
    """

    size: int
    fill: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"{self}: expected size of at least 1 pixel")

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        n, _, height, width = _checked(images, self).shape
        rows = self._covered(rng.integers(height, size=(n,)), height)
        columns = self._covered(rng.integers(width, size=(n,)), width)
        covered = rows[:, None, :, None] & columns[:, None, None, :]
        return np.where(covered, images.dtype.type(self.fill), images)

    def _covered(self, centre: np.ndarray, length: int) -> np.ndarray:
        distance = np.arange(length) - (centre[:, None] - self.size // 2)
        return (distance >= 0) & (distance < self.size)


def rotate(images: np.ndarray, angles: np.ndarray, *, fill: float = 0.0) -> np.ndarray:
    """Images turned counter-clockwise about their centres by `angles` (N,), in radians; bilinear."""
    n, channels, height, width = images.shape
    # One pixel of border (two where a right or lower neighbour is read) stands for all that lies outside.
    frame = ((0, 0), (1, 2), (1, 2), (0, 0))
    framed = np.pad(images.transpose(0, 2, 3, 1), frame, constant_values=fill)
    pixels, stride = framed.reshape(-1, channels), width + 3

    # Where each pixel of the result comes from, in the coordinates of the frame.
    dtype = images.dtype
    y = (np.arange(height, dtype=dtype) - dtype.type((height - 1) / 2))[:, None]
    x = np.arange(width, dtype=dtype) - dtype.type((width - 1) / 2)
    cos, sin = (f(angles).astype(dtype)[:, None, None] for f in (np.cos, np.sin))
    source_y = np.clip(cos * y + sin * x + dtype.type((height + 1) / 2), 0, height + 1)
    source_x = np.clip(cos * x - sin * y + dtype.type((width + 1) / 2), 0, width + 1)

    top, left = source_y.astype(np.intp), source_x.astype(np.intp)
    down, right = (source_y - top).astype(dtype)[..., None], (source_x - left).astype(dtype)[..., None]
    first = (np.arange(n) * (framed.shape[1] * stride))[:, None, None] + top * stride + left

    def row(start: np.ndarray) -> np.ndarray:
        here = pixels.take(start, axis=0)
        return here + (pixels.take(start + 1, axis=0) - here) * right

    upper = row(first)
    return (upper + (row(first + stride) - upper) * down).transpose(0, 3, 1, 2)


def _checked(images: np.ndarray, transform: Any) -> np.ndarray:
    if images.ndim != 4 or images.dtype.kind != "f":
        raise ValueError(
            f"{transform}: expected floating images of shape (N, C, H, W), "
            f"got {images.shape} of {images.dtype}"
        )
    return images
