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
    Of equals the smallest is taken, if bytes are known. Results without a number that is asked for are left
    out. Raises ValueError if none is within the limits; it says which limit binds and what is nearest.
    """
    known = {key for numbers in results.values() for key in numbers}
    for key in (best, *limits):
        if key not in known:
            raise ValueError(f"pick: results have no {key!r}; expected one of {', '.join(sorted(known))}")
    complete = {
        name: numbers for name, numbers in results.items() if all(key in numbers for key in (best, *limits))
    }
    within = _within(complete, limits)
    if not within:
        raise ValueError(f"pick: no result is within {_told(limits)}; {_nearest(complete, limits)}")
    return min(within, key=lambda name: (_cost(best, within[name][best]), within[name].get("bytes", 0)))


def _within(results: Results, limits: Mapping[str, float]) -> Results:
    return {
        name: numbers
        for name, numbers in results.items()
        if all(_cost(key, numbers[key]) <= _cost(key, limit) for key, limit in limits.items())
    }


def _told(limits: Mapping[str, float]) -> str:
    return ", ".join(
        f"{key} of at {'least' if key in _LARGER_IS_BETTER else 'most'} {_number(limit)}"
        for key, limit in limits.items()
    )


def _nearest(results: Results, limits: Mapping[str, float]) -> str:
    """Each limit that alone keeps out results which are within all others, and the nearest of these."""
    found = []
    for key in limits:
        others = _within(results, {other: limit for other, limit in limits.items() if other != key})
        if others:
            name = min(others, key=lambda name: _cost(key, others[name][key]))
            found.append(f"{key} binds: the nearest is {name} with {_number(others[name][key])}")
    if not found:
        best = {key: min(results, key=lambda name: _cost(key, results[name][key])) for key in limits}
        told = ", ".join(f"{_number(results[name][key])} {key} ({name})" for key, name in best.items())
        return f"several limits bind at once; the best of each alone: {told}" if told else "there are none"
    return "; or ".join(found)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"


def _cost(key: str, value: float) -> float:
    return -value if key in _LARGER_IS_BETTER else value
