"""Cross-layer equalisation: the same function with weights that a lattice serves better.

Between two layers with nothing but ReLU, pooling and reshaping in between, a channel may be made smaller in
the first and larger in the second by the same factor, f(s x) = s f(x) for s > 0. With the factors of Nagel et
al. 2019, eq. 11, both have the same range in it, so that one scale for a whole tensor wastes little.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import minicnn
from minicnn import nn
from minicnn.compress.placement import QUANTIZABLE
from minicnn.functions.activation import LeakyReLU, ReLU
from minicnn.functions.conv import Conv2d
from minicnn.functions.linear import Linear
from minicnn.functions.moving import Pad
from minicnn.functions.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from minicnn.functions.reduction import Mean
from minicnn.functions.shape import Reshape
from minicnn.graph import trace
from minicnn.graph.ir import Graph, Node
from minicnn.nn.module import Module
from minicnn.nn.transform import attached, find, raw
from minicnn.tensor import Tensor
from minicnn.training.evaluate import inference

_SCALES = (ReLU, LeakyReLU, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d)  # f(s x) = s f(x), channel by channel
_SWEEPS = 50  # at most: a chain of layers is equal to four digits after a dozen


def equalize(model: Any, sample: Any) -> list[tuple[str, str]]:
    """Equalise the weights of every two layers of `model` that follow each other, in place.

    sample: a batch of inputs, to see which do. Batch norm in between is in the way: `fold_batch_norm` first.
    The model's results stay the same but for rounding. Returns the pairs of layers, by name. Raises
    ValueError, the model untouched, if it is quantized already.
    """
    if next(attached(model, "quantize"), None) is not None:
        raise ValueError(f"equalize: {type(model).__name__} is quantized; equalisation comes before that")
    with inference(model):
        graph = trace(model, sample)
        pairs = _pairs(model, graph)
        layers = [(model.get_submodule(first), model.get_submodule(second)) for first, second in pairs]
        for _ in range(_SWEEPS):
            if not sum([_equalize(*pair) for pair in layers]):
                break
    return pairs


def _pairs(model: Any, graph: Graph) -> list[tuple[str, str]]:
    """Names of the layers that can be equalised with the one that follows."""
    readers = graph.consumers()
    runs = Counter(node.layer for node in graph.nodes if node.op in (Conv2d, Linear))
    found = []
    for node in graph.nodes:
        following = node
        while True:
            reading = readers.get(following.output, [])
            if len(reading) != 1 or following.output in graph.outputs:
                break
            following = reading[0]
            if not _keeps_channels(following):
                break
        both = node, following
        if node is not following and all(_fits(model, one) and runs[one.layer] == 1 for one in both):
            found.append((node.layer, following.layer))
    return found


def _keeps_channels(node: Node) -> bool:
    """Whether a factor of a channel (dimension 1) passes through the op as it is."""
    shape, result = node.inputs[0].shape, node.output.shape
    if node.op is Reshape:  # in C order the pixels of a channel stay together
        return shape[:1] == result[:1] and (len(result) == 2 or shape[1:2] == result[1:2])
    if node.op is Mean:
        return shape[:2] == result[:2]
    if node.op is Pad:
        return not node.options["value"] and not any(map(any, node.options["pad"][:2]))
    return node.op in _SCALES


def _fits(model: Any, node: Node) -> bool:
    """Whether `node` is a convolution or a dense layer whose raw weights are what it multiplies by."""
    if node.op not in (Conv2d, Linear):
        return False
    layer = model.get_submodule(node.layer)
    dense = isinstance(layer, nn.Linear)
    plain = all(find(layer, "weight", kind) is None for kind in ("low_rank", "codebook"))
    return isinstance(layer, QUANTIZABLE) and plain and (not dense or len(node.output.shape) == 2)


def _equalize(first: Module, second: Module) -> bool:
    """Move one factor per channel from one layer to the other; whether any was worth it."""
    groups = getattr(second, "groups", 1)
    outputs, channels = len(second.weight), len(first.weight)
    grouped = groups, outputs // groups, channels // groups, -1  # of a dense layer: the pixels of a channel
    ours = _largest(first.weight.reshape(channels, -1), 1)
    theirs = _largest(second.weight.reshape(grouped), (1, 3)).reshape(-1)
    alive = (ours > 0).logical_and(theirs > 0)
    factor = minicnn.where(alive, (theirs / ours.clamp(min=1e-30)).sqrt(), 1.0)
    weight, following = raw(first, "weight"), raw(second, "weight")
    weight.copy_(weight * factor.reshape(-1, *(1,) * (weight.ndim - 1)))
    if first.bias is not None:
        first.bias.copy_(first.bias * factor)
    divided = following.reshape(grouped) / factor.reshape(groups, 1, -1, 1)
    following.copy_(divided.reshape(following.shape))
    return bool((factor.log().abs() > 1e-4).any())


def _largest(weight: Tensor, dims: Any) -> Tensor:
    return weight.abs().amax(dims)
