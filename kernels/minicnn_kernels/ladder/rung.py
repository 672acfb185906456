"""What a rung is: a function, its name on the ladder, and why it is faster than the rung below.

The explanation is the function's own docstring: the first paragraph says what changed, the rest why.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rung:
    """One step of a ladder. `function` gets the input arrays and the output array, and returns the result.

    parallel: it uses all threads that `set_threads` allows; the others use one. interpreted: it runs in
    the Python interpreter, so time it on a tiny problem. channels_last: it reads (N, H, W, C) images and
    (kh, kw, C, O) weights. pooled: it computes the whole block, convolution + bias, ReLU, 2 x 2 max-pooling.
    """

    name: str
    function: Callable[..., Any]
    what_changed: str
    why: str
    parallel: bool = False
    interpreted: bool = False
    channels_last: bool = False
    pooled: bool = False


def rung(name: str, function: Callable[..., Any], **traits: bool) -> Rung:
    """The rung of `function`, explained by its docstring."""
    text = inspect.getdoc(getattr(function, "py_func", function)) or ""
    what_changed, _, why = text.partition("\n\n")
    return Rung(name, function, " ".join(what_changed.split()), " ".join(why.split()), **traits)
