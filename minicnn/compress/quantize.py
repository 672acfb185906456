"""quantize: weights and activations of a whole model on lattices, after training or before more of it.

Which values are whole numbers (times a scale), in eval mode, and who rounds when:

- A convolution, dense layer or average pooling with a quantizer at its input and weights computes exact sums
  of whole numbers, its bias among them (in steps of x_scale * w_scale), and by the quantizer at its output,
  if it has one, requantizes them: one rounding, in float32, as `minicnn_kernels.reference.quantization`
  says. Average pooling is a convolution whose weights are 1 and whose w_scale is 1 / divisor. Where only a
  ReLU reads the result, what is below 0 saturates to it.
- ReLU, max-pooling, reshaping, picking and padding with zeros keep values on their lattice: a layer behind
  them takes the lattice over (SameLattice).
- Additions and concatenations take the float32 numbers that the whole ones stand for, each (q - zero_point) *
  scale rounded once, in the order of their operands. What they give is put on a lattice again by the next
  quantizer: that of the ReLU layer right behind, if there is one and nobody else reads the sum, else the one
  at the input of each layer that reads it.
- Everything else (other activations, batch norm that is not folded, layers left out) is float32. Before it
  a result is not requantized: it is float32(sum) * (x_scale * w_scale), and so is that of the last layer.
  Behind it the quantizer stands at the output of the layer that computed it, or at the input of the reader.

So an integer engine that follows these rules gives the same bits (0 and -0 counting as one). In training mode
the same model computes with floats that are rounded to the lattices, and gradients pass straight through
(Jacob et al. 2018).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

import minicnn
from minicnn.compress.fake_quantize import FakeQuantize, SameLattice
from minicnn.compress.fold import fold_batch_norm
from minicnn.compress.observers import Observer, extremes, make_observer
from minicnn.compress.placement import QUANTIZABLE, Placement, Point, place
from minicnn.compress.select import select_layers
from minicnn.graph import trace
from minicnn.nn.module import Module
from minicnn.nn.transform import PLACES, attach, attached, detach, raw
from minicnn.tensor import Tensor, as_tensor
from minicnn.training.evaluate import device_of, inference


def quantize(
    model: Any,
    calibration: Iterable[Any] | None = None,
    *,
    bits: int = 8,
    activation_bits: int | None = None,
    layers_bits: Mapping[str, int | None] | None = None,
    per_channel: bool = True,
    power_of_two: bool = False,
    observer: str | Callable[[], Observer] = "minmax",
    learned: bool = False,
    momentum: float = 0.01,
    fold: bool = True,
    sample: Any = None,
) -> Any:
    """Quantize all convolutions and dense layers of `model`, in place, and what flows between them.

    calibration: batches of images, or of (images, targets), by which activations get their ranges; None:
    `sample` alone. bits: of weights; activation_bits: of activations, default the same. layers_bits: other
    bits for the weights of some layers, by name or pattern; None leaves a layer in float32. per_channel: one
    scale per output channel of a weight. power_of_two: scales are powers of two. observer: 'minmax',
    'moving', 'percentile', 'mse' or 'kl', or what makes an Observer; 'mse' also decides the range of weights.
    learned: scales are parameters to be trained (LSQ, Esser et al. 2020). momentum: how fast ranges of
    activations follow further training; those of weights are always the present ones, or fixed with 'mse'.
    fold: fold batch norm first, where that can be. sample: a batch of images to trace the model with,
    default the first of calibration. Batches are moved to the model's device.

    Returns the model. Raises ValueError, the model untouched, for bits out of range, unknown layers or
    observers, no data, data that is not finite, a model without such layers or one that is quantized already.
    """
    chosen = _chosen_layers(model, bits, layers_bits)
    options = {"power_of_two": power_of_two, "learned": learned}

    def new_activation(point: Point) -> FakeQuantize:
        """With a zero point unless values below 0 do not count, or the step is learned."""
        return FakeQuantize(
            bits if activation_bits is None else activation_bits,
            signed=learned and not point.unsigned,
            symmetric=learned or point.unsigned,
            momentum=None if learned else momentum,
            **options,
        )

    def new_weight(name: str, weight: Tensor) -> FakeQuantize:
        channels = weight.shape[0] if per_channel else None
        search = learned or observer == "mse"
        quantizer = FakeQuantize(chosen[name], channels=channels, momentum=None if search else 1, **options)
        try:
            extremes(weight)
            quantizer.observe(weight, least_error=search)
        except ValueError as error:
            raise ValueError(f"quantize: the weight of '{name}' cannot be quantized: {error}") from None
        return quantizer

    for point in (Point("", "input", True), Point("", "input", False)):
        new_activation(point)  # wrong options are told before anything is computed
    make_observer(observer)
    first, batches = _batches(calibration, sample, device_of(model))
    work = copy.deepcopy(model) if fold else model
    if fold:
        fold_batch_norm(work, first, strict=False)
    with inference(work):
        weights = {name: new_weight(name, work.get_submodule(name).weight) for name in chosen}
        placement = place(work, trace(work, first), chosen)
        activations = {point: new_activation(point) for point in placement.points}
        for point, seen in _observe(work, placement, batches, observer).items():
            activations[point].set_range(*seen.range(activations[point]))
    if fold:
        fold_batch_norm(model, first, strict=False)
    for name, quantizer in weights.items():
        attach(model.get_submodule(name), "weight", quantizer)
    for point, quantizer in activations.items():
        attach(model.get_submodule(point.layer), point.place, quantizer)
    for name, point in placement.sources.items():
        if point != Point(name, "input", point.unsigned):
            attach(model.get_submodule(name), "input", SameLattice(activations[point]))
    return model.to(first.device)


def freeze_quantizers(model: Any) -> Any:
    """Let all lattices of `model` stay as they are, those of weights as the present weights want them.

    After quantization-aware training: the last step moved the weights once more after their range was taken.
    """
    with minicnn.no_grad():
        for one in list(attached(model, "quantize")):
            quantizer = one.transform
            if not isinstance(quantizer, FakeQuantize):
                continue
            if quantizer.learned:
                quantizer.scale.requires_grad_(False)
            elif quantizer.momentum == 1 and one.place not in PLACES:
                detach(one.module, one.place, "quantize")
                quantizer.observe(getattr(one.module, one.place))
                attach(one.module, one.place, quantizer)
            quantizer.momentum = None
    return model


def remove_quantizers(model: Any, *, bake: bool = False) -> Any:
    """Take all quantizers away: the raw weights are used again, or with `bake` those on their lattices."""
    with minicnn.no_grad():
        for one in list(attached(model, "quantize")):
            value = getattr(one.module, one.place).detach() if bake and one.place not in PLACES else None
            detach(one.module, one.place, "quantize")
            if value is not None:
                raw(one.module, one.place).copy_(value)
    return model


def is_quantized(model: Any) -> bool:
    """Whether anything in `model` is on a lattice."""
    return next(attached(model, "quantize"), None) is not None


def _chosen_layers(model: Any, bits: int, layers_bits: Mapping[str, int | None] | None) -> dict[str, int]:
    """The bits of every layer's weight, by name; layers that stay in float32 are left out."""
    if is_quantized(model):
        raise ValueError(
            f"quantize: {type(model).__name__} is quantized already; remove_quantizers comes first"
        )
    chosen: dict[str, int | None] = dict.fromkeys(select_layers(model, kinds=QUANTIZABLE), bits)
    for pattern, special in (layers_bits or {}).items():
        chosen |= dict.fromkeys(select_layers(model, pattern, kinds=QUANTIZABLE), special)
    kept = {name: count for name, count in chosen.items() if count is not None}
    if not kept:
        raise ValueError(
            "quantize: layers_bits leaves every layer in float32; expected at least one to quantize"
        )
    for name, count in kept.items():
        if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= 16:
            raise ValueError(f"quantize: expected bits from 2 to 16, got {count!r} for layer '{name}'")
    return kept


def _batches(calibration: Any, sample: Any, device: str) -> tuple[Tensor, Iterable[Tensor]]:
    """A batch to trace with, and all images to observe, in batches."""
    if isinstance(calibration, (Tensor, np.ndarray)):
        calibration = [calibration]
    if calibration is None:
        if sample is None:
            raise ValueError(
                "quantize: no data; expected calibration (batches of images) or sample (one batch)"
            )
        calibration = [sample]
    images = images_of(calibration, device)
    first = next(images, None)
    if first is None or not len(first):
        raise ValueError("quantize: calibration yields no images; expected batches of them")
    return first if sample is None else as_tensor(sample).to(device), chain([first], images)


def images_of(batches: Iterable[Any], device: str) -> Iterator[Tensor]:
    """The images of batches that are images, or (images, targets), on `device`, where the model is."""
    for batch in batches:
        yield as_tensor(batch[0] if isinstance(batch, (tuple, list)) else batch).to(device)


def _observe(
    model: Any, placement: Placement, batches: Iterable[Tensor], observer: str | Callable[[], Observer]
) -> dict[Point, Observer]:
    """What observers at all points saw of the batches."""
    observers = {point: make_observer(observer) for point in placement.points}
    handles = []
    try:
        for point, seen in observers.items():
            layer = model.get_submodule(point.layer)
            if point.place == "input":
                handles.append(layer.register_forward_pre_hook(partial(_see_input, seen, point)))
            else:
                handles.append(layer.register_forward_hook(partial(_see_output, seen, point)))
        for images in batches:
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return observers


def _see_input(observer: Observer, point: Point, module: Module, inputs: tuple[Tensor, ...]) -> None:
    value = inputs[0].clamp(min=0) if point.unsigned else inputs[0]
    try:
        observer.see(value)
    except ValueError as error:
        raise ValueError(f"quantize: the {point.place} of '{point.layer}': {error}") from None


def _see_output(
    observer: Observer, point: Point, module: Module, inputs: tuple[Tensor, ...], result: Tensor
) -> None:
    _see_input(observer, point, module, (result,))
