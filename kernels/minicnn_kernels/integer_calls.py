"""Programs of integer kernels as plain data: what a deployed model is, for every back end.

A program is a row of calls; values have numbers. An argument that is a value stands as `Slot(number)`, alone
or in a list; every other argument is itself. `run_calls` is what a program means: one call after the other.
Each back end has an `IntegerProgram` that gives the same bits; the kernels are in `reference/integer.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

PROGRAM_KERNELS = (
    "concatenate",  # (arrays, dim)
    "dequantize",
    "flatten",
    "integer_add_forward",
    "integer_avg_pool2d_forward",
    "integer_conv2d_forward",
    "integer_linear_forward",
    "integer_lookup",
    "integer_max_pool2d_forward",
    "quantize",
)
"""What a program may call."""


class Slot(NamedTuple):
    """The value of a program that has this number."""

    number: int


class IntegerCall(NamedTuple):
    """`value[result] = kernel(*arguments)`."""

    kernel: str
    arguments: tuple[Any, ...]
    result: int


def check_calls(calls: Sequence[IntegerCall], inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Every kernel is known, every value is there before it is read, and none is written twice.

    Raises ValueError that names the call.
    """
    known = set(inputs)
    for place, call in enumerate(calls):
        if call.kernel not in PROGRAM_KERNELS:
            raise ValueError(
                f"call {place}: no kernel {call.kernel!r} for a program: "
                f"expected one of {', '.join(PROGRAM_KERNELS)}"
            )
        missing = [slot.number for slot in slots(call) if slot.number not in known]
        if missing:
            raise ValueError(f"call {place}, {call.kernel}: value {missing[0]} is read before it is computed")
        if call.result in known:
            raise ValueError(f"call {place}, {call.kernel}: value {call.result} is there already")
        known.add(call.result)
    for number in outputs:
        if number not in known:
            raise ValueError(
                f"output {number} is no value of the program: is the call that gives it missing?"
            )


def slots(call: IntegerCall) -> list[Slot]:
    """The values that a call reads, in order."""
    found: list[Slot] = []
    for argument in call.arguments:
        if isinstance(argument, Slot):
            found.append(argument)
        elif isinstance(argument, list):
            found += [part for part in argument if isinstance(part, Slot)]
    return found


def count_images(arrays: Sequence[np.ndarray]) -> int:
    """How many images each of the inputs holds. Raises ValueError if that differs."""
    counts = [len(array) for array in arrays]
    if len(set(counts)) != 1:
        raise ValueError(f"the inputs have {', '.join(map(str, counts))} images: expected as many each")
    return counts[0]


def run_calls(
    kernels: Mapping[str, Callable[..., Any]],
    calls: Sequence[IntegerCall],
    inputs: Sequence[int],
    outputs: Sequence[int],
    arrays: Sequence[np.ndarray],
) -> tuple[np.ndarray, ...]:
    """The outputs for `arrays`, the inputs. Raises ValueError unless they fit its inputs."""
    if len(arrays) != len(inputs):
        raise ValueError(f"the program takes {len(inputs)} arrays, got {len(arrays)}")
    count_images(arrays)
    values: dict[int, Any] = dict(zip(inputs, arrays, strict=True))

    def of(argument: Any) -> Any:
        if isinstance(argument, Slot):
            return values[argument.number]
        return [of(part) for part in argument] if isinstance(argument, list) else argument

    for call in calls:
        values[call.result] = kernels[call.kernel](*map(of, call.arguments))
    return tuple(values[number] for number in outputs)
