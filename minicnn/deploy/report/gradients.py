"""Gradients by the image: where a model looks, and which small change misleads it most.

Both ask a model in eval mode for the gradient of one number by its input, so they need the tape: models, not
artefacts. A quantized layer's gradient is that of its dense twin, straight through the rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

import minicnn
from minicnn import nn
from minicnn.tensor import Tensor, as_tensor
from minicnn.training.evaluate import inference

Batches = Sequence[tuple[np.ndarray, np.ndarray]]


def input_gradient(
    model: Any, images: np.ndarray, targets: np.ndarray, number: Callable[[Tensor, Tensor], Tensor]
) -> np.ndarray:
    """The gradient of number(outputs, targets) by the images, of their shape.

    model: runs in eval mode, is left in the mode that it had, and its parameters get no gradient.
    """
    x = minicnn.tensor(images, requires_grad=True)
    with inference(model), _frozen(model), minicnn.enable_grad():
        number(model(x), as_tensor(targets)).backward()
    return x.grad.numpy() if x.grad is not None else np.zeros_like(images)


def true_logits(outputs: Tensor, targets: Tensor) -> Tensor:
    """The sum of each image's logit of its own class."""
    return -nn.functional.nll_loss(outputs, targets, reduction="sum")


def summed_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, summed, so that one image's gradient does not depend on how many there are."""
    return nn.functional.cross_entropy(outputs, targets, reduction="sum")


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def saliency_drift(before: Any, after: Any, batches: Batches) -> dict[str, Any]:
    """How far the places that decide have moved: saliency maps of both models (Simonyan et al. 2014).

    A map is the gradient of the true class's logit by the image. {"images", "cosine": {"mean", "std"}, of the
    gradients; "rank": {"mean", "std"}, Spearman's correlation of their sizes, pixel by pixel}. 1: nothing has
    changed. Images whose gradient is 0 in one of the models are left out and counted as "without_gradient".
    """
    cosines: list[float] = []
    ranks: list[float] = []
    blank = 0
    for images, targets in batches:
        maps = [
            input_gradient(model, images, targets, true_logits).reshape(len(images), -1).astype(np.float64)
            for model in (before, after)
        ]
        for a, b in zip(*maps, strict=True):
            if not (a.any() and b.any()):
                blank += 1
                continue
            cosines.append(_cosine(a, b))
            a, b = _ranks(np.abs(a)), _ranks(np.abs(b))
            ranks.append(_cosine(a - a.mean(), b - b.mean()))
    found: dict[str, Any] = {"images": len(cosines), "without_gradient": blank}
    if cosines:
        for name, values in (("cosine", cosines), ("rank", ranks)):
            found[name] = {"mean": float(np.mean(values)), "std": float(np.std(values))}
    return found


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values, such as those of a dark border, share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[place]


def fgsm(
    model: Any, images: np.ndarray, targets: np.ndarray, epsilon: float, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Images, each pixel moved by `epsilon` of the range from low to high so that the loss grows.

    x + epsilon (high - low) sign(gradient of the loss), cut to that range (Goodfellow et al. 2015,
    section 4). low, high: black and white in the units of the images, a number for each channel (C,).
    """
    low, high = (np.asarray(end, images.dtype).reshape(-1, 1, 1) for end in (low, high))
    step = epsilon * (high - low) * np.sign(input_gradient(model, images, targets, summed_loss))
    return np.clip(images + step, low, high).astype(images.dtype)


def robustness(
    model: Any, batches: Batches, epsilons: Sequence[float], low: np.ndarray, high: np.ndarray
) -> dict[str, float]:
    """Accuracy under `fgsm`, made for this very model, by epsilon: {"0": as they are, "0.05": ...}."""
    right = dict.fromkeys((0.0, *epsilons), 0)
    for images, targets in batches:
        for epsilon in right:
            shown = fgsm(model, images, targets, epsilon, low, high) if epsilon else images
            with inference(model):
                answers = model(minicnn.tensor(shown)).argmax(dim=1).numpy()
            right[epsilon] += int(np.count_nonzero(answers == targets))
    total = sum(len(targets) for _, targets in batches)
    return {f"{epsilon:g}": count / total for epsilon, count in right.items()}
