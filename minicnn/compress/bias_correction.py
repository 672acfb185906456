"""Bias correction: a quantized layer's mean error, taken out of its bias (Nagel et al. 2019, section 4.2).

Rounded weights shift the mean of what a layer gives, and a shift, other than noise, adds up from layer to
layer. It is measured here on data, layer by layer in the order in which they run, each with what the ones
before it give, which are corrected by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import minicnn
from minicnn import nn
from minicnn.compress.fake_quantize import FakeQuantize
from minicnn.compress.placement import QUANTIZABLE
from minicnn.compress.quantize import images_of
from minicnn.nn.module import Module
from minicnn.nn.parameter import Parameter
from minicnn.nn.transform import attached, find
from minicnn.tensor import Tensor
from minicnn.training.evaluate import device_of, inference


def correct_bias(model: Any, calibration: Iterable[Any]) -> list[str]:
    """Correct the biases of the layers of `model` that have quantized weights, in place.

    calibration: batches of images, or of (images, targets), kept in memory and run once per layer. Layers
    without a bias get one. Returns the layers' names in the order in which they ran. Raises ValueError if
    nothing is quantized or there is no data; if anything fails the biases are as before.
    """
    layers: dict[str, Module] = {
        one.path: one.module
        for one in attached(model, "quantize")
        if one.place == "weight" and isinstance(one.module, QUANTIZABLE)
    }
    if not layers:
        raise ValueError(
            f"correct_bias: {type(model).__name__} has no quantized layer; expected `quantize` first"
        )
    batches = list(images_of(calibration, device_of(model)))
    if not sum(map(len, batches)):
        raise ValueError("correct_bias: calibration yields no images; expected batches of them")
    quantizers = [
        one.transform for one in attached(model, "quantize") if isinstance(one.transform, FakeQuantize)
    ]
    before = {name: None if m.bias is None else m.bias.detach().clone() for name, m in layers.items()}
    try:
        with inference(model):
            with _disabled(quantizers):
                wanted = _means(model, layers, batches)
            for name in wanted:
                layer = layers[name]
                with _disabled([q for q in (find(layer, "output", "quantize"),) if q is not None]):
                    given = _means(model, {name: layer}, batches)[name]
                _set_bias(
                    layer, wanted[name] - given if layer.bias is None else layer.bias + wanted[name] - given
                )
    except BaseException:
        for name, bias in before.items():
            _set_bias(layers[name], bias)
        raise
    return list(wanted)


def _set_bias(layer: Module, value: Tensor | None) -> None:
    if value is None:
        layer.bias = None
    elif layer.bias is None:
        layer.bias = Parameter(value)
    else:
        with minicnn.no_grad():
            layer.bias.copy_(value)


def _means(model: Any, layers: dict[str, Module], batches: list[Tensor]) -> dict[str, Tensor]:
    """The mean of every channel of what the layers give, over all batches, in the order in which they ran."""
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(layers, 0)
    handles = []

    def listen(name: str, layer: Module) -> None:
        def hook(module: Module, inputs: Any, result: Tensor) -> None:
            channel = result.ndim - 1 if isinstance(module, nn.Linear) else 1
            total = result.sum(tuple(dim for dim in range(result.ndim) if dim != channel))
            sums[name] = sums[name] + total if name in sums else total
            counts[name] += result.numel() // result.shape[channel]

        handles.append(layer.register_forward_hook(hook))

    try:
        for name, layer in layers.items():
            listen(name, layer)
        for images in batches:
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / counts[name] for name, total in sums.items()}


@contextmanager
def _disabled(quantizers: list[FakeQuantize]) -> Iterator[None]:
    """Within the block these let values through as they are."""
    before = [quantizer.enabled for quantizer in quantizers]
    try:
        for quantizer in quantizers:
            quantizer.enabled = False
        yield
    finally:
        for quantizer, enabled in zip(quantizers, before, strict=True):
            quantizer.enabled = enabled
