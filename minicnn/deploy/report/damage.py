"""What a compression has done to a model beyond its accuracy: which answers changed, where it looks, how it
bears small attacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

import minicnn
from minicnn.deploy.report.gradients import Batches, robustness, saliency_drift
from minicnn.training.evaluate import inference

_SHOWN = 8  # of the changes from one class to another


def damage(
    before: Any,
    after: Any,
    loader: Any,
    *,
    class_names: Sequence[str] | None = None,
    images: int = 500,
    epsilons: Sequence[float] = (0.01, 0.02, 0.05, 0.1),
    pixel_range: tuple[Any, Any] | None = None,
) -> dict[str, Any]:
    """Compare two models of the same images and classes on `loader`, which gives (images, targets) in order.

    before, after: Modules; both are left as they were. images: how many of the first ones saliency and
    attacks are measured on. epsilons: sizes of the attacks, as shares of the range from black to white.
    pixel_range: (black, white) in the units that the loader gives, numbers or one for each channel; default:
    the smallest and the largest value of each channel in it.

    {"images", "changed": how many answers differ, "forgotten": indices of images that only `before` gets
    right, "learned": that only `after` does, "by_class": {name: {"forgotten", "learned"}}, "moves":
    [{"class": the true one, "before", "after", "images"}], the most frequent first, "saliency": of
    `saliency_drift`, "attack": {"images", "pixel_range", "before": {epsilon: accuracy}, "after"}}.

    Raises ValueError if the loader has no images, or the models do not answer with the same classes.
    """
    batches = [(x.numpy(), y.numpy()) for x, y in loader]
    if not batches:
        raise ValueError("damage: the loader yields no images; is its data set empty?")
    targets = np.concatenate([y for _, y in batches])
    classes = _classes(before, after, batches[0][0][:1])
    names = list(class_names or map(str, range(classes)))
    old, new = (_answers(model, batches) for model in (before, after))
    few = _first(batches, images)
    low, high = pixel_range or _pixel_range(batches)
    return {
        "images": len(targets),
        **_changes(old, new, targets, names),
        "saliency": saliency_drift(before, after, few),
        "attack": {
            "images": sum(len(y) for _, y in few),
            "pixel_range": [np.ravel(end).tolist() for end in (low, high)],
            "before": robustness(before, few, epsilons, low, high),
            "after": robustness(after, few, epsilons, low, high),
        },
    }


def _classes(before: Any, after: Any, image: np.ndarray) -> int:
    shapes = []
    for model in (before, after):
        with inference(model):
            shapes.append(model(minicnn.tensor(image)).shape)
    if shapes[0] != shapes[1] or len(shapes[0]) != 2:
        raise ValueError(
            f"damage: expected two models that give logits (N, C) of the same classes, but for one image "
            f"they give {shapes[0]} and {shapes[1]}"
        )
    return shapes[0][1]


def _answers(model: Any, batches: Batches) -> np.ndarray:
    compiled = minicnn.compile(model)
    with inference(model):
        return np.concatenate([compiled(minicnn.tensor(x)).argmax(dim=1).numpy() for x, _ in batches])


def _changes(
    before: np.ndarray, after: np.ndarray, targets: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """Which images are answered otherwise."""
    forgotten = np.flatnonzero((before == targets) & (after != targets))
    learned = np.flatnonzero((before != targets) & (after == targets))
    changed = np.flatnonzero(before != after)
    moves = Counter(zip(targets[changed], before[changed], after[changed], strict=True))
    by_class = {
        name: {
            "forgotten": int((targets[forgotten] == i).sum()),
            "learned": int((targets[learned] == i).sum()),
        }
        for i, name in enumerate(names)
    }
    return {
        "changed": len(changed),
        "forgotten": forgotten.tolist(),
        "learned": learned.tolist(),
        "by_class": by_class,
        "moves": [
            {"class": names[true], "before": names[old], "after": names[new], "images": count}
            for (true, old, new), count in moves.most_common(_SHOWN)
        ],
    }


def _first(batches: Batches, count: int) -> Batches:
    """The first `count` images."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for x, y in batches:
        if count > 0:
            found.append((x[:count], y[:count]))
        count -= len(x)
    return found


def _pixel_range(batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    low = np.min([x.min(axis=(0, 2, 3)) for x, _ in batches], axis=0)
    high = np.max([x.max(axis=(0, 2, 3)) for x, _ in batches], axis=0)
    return low, high
