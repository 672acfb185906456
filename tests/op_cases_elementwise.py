"""Rows for `minicnn/functions/elementwise.py`."""

from __future__ import annotations

from op_table import OpCase, normal

import minicnn

CASES = [
    OpCase("mul", minicnn.mul, normal((3, 4), (3, 4)), torch="mul", edges={"empty": normal((0, 4), (0, 4))}),
    OpCase("mul broadcast", minicnn.mul, normal((2, 3, 1), (4,)), torch="mul"),
]
