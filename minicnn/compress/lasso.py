"""lasso_reconstruction: input channels of one layer chosen so that the others can make up for them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import minicnn_kernels as kernels
from minicnn import nn
from minicnn.compress.mask import current_weight, set_mask
from minicnn.compress.prune import checked_rate
from minicnn.compress.select import select_layers
from minicnn.compress.units import Units
from minicnn.nn.module import Module
from minicnn.nn.transform import find, raw
from minicnn.random import Generator
from minicnn.tensor import Tensor, as_tensor
from minicnn.training.evaluate import device_of, inference
from minicnn_kernels.windows import conv_output_size


def lasso_reconstruction(
    model: Module,
    layer: str,
    rate: float,
    data: Iterable[Any],
    *,
    original: Module | None = None,
    positions: int = 10,
    seed: int = 0,
) -> float:
    """Mask round(rate * C) of the C input channels of `layer`, and fit the others to what it gave before.

    With y the layer's output, bias apart, and z_c what channel c adds to it, the LASSO
    min_b |y - sum_c b_c z_c|^2 / 2 + penalty sum abs(b_c), each z_c scaled to length 1, has the channels with
    b_c = 0 go; the penalty is raised as far as enough of them stay. Then the weights of the others are fitted
    to y by least squares (He et al. 2017, eq. 1 to 4). Returns sum (y - fit)^2 / sum y^2.

    layer: name of a Conv2d (one group, padding a number, of zeros) or Linear. data: batches of images, or of
    (images, targets). original: the model whose outputs are to be met; by default `model` as it is, which
    loses sight of what was pruned earlier. positions: how many pixels of each output image are looked at.

    A layer of some hundred channels takes a second, one of thousands a minute: all but the model runs in
    double precision on the host, wherever the model is. Raises ValueError for another
    layer, a rate that is no number in [0, 1) or leaves nothing, masks that this would undo, or no data.
    """
    checked_rate(rate, "lasso_reconstruction")
    module, source = (_layer(m, layer) for m in (model, original or model))
    units = Units.of(module, "channel")
    count = round(rate * units.count)
    if count == units.count:
        raise ValueError(f"lasso_reconstruction: rate {rate} leaves no channel of layer {layer!r}")
    _check_mask(module, layer, units, count)
    x, y = _windows(model, module, original or model, source, data, positions, Generator(seed))

    k = kernels.backend("reference")
    parameter, weight = raw(module, "weight"), _weight(module)
    gram, target = k.channel_gram(x, k.reshape(weight, (len(weight), units.count, -1)), y)
    keep = k.logical_not(k.choose_channels(gram, target, count))
    fitted, error = k.fit_channels(x, keep, y)
    fitted = k.cast(k.reshape(fitted, weight.shape), parameter.dtype)
    kernels.of(parameter.data).copy_into(parameter.data, kernels.to_device(fitted, parameter.device))
    parameter.mark_changed()
    set_mask(module, "weight", units.spread(keep))
    return error / max(k.squared_norm(y), sys.float_info.min)


def _layer(model: Module, name: str) -> Module:
    layer = select_layers(model, name, kinds=(nn.Conv2d, nn.Linear)).get(name)
    if layer is None:
        raise ValueError(f"lasso_reconstruction: expected the name of one layer, got the pattern {name!r}")
    if find(layer, "weight", "low_rank") is not None:
        raise ValueError(f"lasso_reconstruction: a low-rank form stands in for the weight of layer {name!r}")
    if isinstance(layer, nn.Conv2d) and (
        layer.groups != 1 or isinstance(layer.padding, str) or layer.padding_mode != "zeros"
    ):
        raise ValueError(
            f"lasso_reconstruction: layer {name!r} is {layer}; expected one group and a number as padding"
        )
    return layer


def _check_mask(module: Module, layer: str, units: Units, count: int) -> None:
    mask = find(module, "weight", "mask")
    if mask is not None:
        kept = units.sums(mask.keep.data)
        k = kernels.of(kept)
        already = units.count - k.count_nonzero(kept)
        if already > count:
            raise ValueError(
                f"lasso_reconstruction: layer {layer!r} has {already} channels pruned already, and {count} "
                f"are asked for; choose a higher rate, or remove_masks first"
            )
        if k.count_nonzero(k.logical_and(k.gt(kept, 0), k.lt(kept, units.size))):
            raise ValueError(
                f"lasso_reconstruction: single weights of layer {layer!r} are pruned, which fitting would "
                f"undo; reconstruct first and prune weights later"
            )


def _windows(
    model: Module,
    layer: Module,
    original: Module,
    source: Module,
    data: Iterable[Any],
    positions: int,
    generator: Generator,
) -> tuple[Any, Any]:
    """Windows (R, C, K) of the layer's inputs, and what the original layer makes of its own there, (R, O)."""
    k = kernels.backend("reference")
    weight = _weight(source)
    weight = k.permute(k.reshape(weight, (len(weight), -1)), (1, 0))
    rows, outputs = [], []
    for batch in data:
        images = as_tensor(batch[0] if isinstance(batch, (tuple, list)) else batch).to(device_of(model))
        x = _input(model, layer, images)
        theirs = x if source is layer else _input(original, source, images)
        if isinstance(layer, nn.Conv2d):
            window = layer.kernel_size, layer.stride, layer.padding, layer.dilation
            height, width = conv_output_size(x.shape[2:], *window)
            places = generator.integers(positions, 0, height * width)
            x, theirs = (k.windows_at(side, *window, places) for side in (x, theirs))
        else:
            x = k.reshape(x, (-1, x.shape[-1], 1))
        rows.append(x)
        outputs.append(k.matmul(k.reshape(theirs, (-1, len(weight))), weight))
    if not rows:
        raise ValueError("lasso_reconstruction: data yields no batches")
    return k.cat(rows, 0), k.cat(outputs, 0)


def _weight(layer: Module) -> Any:
    """The weight as the layer uses it, in host memory."""
    return kernels.to_host(current_weight(layer, masked=True))


def _input(model: Module, layer: Module, images: Tensor) -> Any:
    """What `layer` gets when the model sees `images`, in eval mode; in host memory."""
    seen: list[Any] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].data))
    try:
        with inference(model):
            model(images)
    finally:
        handle.remove()
    if len(seen) != 1:
        raise ValueError(
            f"lasso_reconstruction: expected a layer that runs once per image, it ran {len(seen)} times"
        )
    return kernels.to_host(seen[0])
