"""Transforms: what happens to a value before it is used.

A mask, a low-rank form, a codebook or a quantizer is a small module with state of its own, attached to a
parameter, or to the input or output of a layer. The raw parameter is always kept, optimizers train it, and
`layer.weight` reads as chain(raw): low rank first, then mask, codebook and quantization, so that zeros stay
zeros. Chains are children of the layer ("weight_transforms"): state_dict, deepcopy, train, eval and tracing
know them. Which transforms there are is in `minicnn.compress`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

from minicnn.functions.quantization import Lattices
from minicnn.nn.container import ModuleDict, ModuleList, Sequential
from minicnn.nn.module import TRANSFORMS, Module
from minicnn.tensor import Tensor

ORDER = ("low_rank", "mask", "codebook", "quantize")
"""The kinds of transforms, in the order in which a chain applies them."""

PLACES = ("input", "output")
"""Where transforms of activations are attached; every other place is the name of a parameter."""


class Transform(Module):
    """Base class: `forward(value)` gives the value as it is used, of the same shape."""

    kind: ClassVar[str]

    def options(self) -> dict[str, Any]:
        """Plain arguments with which `type(self)` makes a transform that takes this one's state_dict."""
        raise TypeError(f"{type(self).__name__} defines no options")

    def attached(self, module: Module, place: str) -> None:
        """Called when it comes to stand at `place` of `module`, and when the parameter there is replaced."""

    def detached(self, module: Module, place: str) -> None:
        """Called before it is taken away."""


class TransformChain(Module):
    """The transforms at one place, at most one of each kind, in their fixed order."""

    def forward(self, value: Tensor) -> Tensor:
        for kind in ORDER:
            transform = self._modules.get(kind)
            if transform is not None:
                value = transform(value)
        return value

    def __iter__(self) -> Iterator[Transform]:
        return iter(self._modules.values())  # type: ignore[arg-type]

    def attached(self, module: Module, place: str) -> None:
        """Tell each that it stands at `place` of `module`."""
        for transform in self:
            transform.attached(module, place)


class Attached(NamedTuple):
    """A transform and where it stands: path of the module in its model, and the place there."""

    path: str
    module: Module
    place: str
    transform: Transform

    @property
    def name(self) -> str:
        """Dotted name of what is transformed: 'features.0.weight', or 'features.1.output'."""
        return f"{self.path}.{self.place}" if self.path else self.place


def attach(module: Module, place: str, transform: Transform) -> Transform:
    """Let `transform` work at `place` of `module`: the name of a parameter, 'input' or 'output'.

    Returns the transform. Raises ValueError if there is one of its kind already, if the place does not
    exist, or if an activation of a container is meant (attach to a layer in it instead).
    """
    owner = type(module).__name__
    if place in PLACES:
        if isinstance(module, (Sequential, ModuleList, ModuleDict)):
            raise ValueError(f"attach: {owner} is a container; attach to the {place} of one of its layers")
    elif module._parameters.get(place) is None:
        known = ", ".join(name for name, p in module._parameters.items() if p is not None) or "no parameters"
        raise ValueError(f"attach: {owner} has no parameter {place!r}; it has {known}, input and output")
    chain = module._modules.get(place + TRANSFORMS)
    if chain is None:
        chain = TransformChain()
        chain.train(module.training)
        module.register_module(place + TRANSFORMS, chain)
    if transform.kind in chain._modules:
        raise ValueError(f"attach: {owner}.{place} has a transform of kind '{transform.kind}' already")
    transform.train(module.training)
    chain.register_module(transform.kind, transform)
    transform.attached(module, place)
    return transform


def detach(module: Module, place: str, kind: str) -> Transform:
    """Take the transform of `kind` away from `place` and return it. Raises ValueError if there is none."""
    transform = find(module, place, kind)
    if transform is None:
        raise ValueError(f"detach: {type(module).__name__}.{place} has no transform of kind '{kind}'")
    transform.detached(module, place)
    chain = module._modules[place + TRANSFORMS]
    del chain._modules[kind]
    if not chain._modules:
        del module._modules[place + TRANSFORMS]
    return transform


def find(module: Module, place: str, kind: str) -> Any:
    """The transform of `kind` at `place` of `module`, or None."""
    chain = module._modules.get(place + TRANSFORMS)
    return None if chain is None else chain._modules.get(kind)


def attached(model: Module, kind: str | None = None) -> Iterator[Attached]:
    """All transforms of a model, of one kind if it is given, parents first."""
    for path, module in model.named_modules():
        for name, chain in module._modules.items():
            if isinstance(chain, TransformChain):
                place = name.removesuffix(TRANSFORMS)
                for transform in chain:
                    if kind in (None, transform.kind):
                        yield Attached(path, module, place, transform)


def raw(module: Module, place: str) -> Any:
    """The parameter itself, before any transform."""
    return module._parameters[place]


def value_before(module: Module, place: str, kind: str) -> Tensor:
    """The parameter as a transform of `kind` gets it: after those that come before it in ORDER."""
    value = raw(module, place)
    for earlier in ORDER[: ORDER.index(kind)]:
        transform = find(module, place, earlier)
        if transform is not None:
            value = transform(value)
    return value


def lattices(module: Module) -> Lattices | None:
    """What a layer with quantized input and weight computes on in eval mode; None for any other.

    A layer that has no weight, average pooling, needs none. Then its sums are exact integers (see
    `minicnn_kernels.reference.quantization`), so that an integer kernel can give the same bits. In training
    mode the same layer computes with floats.
    """
    if module.training or "input" + TRANSFORMS not in module._modules:
        return None
    x, weight, y = (find(module, place, "quantize") for place in ("input", "weight", "output"))
    if x is None or not x.enabled:
        return None
    if "weight" in module._parameters and (weight is None or not weight.enabled):
        return None
    x_scale, _ = x.lattice()
    w_scale = None if weight is None else weight.lattice()[0]
    if y is None or not y.enabled:
        return Lattices(x_scale, w_scale, None, None, 0, 0)
    y_scale, y_zero_point = y.lattice()
    return Lattices(x_scale, w_scale, y_scale, y_zero_point, y.quant_min, y.quant_max)
