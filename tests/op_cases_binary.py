"""Rows for `minicnn/functions/binary.py`; gradients that are none by calculus: `test_binary.py`."""

from __future__ import annotations

import numpy as np
from op_table import Inputs, OpCase

from minicnn.functions.binary import binarize, ternarize


def scaled(*shape: int, channels: int | None = None, count: int = 1) -> Inputs:
    """x, and `count` positive numbers, or rows of `channels` of them, for its scales."""

    def make(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        size = () if channels is None else (channels,)
        x = np.round(rng.standard_normal(shape) * 4) / 4  # zeros and ties with the threshold among them
        return x, *(np.asarray(rng.integers(1, 8, size) / 8) for _ in range(count))

    return make


CASES = [
    OpCase("binarize", binarize, scaled(3, 4, 5), differentiable=(), edges={"empty": scaled(0, 3)}),
    OpCase("binarize by channel", binarize, scaled(6, 5, 3, 3, channels=6), {"axis": 0}, differentiable=()),
    OpCase("binarize in several tasks", binarize, scaled(300, 401), differentiable=()),
    OpCase(
        "ternarize by channel",
        ternarize,
        scaled(6, 70, channels=6, count=2),
        {"axis": 0},
        differentiable=(),
    ),
    OpCase("ternarize", ternarize, scaled(5, 7, count=2), differentiable=()),
]
