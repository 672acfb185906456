"""Batch norm with frozen statistics, folded into the layer before it.

In eval mode batch norm is a scale and a shift per channel, and so is what a convolution or a dense layer can
do itself: weight * scale, and (bias - mean) * scale + beta for scale = gamma / sqrt(var + eps). Integer
inference needs it (Jacob et al. 2018, section 3.2), and quantization-aware training begins with it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import minicnn
from minicnn import nn
from minicnn.functions.conv import Conv2d
from minicnn.functions.linear import Linear
from minicnn.functions.normalization import BatchNorm, BatchNormInference
from minicnn.functions.shape import Reshape
from minicnn.graph import trace
from minicnn.graph.ir import Graph, Node
from minicnn.nn.module import Module
from minicnn.nn.parameter import Parameter
from minicnn.nn.transform import find, raw
from minicnn.training.evaluate import inference

_FOLDABLE = (nn.Conv1d, nn.Conv2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class Pair(NamedTuple):
    """Dotted names of a batch norm and of the layer that it is folded into."""

    norm: str
    layer: str


def fold_batch_norm(model: Any, sample: Any, *, strict: bool = True) -> list[Pair]:
    """Fold every batch norm of `model`, in place, into the layer before it; in its place stands Identity.

    sample: a batch of inputs, to see what follows what. In eval mode the model's results are the same but
    for rounding; in training mode the statistics are frozen from now on. Returns what was folded. Raises
    ValueError, the model untouched, for a batch norm that cannot be folded: one that is not right behind a
    convolution or dense layer, alone to read it, and run once; with statistics of the batch in eval mode; or
    behind weights with a codebook, a low-rank form or a lattice of their own. strict=False leaves those.
    """
    with inference(model):
        graph = trace(model, sample)
    pairs = []
    for node in graph.nodes:
        if node.op in (BatchNorm, BatchNormInference):
            found = _pair(model, graph, node)
            if isinstance(found, Pair):
                pairs.append(found)
            elif strict:
                raise ValueError(f"fold_batch_norm: batch norm '{node.layer}' cannot be folded: {found}")
    with minicnn.no_grad():
        for pair in pairs:
            _fold(model, pair)
    return pairs


def _pair(model: Any, graph: Graph, node: Node) -> Pair | str:
    """What is folded into what, or why it can't be."""
    norm = model.get_submodule(node.layer)
    if not isinstance(norm, _NORMS):
        return f"it is a part of {type(norm).__name__}'s own forward; make it a layer"
    if node.op is BatchNorm:
        return "it has no running statistics, and so is another function for every batch"
    producers, readers = graph.producers(), graph.consumers()
    runs = Counter(other.layer for other in graph.nodes if other.op in (Conv2d, Linear, BatchNormInference))
    value, first = node.inputs[0], True
    while True:
        producer = producers.get(value)
        if producer is None or (producer.op is not Reshape and producer.op not in (Conv2d, Linear)):
            return "no convolution or dense layer stands right before it"
        if len(readers[value]) > 1 or value in graph.outputs:
            return f"the result of '{producer.layer}' is read elsewhere, too"
        if producer.op is not Reshape:
            break
        value, first = producer.inputs[0], False
    layer = model.get_submodule(producer.layer)
    if not isinstance(layer, _FOLDABLE) or (
        isinstance(layer, nn.Linear) and not (first and len(value.shape) == 2)
    ):
        return "no convolution or dense layer stands right before it"
    if runs[node.layer] > 1 or runs[producer.layer] > 1:
        return f"it, or '{producer.layer}' before it, runs more than once"
    for kind in ("low_rank", "codebook", "quantize"):
        if find(layer, "weight", kind) is not None:
            return f"the weight of '{producer.layer}' has a transform of kind '{kind}'; fold first"
    if find(layer, "output", "quantize") is not None or find(norm, "input", "quantize") is not None:
        return f"what lies between '{producer.layer}' and it is quantized; fold first"
    return Pair(node.layer, producer.layer)


def _fold(model: Any, pair: Pair) -> None:
    layer, norm = model.get_submodule(pair.layer), model.get_submodule(pair.norm)
    weight = raw(layer, "weight")
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = (layer.bias - norm.running_mean if layer.bias is not None else -norm.running_mean) * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    weight.copy_(weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)))
    if layer.bias is None:
        layer.bias = Parameter(shift)
    else:
        layer.bias.copy_(shift)
    replace(model, pair.norm, nn.Identity().train(norm.training))


def replace(model: Any, name: str, module: Module) -> None:
    """Put `module` where the one called `name` stands."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
