"""A portable network as a program of integers, quantized after training; `minicnn.deploy` does it for models.

Activations get the range that they have on the images, weights a scale per channel, and the last layer gives
floats. The network is a row of layers: conv, dense, flatten, and max_pool right behind a conv.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

import minicnn_kernels as kernels
from bench.peers.portable import Layer
from minicnn_kernels.integer_calls import IntegerCall, Slot
from minicnn_kernels.reference.quantization import along, counted_in_steps

_HIGHEST = 255


def to_integers(
    layers: Sequence[Layer], images: np.ndarray
) -> tuple[list[IntegerCall], list[int], list[int]]:
    """(calls, inputs, outputs) of an `IntegerProgram` for images (N, C, H, W) float32."""
    reference = kernels.backend("reference")
    calls: list[IntegerCall] = []

    def call(kernel: str, *arguments: Any) -> None:
        calls.append(IntegerCall(kernel, (Slot(len(calls)), *arguments), len(calls) + 1))

    x = images
    scale, zero = _lattice(x)
    call("quantize", scale, zero, 0, _HIGHEST, None, np.uint8)
    for layer, following in zip_longest(layers, layers[1:]):
        if layer.kind == "flatten":
            call("flatten")
            x = reference.flatten(x)
        elif layer.kind in ("conv", "dense"):
            geometry = _geometry(layer)
            if layer.kind == "conv":
                x = reference.conv2d_forward(x, layer.weight, layer.bias, *geometry)
            else:
                x = reference.linear_forward(x, layer.weight, layer.bias)
            x = np.maximum(x, 0) if layer.relu else x
            w_scale = np.abs(layer.weight).reshape(len(layer.weight), -1).max(axis=1) / np.float32(127)
            weight = np.rint(layer.weight / along(w_scale, layer.weight, 0)).astype(np.int8)
            y_scale, y_zero = (None, None) if following is None else _lattice(x)
            steps, factor = counted_in_steps(layer.bias, scale, w_scale, y_scale)
            sums = weight, steps.astype(np.int32), factor.astype(np.float32)
            lattice = int(zero), y_zero, y_zero if layer.relu else 0, _HIGHEST
            if layer.kind == "dense":
                call("integer_linear_forward", *sums, *lattice)
            else:
                window = None
                if following is not None and following.kind == "max_pool":
                    window = (following.options["size"],) * 2, (following.options["stride"],) * 2
                    x = reference.max_pool2d_forward(x, *window, (0, 0), (1, 1), False)[0]
                call("integer_conv2d_forward", *sums, *lattice, *geometry, window)
            scale, zero = y_scale, y_zero
        elif layer.kind != "max_pool":
            raise ValueError(f"to_integers: unknown layer {layer.kind!r}")
    return calls, [0], [len(calls)]


def _lattice(x: np.ndarray) -> tuple[Any, int]:
    """The scale, 0-d float32, and the zero point for the range of x."""
    reference = kernels.backend("reference")
    scale, zero = reference.choose_scale(*reference.value_range(x, None), 0, _HIGHEST, False, False)
    return scale, int(zero)


def _geometry(layer: Layer) -> tuple[Any, ...]:
    """stride, padding, dilation, groups."""
    options = layer.options
    return (options.get("stride", 1),) * 2, (options.get("padding", 0),) * 2, (1, 1), 1
