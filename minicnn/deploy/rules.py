"""What a program in a file may ask for: a rule for every op, checked before anything of it is run.

Kernels trust their callers: compiled loops read where shapes and options tell them to. A file is no such
caller, so here each node is held against what its op takes: how many operands and options, of which kind,
which shapes fit together, and how much memory and arithmetic comes of them. Ops without a rule are refused;
the rules themselves are in `rule_checks.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

from minicnn.deploy import rule_checks as kinds
from minicnn.deploy.rule_checks import Breach
from minicnn.function import Function
from minicnn.functions import activation, arithmetic, elementwise, moving, reduction
from minicnn.functions.binary import Binarize
from minicnn.functions.conv import Conv2d, ConvTranspose2d
from minicnn.functions.indexing import GetItem
from minicnn.functions.joining import Cat
from minicnn.functions.linear import Linear, MatMul
from minicnn.functions.moving import Pad
from minicnn.functions.normalization import BatchNormInference, LayerNorm
from minicnn.functions.pooling import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, MaxPool2d
from minicnn.functions.quantization import (
    ApplyMask,
    FakeQuantize,
    QuantizedAvgPool2d,
    QuantizedConv2d,
    QuantizedLinear,
    RoundSTE,
    ScaleGradient,
)
from minicnn.functions.shape import BroadcastTo, Permute, Reshape
from minicnn.graph.ir import Node, Value

_MOST_ELEMENTS = 1 << 27  # of all values, and of the windows of one op, for each image
_MOST_WORK = 1 << 38  # multiplications for each image: twenty times those of a ResNet-152


class ProgramError(ValueError):
    """Plain data that is no program, or a Graph that cannot be written as one."""


class Cost(NamedTuple):
    """What a node takes: elements of its result, of the windows that it looks at, and multiplications."""

    elements: int = 0
    windows: int = 0
    work: int = 0

    def plus(self, other: Cost) -> Cost:
        """Both one after the other."""
        return Cost(self.elements + other.elements, max(self.windows, other.windows), self.work + other.work)

    def limit(self, batch: int) -> None:
        """Raise ProgramError if that is more than any model takes for `batch` images."""
        for what, count, most in zip(
            ("elements", "elements in windows", "multiplications"),
            self,
            (_MOST_ELEMENTS, _MOST_ELEMENTS, _MOST_WORK),
            strict=True,
        ):
            if count > most * max(batch, 1):
                raise ProgramError(f"program: {count:,} {what} for {batch} images are more than any model's")


def check(node: Node) -> Cost:
    """What `node`, whose inputs have shapes, takes. Raises ProgramError unless its op can run it."""
    try:
        return _checked(node)
    except Breach as breach:
        where = f" of layer '{node.layer}'" if node.layer else ""
        raise ProgramError(f"program: {node.name}{where}: {breach}") from None


def _checked(node: Node) -> Cost:
    rule = RULES.get(node.op)
    if rule is None:
        raise Breach("files do not hold this op")
    positional, keywords, variadic = _signature(node.op)
    if not variadic and len(node.inputs) != positional:
        raise Breach(f"expected {positional} operands, got {len(node.inputs)}")
    if set(node.options) != keywords:
        raise Breach(f"expected the options {sorted(keywords)}, got {sorted(node.options)}")
    for x in node.inputs:
        if not (x is None or isinstance(x, Value) or kinds.is_number(x)):
            raise Breach(f"expected tensors and numbers, got {x!r}")
        if isinstance(x, Value) and x.shape and not prod(x.shape[1:]):
            raise Breach(f"there is nothing in {x}")
    counts = rule(node)
    return Cost(*counts) if isinstance(counts, tuple) else Cost(counts)


def _signature(op: type[Function]) -> tuple[int, set[str], bool]:
    parameters = list(inspect.signature(op.forward).parameters.values())[1:]
    keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return len(parameters) - len(keywords) - variadic, keywords, variadic


Rule = Callable[[Node], Any]

RULES: dict[type[Function], Rule] = {
    **dict.fromkeys(
        (activation.ReLU, activation.LeakyReLU, activation.Hardtanh, activation.Sigmoid, activation.Tanh,
         activation.SiLU, activation.GELU, activation.ELU, activation.Softplus, arithmetic.Clamp, RoundSTE,
         ScaleGradient),
        kinds.pointwise,
    ),
    **dict.fromkeys(
        (op for op in vars(elementwise).values()
         if isinstance(op, type) and issubclass(op, Function) and op.__module__ == elementwise.__name__
         and not op.__name__.startswith("_") and op is not Function),
        kinds.pointwise,
    ),
    **dict.fromkeys(
        (arithmetic.Add, arithmetic.Sub, arithmetic.Mul, arithmetic.Div, arithmetic.Pow, arithmetic.Maximum,
         arithmetic.Minimum, arithmetic.Atan2, arithmetic.FloorDivide, arithmetic.Remainder),
        kinds.broadcasting,
    ),
    **dict.fromkeys((activation.Softmax, activation.LogSoftmax, reduction.CumSum), kinds.along),
    **dict.fromkeys(
        (reduction.Sum, reduction.Mean, reduction.Prod, reduction.Extreme, reduction.Var, reduction.Std,
         reduction.LogSumExp, reduction.Norm),
        kinds.reduction,
    ),
    **dict.fromkeys((Conv2d, QuantizedConv2d), kinds.convolution),
    **dict.fromkeys((Linear, QuantizedLinear), kinds.dense),
    **dict.fromkeys((MaxPool2d, AvgPool2d, QuantizedAvgPool2d), kinds.pooling),
    **dict.fromkeys((AdaptiveAvgPool2d, AdaptiveMaxPool2d), kinds.adaptive),
    **dict.fromkeys((moving.Flip, moving.Roll), kinds.turn),
    arithmetic.Where: kinds.where,
    ApplyMask: kinds.mask,
    BatchNormInference: kinds.per_channel,
    Binarize: kinds.signs,
    BroadcastTo: kinds.repeat,
    Cat: kinds.join,
    ConvTranspose2d: kinds.transposed_convolution,
    FakeQuantize: kinds.quantizer,
    GetItem: kinds.pick,
    LayerNorm: kinds.layer_norm,
    MatMul: kinds.matrices,
    moving.Clone: kinds.copy,
    Pad: kinds.frame,
    Permute: kinds.permute,
    Reshape: kinds.reshape,
}  # fmt: skip
"""Every op that a file may ask for, and what is checked; see `rule_checks.py`."""

OPS: dict[str, type[Function]] = {op.__name__: op for op in RULES}
