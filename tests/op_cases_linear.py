"""Rows for `minicnn/functions/linear.py`."""

from __future__ import annotations

from op_table import OpCase, integers, join, normal

import minicnn
from minicnn.nn import functional as F


def matmul(name: str, a: tuple[int, ...], b: tuple[int, ...]) -> OpCase:
    return OpCase(f"matmul {name}", minicnn.matmul, normal(a, b), torch="matmul")


def linear(name: str, *shapes: tuple[int, ...], **edges: object) -> OpCase:
    return OpCase(f"linear {name}", F.linear, normal(*shapes), torch="nn.functional.linear", edges=edges)


CASES = [
    matmul("matrices", (3, 4), (4, 5)),
    matmul("batches", (2, 3, 4), (2, 4, 5)),
    matmul("batch by matrix", (2, 3, 4), (4, 5)),
    matmul("matrix by batch", (3, 4), (2, 4, 5)),
    matmul("broadcast batches", (2, 1, 3, 4), (5, 4, 2)),
    matmul("vectors", (4,), (4,)),
    matmul("vector by matrix", (4,), (4, 5)),
    matmul("matrix by vector", (3, 4), (4,)),
    matmul("vector by batch", (4,), (2, 4, 5)),
    matmul("batch by vector", (2, 3, 4), (4,)),
    matmul("nothing to sum", (3, 0), (0, 5)),
    matmul("no rows", (0, 4), (4, 5)),
    linear(
        "with bias",
        (7, 13),
        (5, 13),
        (5,),
        empty=normal((0, 13), (5, 13), (5,)),
        one=normal((1, 1), (1, 1), (1,)),
    ),
    linear("without bias", (7, 13), (5, 13)),
    linear("of a vector", (13,), (5, 13), (5,)),
    linear("of sequences", (2, 3, 13), (5, 13), (5,)),
    OpCase("bilinear", F.bilinear, normal((4, 3), (4, 5), (2, 3, 5), (2,)), torch="nn.functional.bilinear"),
    OpCase(
        "embedding",
        F.embedding,
        join(integers((4, 6), low=0, high=5), normal((5, 3))),
        torch="nn.functional.embedding",
        edges={"empty": join(integers((0, 6), low=0, high=5), normal((5, 3)))},
    ),
]
