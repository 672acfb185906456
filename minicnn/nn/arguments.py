"""Checks of constructor arguments, so that a layer that cannot work says so when it is made.

Each returns the value in its canonical form or raises ValueError naming layer, argument and value.
"""

from __future__ import annotations

import math
import operator
from typing import Any


def fail(layer: Any, name: str, expected: str, value: Any) -> ValueError:
    """The error for argument `name` of `layer`, to be raised by the caller."""
    return ValueError(f"{type(layer).__name__}: {name} must be {expected}, got {value!r}")


def _as_int(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def integer(layer: Any, name: str, value: Any, minimum: int = 1) -> int:
    """A whole number of at least `minimum`."""
    number = _as_int(value)
    if number is None or number < minimum:
        raise fail(layer, name, f"an integer of at least {minimum}", value)
    return number


def integers(layer: Any, name: str, value: Any, count: int, minimum: int = 1) -> tuple[int, ...]:
    """`count` whole numbers of at least `minimum`; a single one is repeated."""
    entries = tuple(value) if isinstance(value, (tuple, list)) else (value,) * count
    numbers = tuple(_as_int(entry) for entry in entries)
    if len(numbers) != count or any(number is None or number < minimum for number in numbers):
        several = f"an integer of at least {minimum}" + (f" or {count} of them" if count > 1 else "")
        raise fail(layer, name, several, value)
    return tuple(number for number in numbers if number is not None)


def number(layer: Any, name: str, value: Any, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """A number in [minimum, maximum]."""
    valid = isinstance(value, (int, float)) or hasattr(value, "__float__")
    if not valid or not minimum <= float(value) <= maximum:
        limits = "" if minimum == -math.inf and maximum == math.inf else f" in [{minimum:g}, {maximum:g}]"
        raise fail(layer, name, "a number" + limits, value)
    return value


def choice(layer: Any, name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """One of `choices`."""
    if value not in choices:
        raise fail(layer, name, "one of " + ", ".join(repr(entry) for entry in choices), value)
    return value


def divides(layer: Any, name: str, divisor: int, other: str, value: int) -> None:
    """`divisor`, argument `name`, must divide `value`, argument `other`."""
    if value % divisor:
        raise fail(layer, other, f"divisible by {name}={divisor}", value)
