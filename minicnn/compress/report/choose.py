"""Choosing among results: which are not beaten in everything, and which is best within limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Mapping[str, Any]]

_LARGER_IS_BETTER = ("accuracy",)


def pareto(results: Results, keys: tuple[str, ...] = ("accuracy", "bytes")) -> list[str]:
    """Names of the results that no other one beats: as good in all `keys`, and better in one.

    results: numbers by name. Of accuracy more is better, of all else less.
    """
    scores = {name: [_cost(key, numbers[key]) for key in keys] for name, numbers in results.items()}
    return [
        name
        for name, own in scores.items()
        if not any(
            all(a <= b for a, b in zip(other, own, strict=True)) and other != own for other in scores.values()
        )
    ]


def pick(results: Results, best: str = "accuracy", **limits: float) -> str:
    """Name of the result that is best by one key among those within `limits`.

    pick(results, bytes=50_000) is the most accurate one of at most 50,000 bytes, and
    pick(results, best="bytes", accuracy=0.92) the smallest one of at least 92%.
    Raises ValueError, naming the nearest, if none is within the limits.
    """
    known = {key for numbers in results.values() for key in numbers}
    for key in (best, *limits):
        if key not in known:
            raise ValueError(f"pick: results have no {key!r}; expected one of {', '.join(sorted(known))}")
    within = {
        name: numbers
        for name, numbers in results.items()
        if all(_cost(key, numbers[key]) <= _cost(key, limit) for key, limit in limits.items())
    }
    if not within:
        nearest = {key: min(_cost(key, numbers[key]) for numbers in results.values()) for key in limits}
        told = ", ".join(f"{key} {limits[key]:g} (best {abs(value):g})" for key, value in nearest.items())
        raise ValueError(f"pick: no result is within {told}")
    return min(within, key=lambda name: _cost(best, within[name][best]))


def _cost(key: str, value: float) -> float:
    return -value if key in _LARGER_IS_BETTER else value
