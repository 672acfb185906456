"""FakeQuantize: the transform that puts a weight or an activation on a lattice of 2 to 16 bits.

In training the gradient passes straight through; in eval mode layers whose input and weight are quantized
compute in exact integers (`minicnn.nn.transform.lattices`); SameLattice says that a value is on one already.
Where a lattice comes from is in `observers.py`, which layers get one in `quantize.py`.
"""

from __future__ import annotations

import math
from typing import Any

import minicnn_kernels as kernels
from minicnn.functions.quantization import ObservedFakeQuantize, fake_quantize, scale_gradient
from minicnn.nn.module import Module
from minicnn.nn.parameter import Parameter
from minicnn.nn.transform import PLACES, Transform
from minicnn.tensor import Tensor, float32, int32


class FakeQuantize(Transform):
    """The nearest point of the lattice of `scale` and `zero_point`.

    bits: 2 to 16. signed: whole numbers from -(2^(bits-1) - 1) on if symmetric, -2^(bits-1) if not; else
    from 0 to 2^bits - 1. symmetric: zero_point is 0. channels: None for one lattice, or the number of
    channels along dimension `axis`, each with a lattice of its own. power_of_two: scales are powers of 2.
    momentum: in training the range moves by this share towards that of every batch (1: it is that of the
    present value, which is right for weights); None: it stays. learned: scale is a Parameter trained by
    gradient (LSQ, Esser et al. 2020), whose gradient is divided by sqrt(count * quant_max): how many elements
    share the scale, of an activation in one image.
    enabled: False lets values through untouched.
    """

    kind = "quantize"

    def __init__(
        self,
        bits: int = 8,
        *,
        signed: bool = True,
        symmetric: bool = True,
        channels: int | None = None,
        axis: int = 0,
        power_of_two: bool = False,
        momentum: float | None = None,
        learned: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 16:
            raise ValueError(f"FakeQuantize: expected bits from 2 to 16, got {bits!r}")
        if momentum is not None and not 0 < momentum <= 1:
            raise ValueError(f"FakeQuantize: expected momentum in (0, 1] or None, got {momentum!r}")
        if learned and (not symmetric or power_of_two):
            raise ValueError("FakeQuantize: a learned scale is symmetric and no power of two")
        self.bits, self.signed, self.symmetric = bits, signed, symmetric
        self.channels, self.power_of_two = channels, power_of_two
        self.axis = None if channels is None else axis
        self.momentum, self.learned, self.enabled = momentum, learned, True
        self.of_activation = False
        self.quant_max = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.quant_min = 0 if not signed else -self.quant_max if symmetric else -self.quant_max - 1

        shape = () if channels is None else (channels,)
        k = kernels.backend("reference")
        for name, start, dtype in (
            ("scale", 1, float32),
            ("zero_point", 0, int32),
            ("low", 0, float32),
            ("high", 0, float32),
        ):
            value = k.full(shape, start, dtype)
            if name == "scale" and learned:
                self.scale = Parameter(value)
            else:
                self.register_buffer(name, Tensor(value))

    def forward(self, value: Tensor) -> Tensor:
        if not self.enabled:
            return value
        bounds = {"qmin": self.quant_min, "qmax": self.quant_max, "axis": self.axis}
        if self.training and self.momentum is not None and not self.learned:
            return ObservedFakeQuantize.apply(
                value, self.scale, self.zero_point, self.low, self.high, **bounds,
                momentum=self.momentum, symmetric=self.symmetric, power_of_two=self.power_of_two,
            )  # fmt: skip
        scale, zero_point = self.lattice()
        if self.learned and self.training:
            images = len(value) if self.of_activation else 1
            count = value.numel() // max(images * scale.numel(), 1)
            scale = scale_gradient(scale, 1 / math.sqrt(max(count * self.quant_max, 1)))
        return fake_quantize(value, scale, zero_point, self.quant_min, self.quant_max, self.axis)

    @property
    def rule(self) -> tuple[int, int, bool, bool]:
        """How a lattice is made of a range: quant_min, quant_max, symmetric, power_of_two."""
        return self.quant_min, self.quant_max, self.symmetric, self.power_of_two

    def attached(self, module: Module, place: str) -> None:
        self.of_activation = place in PLACES

    def lattice(self) -> tuple[Tensor, Tensor]:
        """The scale and zero point in force, () or (channels,)."""
        scale = self.scale.abs().clamp(min=1e-12) if self.learned else self.scale
        return scale, self.zero_point

    def set_range(self, low: Any, high: Any) -> None:
        """Take the lattice for values from `low` to `high`: numbers, or arrays () or (channels,) on the
        quantizer's device."""
        k = kernels.of(self.low.data)
        for buffer, bound in ((self.low, low), (self.high, high)):
            k.copy_into(buffer.data, bound)
            buffer.mark_changed()
        low, high = k.minimum(self.low.data, 0), k.maximum(self.high.data, 0)
        lattice = k.choose_scale(low, high, *self.rule)
        for own, new in zip((self.scale, self.zero_point), lattice, strict=True):
            k.copy_into(own.data, new)
            own.mark_changed()

    def observe(self, value: Tensor, *, least_error: bool = False) -> None:
        """Take the lattice for the range of `value`, or the one whose squared error is least.

        The quantizer moves to the device of `value`.
        """
        self.to(value.device)
        k = kernels.of(value.data)
        if least_error:
            self.set_range(*k.least_error_values(value.data, self.axis, *self.rule))
        else:
            self.set_range(*k.value_range(value.data, self.axis))

    def options(self) -> dict[str, Any]:
        names = ("bits", "signed", "symmetric", "channels", "power_of_two", "momentum", "learned")
        return {name: getattr(self, name) for name in names} | {"axis": self.axis or 0}

    def extra_repr(self) -> str:
        kind = "symmetric" if self.symmetric else "affine"
        per = "" if self.channels is None else f", {self.channels} channels"
        return f"{self.bits} bits, {'signed' if self.signed else 'unsigned'}, {kind}{per}"


class SameLattice(Transform):
    """The value itself, known to be on the lattice of `source`, a FakeQuantize elsewhere in the model.

    It stands at the input of a layer whose value another one put on a lattice, with nothing in between but
    what commutes with it: ReLU, max-pooling, reshaping, picking, padding with zeros.
    """

    kind = "quantize"
    source: FakeQuantize

    def __init__(self, source: FakeQuantize) -> None:
        super().__init__()
        self.__dict__["source"] = source  # not a child: its state is kept where it stands

    @property
    def enabled(self) -> bool:
        """Whether the source quantizes."""
        return self.source.enabled

    def forward(self, value: Tensor) -> Tensor:
        return value

    def lattice(self) -> tuple[Tensor, Tensor]:
        """The scale and zero point of the source."""
        return self.source.lattice()
