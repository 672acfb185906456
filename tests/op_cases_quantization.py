"""Rows for `minicnn/functions/quantization.py`; gradients that are none by calculus: `test_quantize.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from op_table import Inputs, OpCase, booleans, join, normal, values

from minicnn.functions.quantization import apply_mask, fake_quantize, round_ste

NAN, INF = float("nan"), float("inf")


def lattice(*shape: int, channels: int | None = None, zero_point: bool = True) -> Inputs:
    """x, scale, zero_point: normal numbers, and a lattice that some of them saturate."""

    def make(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        size = () if channels is None else (channels,)
        low, high = (-5, 6) if zero_point else (0, 1)
        scale = np.asarray(rng.integers(6, 20, size) / 64)  # of few digits: PyTorch computes in float32
        return rng.standard_normal(shape), scale, np.asarray(rng.integers(low, high, size), np.int32)

    return make


def torch_fake_quantize(torch: Any) -> Callable[..., Any]:
    """PyTorch's, called like ours."""

    def call(x: Any, scale: Any, zero_point: Any, quant_min: int, quant_max: int, axis: Any = None) -> Any:
        if axis is None:
            return torch.fake_quantize_per_tensor_affine(x, scale.float(), zero_point, quant_min, quant_max)
        return torch.fake_quantize_per_channel_affine(
            x, scale.float(), zero_point, axis, quant_min, quant_max
        )

    return call


def one(*numbers: float) -> Inputs:
    """These numbers on the lattice of the multiples of 1/4, from -1 to 0.75."""
    return values(numbers, 0.25, np.int32(-4))


CASES = [
    OpCase("apply_mask", apply_mask, join(normal((3, 4, 5)), booleans((3, 4, 5))), torch=None),
    OpCase(
        "fake_quantize per tensor",
        fake_quantize,
        lattice(2, 5, 4, 3),
        {"quant_min": -8, "quant_max": 7},
        torch=torch_fake_quantize,
        differentiable=(),
        edges={
            "empty": values(np.zeros((0, 3)), 0.25, np.int32(0)),
            "halves go to the even side": one(-0.375, -0.125, 0.125, 0.375, 0.625),
            "beyond the ends": one(-1e30, -1.01, -1.0, 0.75, 0.76, 1e30),
        },
    ),
    OpCase(
        "fake_quantize what is no number",
        fake_quantize,
        one(NAN, INF, -INF, 0.0),
        {"quant_min": -8, "quant_max": 7},
        differentiable=(),
    ),
    OpCase(
        "fake_quantize per channel",
        fake_quantize,
        lattice(6, 5, 3, 3, channels=6, zero_point=False),
        {"quant_min": -7, "quant_max": 7, "axis": 0},
        torch=torch_fake_quantize,
        differentiable=(),
    ),
    OpCase(
        "fake_quantize per channel, innermost",
        fake_quantize,
        lattice(7, 3, channels=3),
        {"quant_min": 0, "quant_max": 15, "axis": 1},
        differentiable=(),
    ),
    OpCase("round_ste", round_ste, normal((3, 5)), torch="round", differentiable=()),
]
