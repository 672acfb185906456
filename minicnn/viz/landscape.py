"""The loss around a trained network, along random directions (Li et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minicnn.grad_mode import no_grad
from minicnn.nn import Module
from minicnn.tensor import as_tensor
from minicnn.viz import style


class Landscape(NamedTuple):
    """steps: (S,), how far along a direction. losses: (S,), or (S, S) with the second direction first."""

    steps: np.ndarray
    losses: np.ndarray


def filter_normalized_direction(model: Module, rng: np.random.Generator) -> list[np.ndarray]:
    """A random direction for each parameter, each filter of which is as long as the model's own.

    So 1 means the same for layers of large and of small weights, which batch norm makes equal in effect.
    Parameters of one dimension (biases, batch norm) do not move (Li et al. 2018, section 4).
    """
    direction = []
    for p in model.parameters():
        weight = style.numbers(p)
        if weight.ndim < 2:
            direction.append(np.zeros_like(weight))
            continue
        random = rng.standard_normal(weight.shape).astype(weight.dtype)
        axes = tuple(range(1, weight.ndim))
        length = np.sqrt((weight**2).sum(axes, keepdims=True))
        own = np.sqrt((random**2).sum(axes, keepdims=True))
        direction.append(random * (length / np.maximum(own, 1e-30)))
    return direction


def landscape(
    model: Module,
    loss: Callable[[Module], float],
    *,
    dimensions: int = 2,
    radius: float = 1.0,
    steps: int = 15,
    seed: int = 0,
) -> Landscape:
    """loss(model) with the weights moved along one or two random directions, from -radius to radius.

    The weights are the same bits afterwards, whatever happens. steps: odd, so that the middle is the model.
    """
    if dimensions not in (1, 2) or steps < 3 or steps % 2 == 0:
        raise ValueError(
            f"landscape: expected 1 or 2 dimensions and an odd number of steps of at least 3, "
            f"got {dimensions} and {steps}"
        )
    rng = np.random.default_rng(seed)
    before = [style.numbers(p).copy() for p in model.parameters()]
    directions = [filter_normalized_direction(model, rng) for _ in range(dimensions)]
    places = np.linspace(-radius, radius, steps)
    places[steps // 2] = 0
    losses = np.empty((steps,) * dimensions)
    try:
        for index in np.ndindex(losses.shape):
            moved = [weight.copy() for weight in before]
            for direction, place in zip(directions, index[::-1], strict=True):
                for weight, part in zip(moved, direction, strict=True):
                    weight += np.asarray(places[place] * part, weight.dtype)
            _set_weights(model, moved)
            losses[index] = float(loss(model))
    finally:
        _set_weights(model, before)
    return Landscape(places, losses)


def _set_weights(model: Module, weights: list[np.ndarray]) -> None:
    with no_grad():
        for p, weight in zip(model.parameters(), weights, strict=True):
            p.copy_(as_tensor(weight))


def loss_landscape(found: Landscape, *, title: str = "", figure: Any = None) -> Any:
    """A `Landscape` as a line, or as lines of equal loss on a plane. Returns a Figure."""
    with style.sheet(figure, 5.6, 4) as figure:
        axes = figure.subplots()
        if found.losses.ndim == 1:
            axes.plot(found.steps, found.losses, color=style.BLUE)
            axes.set_ylabel("loss")
        else:
            low, high = max(found.losses.min(), 1e-6), found.losses.max()
            levels = np.geomspace(low, max(high, 1.001 * low), 22)
            drawn = axes.contour(found.steps, found.steps, found.losses, levels=levels, cmap="viridis")
            axes.clabel(drawn, levels[::3], fontsize=7, fmt="%.2g")
            axes.plot(0, 0, "x", color=style.VERMILION, markersize=9, markeredgewidth=2, label="the model")
            axes.set_ylabel("second direction")
            axes.set_aspect("equal")
            axes.legend(loc="upper right", fontsize=8)
        axes.set_xlabel("first direction, in lengths of the filters")
        axes.set_title(title)
    return figure
