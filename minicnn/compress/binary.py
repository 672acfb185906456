"""Binarize and Ternarize: the transforms that leave of a value its sign, or its sign and whether it counts.

They are quantizers of 1 and 2 bits: where input and weight of a layer have one, the layer computes in exact
integers in eval mode (`minicnn.nn.transform.lattices`), so that kernels which count bits give its very bits.
The raw weights are kept and trained, the gradient passes straight through; keep them in [-1, 1], as their
articles do, with ClipWeights. `binarize` puts them where they belong.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import minicnn_kernels as kernels
from minicnn.compress.placement import QUANTIZABLE
from minicnn.compress.select import select_layers
from minicnn.functions.activation import ReLU
from minicnn.functions.binary import binarize as signs_of
from minicnn.functions.binary import ternarize as ternary_of
from minicnn.functions.pooling import MaxPool2d
from minicnn.functions.shape import Reshape
from minicnn.graph import trace
from minicnn.nn.module import Module
from minicnn.nn.transform import Transform, attach, find, raw, value_before
from minicnn.optim.constraints import clip_weights_
from minicnn.tensor import Tensor, as_tensor, float32, int32
from minicnn.training.callbacks import Callback
from minicnn.training.evaluate import inference

_PASSING = (ReLU, MaxPool2d, Reshape)  # between where a value is made and where its sign is taken


class _Signs(Transform):
    """What both share: buffers of one number, or of one for each of `channels` along dimension 0."""

    kind = "quantize"

    def __init__(self, channels: int | None, **starts: float) -> None:
        super().__init__()
        self.channels, self.enabled = channels, True
        self.axis = None if channels is None else 0
        k, shape = kernels.backend("reference"), () if channels is None else (channels,)
        for name, start in starts.items():
            self.register_buffer(name, Tensor(k.full(shape, start, float32)))

    def attached(self, module: Module, place: str) -> None:
        if place == "output":
            raise ValueError(
                f"{type(self).__name__}: a sign is taken where it is used; attach it to the input of the "
                f"layers that read this output"
            )

    def lattice(self) -> tuple[Tensor, Tensor]:
        """The scale in force and the zero point, both () or (channels,)."""
        return self.scale, Tensor(kernels.of(self.scale.data).full(self.scale.shape, 0, int32))

    def extra_repr(self) -> str:
        return "" if self.channels is None else f"{self.channels} channels"


class Binarize(_Signs):
    """scale where the value is at least 0, else -scale.

    scaled: in training the scale becomes the mean of |value| (XNOR-Net, Rastegari et al. 2016), one for each
    of `channels` along dimension 0 or one for all; in eval mode it is that of the last training step. Else it
    is 1 (BinaryConnect, Courbariaux et al. 2015). limit: the gradient passes where |value| is at most this
    (None: everywhere).
    """

    bits = 1

    def __init__(
        self, *, channels: int | None = None, scaled: bool = False, limit: float | None = 1.0
    ) -> None:
        super().__init__(channels, scale=1.0)
        self.scaled, self.limit = scaled, limit

    def forward(self, value: Tensor) -> Tensor:
        if not self.enabled:
            return value
        observe = self.training and self.scaled
        return signs_of(value, self.scale, self.axis, limit=self.limit, observe=observe)

    def observe(self, value: Tensor) -> None:
        """Take the scale for `value`, if it is scaled, and its device."""
        self.to(value.device)
        if self.scaled:
            signs_of(value.detach(), self.scale, self.axis, observe=True)

    def options(self) -> dict[str, Any]:
        return {"channels": self.channels, "scaled": self.scaled, "limit": self.limit}


class Ternarize(_Signs):
    """scale times the sign of the value where its size is above a threshold, else 0 (TWN, Li et al. 2016).

    In training threshold becomes `factor` times the mean of |value| and scale the mean of what is above it,
    for each of `channels` along dimension 0 or for all; in eval mode they are those of the last training
    step. Zeros, those of a mask for example, stay 0.
    """

    bits = 2

    def __init__(self, *, channels: int | None = None, factor: float = 0.7) -> None:
        if not factor >= 0:
            raise ValueError(f"Ternarize: expected a factor of at least 0, got {factor!r}")
        super().__init__(channels, threshold=0.0, scale=1.0)
        self.factor = factor

    def forward(self, value: Tensor) -> Tensor:
        if not self.enabled:
            return value
        parts = self.threshold, self.scale, self.axis
        return ternary_of(value, *parts, factor=self.factor, observe=self.training)

    def observe(self, value: Tensor) -> None:
        """Take threshold and scale for `value`, and its device."""
        self.to(value.device)
        parts = self.threshold, self.scale, self.axis
        ternary_of(value.detach(), *parts, factor=self.factor, observe=True)

    def options(self) -> dict[str, Any]:
        return {"channels": self.channels, "factor": self.factor}


class ClipWeights(Callback):
    """Keeps the raw weights of all binary and ternary layers of `model` in [-limit, limit] while it trains.

    Beyond the limit no gradient of a sign passes: a weight that got there would never change again.
    """

    def __init__(self, model: Module, limit: float = 1.0) -> None:
        self.limit = limit
        self.weights = [
            parameter
            for module in model.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None and isinstance(find(module, name, "quantize"), _Signs)
        ]

    def on_start(self, run: Any) -> None:
        clip_weights_(self.weights, self.limit)

    def on_batch(self, run: Any) -> None:
        clip_weights_(self.weights, self.limit)

    def settings(self) -> dict[str, Any]:
        return {"clip_weights": self.limit}


def binarize(
    model: Any,
    sample: Any = None,
    *,
    layers: str | Iterable[str] | None = None,
    activations: bool = False,
    ternary: bool = False,
    scaled: bool = True,
    per_channel: bool = True,
    limit: float | None = 1.0,
) -> Any:
    """Leave of the weights of convolutions and dense layers their signs, in place.

    layers: names or patterns, default all. activations: their inputs become signs, too, but for layers that
    read the model's own input; `sample`, a batch of inputs, is what the model is traced with then. ternary:
    weights may also be 0. scaled, limit: of binary weights, see `Binarize`. per_channel: one scale for each
    output, else one for all.

    Behind batch norm a scale changes little: without one a file takes one bit for a weight everywhere, with
    it only where the input is on a lattice, too. A bias of a layer with binary input is rounded to whole
    steps of its scale in eval mode: batch norm behind a layer without bias is better.

    Returns the model. Raises ValueError, the model untouched, for layers that are quantized already, for
    masked weights (a sign is never 0: use ternary), and for inputs behind a ReLU, whose signs are all +1.
    """
    chosen = select_layers(model, layers, kinds=QUANTIZABLE)
    for name, module in chosen.items():
        if any(find(module, place, "quantize") is not None for place in ("input", "weight", "output")):
            raise ValueError(f"binarize: layer '{name}' is quantized already; remove_quantizers comes first")
        if not ternary and find(module, "weight", "mask") is not None:
            raise ValueError(
                f"binarize: the weight of layer '{name}' has a mask, and a sign is never 0; use ternary=True"
            )
    inner = _layers_with_signs(model, sample, chosen) if activations else []
    for module in chosen.values():
        weight = value_before(module, "weight", "quantize")
        channels = weight.shape[0] if per_channel and (ternary or scaled) else None
        if ternary:
            signs: Binarize | Ternarize = Ternarize(channels=channels)
        else:
            signs = Binarize(channels=channels, scaled=scaled, limit=limit)
        signs.observe(weight)
        attach(module, "weight", signs)
    for name in inner:
        attach(chosen[name], "input", Binarize().to(raw(chosen[name], "weight").device))
    return model


def _layers_with_signs(model: Any, sample: Any, chosen: dict[str, Module]) -> list[str]:
    """Those of the chosen layers that do not read the model's own input."""
    if sample is None:
        raise ValueError("binarize: activations=True needs sample, a batch of inputs to trace the model with")
    with inference(model):
        graph = trace(model, as_tensor(sample))
    producers = graph.producers()
    inner = []
    for node in graph.nodes:
        if node.layer not in chosen or node.layer in inner or node.name not in ("Conv2d", "Linear"):
            continue
        value = node.inputs[0]
        while (producer := producers.get(value)) is not None and producer.op in _PASSING:
            if producer.op is ReLU:
                raise ValueError(
                    f"binarize: the input of '{node.layer}' comes out of a ReLU ('{producer.layer}'), where "
                    f"every sign is +1; take the ReLU away, or put batch norm behind it"
                )
            value = producer.inputs[0]
        if value.kind == "result":
            inner.append(node.layer)
    return inner
