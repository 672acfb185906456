"""Rows for `minicnn/functions/codebook.py`."""

from __future__ import annotations

import numpy as np
from op_table import Arrays, Inputs, OpCase

from minicnn.functions.codebook import codebook


def shared(shape: tuple[int, ...], clusters: int, dtype: type) -> Inputs:
    """Values of which a third are 0, centroids, and an index."""

    def make(rng: np.random.Generator) -> Arrays:
        x = np.where(rng.random(shape) < 0.3, 0, rng.normal(size=shape))
        return x, rng.normal(size=clusters), rng.integers(0, clusters, shape).astype(dtype)

    return make


CASES = [
    OpCase(
        "codebook",
        codebook,
        shared((6, 5, 3, 2), 7, np.uint8),
        differentiable=(1,),
        edges={"empty": shared((0, 4), 3, np.uint8), "one centroid": shared((4, 3), 1, np.uint8)},
    ),
    OpCase("codebook of many", codebook, shared((40, 30), 300, np.int16), differentiable=(1,)),
    OpCase("codebook in several tasks", codebook, shared((300, 400), 16, np.uint8), differentiable=(1,)),
]
