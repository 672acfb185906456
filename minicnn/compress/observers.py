"""Observers: what they see of an activation while a model is calibrated decides the range of its lattice.

The extremes of everything, or a moving average of them; or of a histogram the middle 99.99%, the range whose
lattice errs least, or the one that keeps most information. The searches are kernels.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable

import minicnn_kernels as kernels
from minicnn.compress.fake_quantize import FakeQuantize
from minicnn.tensor import Tensor, int64

Range = tuple[float, float]


class Observer:
    """Base class: `see` every batch, then ask for the `range` that a quantizer shall cover."""

    def see(self, value: Tensor) -> None:
        """Take in one batch."""
        raise TypeError(f"{type(self).__name__} defines no see")

    def range(self, quantizer: FakeQuantize) -> Range:
        """(low, high) with low <= 0 <= high, for the lattice of `quantizer`."""
        raise TypeError(f"{type(self).__name__} defines no range")


class MinMax(Observer):
    """The smallest and the largest value of all."""

    def __init__(self) -> None:
        self.low = self.high = 0.0

    def see(self, value: Tensor) -> None:
        low, high = extremes(value)
        self.low, self.high = min(self.low, low), max(self.high, high)

    def range(self, quantizer: FakeQuantize) -> Range:
        return self.low, self.high


class Moving(Observer):
    """Moving averages of each batch's smallest and largest value (Jacob et al. 2018, section 3.1)."""

    def __init__(self, momentum: float = 0.1) -> None:
        if not 0 < momentum <= 1:
            raise ValueError(f"Moving: expected momentum in (0, 1], got {momentum!r}")
        self.momentum = momentum
        self.seen: Range | None = None

    def see(self, value: Tensor) -> None:
        low, high = extremes(value)
        before = self.seen or (low, high)
        self.seen = (
            before[0] + (low - before[0]) * self.momentum,
            before[1] + (high - before[1]) * self.momentum,
        )

    def range(self, quantizer: FakeQuantize) -> Range:
        return self.seen or (0.0, 0.0)


class Histogram(Observer):
    """Counts of all values in 4,096 bins around 0, whose width doubles when one comes that lies outside.

    They are kept, and searched, in host memory, wherever the values are.
    """

    bins = 4096

    def __init__(self) -> None:
        self.width = 2.0**-64
        self.counts = kernels.backend("reference").full((self.bins,), 0, int64)
        self.low = self.high = 0.0

    def see(self, value: Tensor) -> None:
        k = kernels.of(self.counts)
        low, high = extremes(value)
        while max(-low, high) >= self.width * self.bins / 2:  # a bin has its lower edge, not its upper one
            self.counts, self.width = k.widen(self.counts), 2 * self.width
        more = kernels.of(value.data).histogram(value.data, self.width, self.bins)
        self.counts = k.add(self.counts, kernels.to_host(more))
        self.low, self.high = min(self.low, low), max(self.high, high)

    def within(self, low: float, high: float) -> Range:
        """The range (low, high) without what was never seen."""
        return max(low, self.low), min(high, self.high)


class Percentile(Histogram):
    """The range that holds the middle `percentile` percent of the values, up to the width of a bin."""

    def __init__(self, percentile: float = 99.99) -> None:
        if not 0 < percentile <= 100:
            raise ValueError(f"Percentile: expected percent in (0, 100], got {percentile!r}")
        super().__init__()
        self.percentile = percentile

    def range(self, quantizer: FakeQuantize) -> Range:
        k = kernels.of(self.counts)
        return self.within(*k.percentile_range(self.counts, self.width, self.percentile))


class LeastError(Histogram):
    """The range whose lattice has the smallest squared error."""

    def range(self, quantizer: FakeQuantize) -> Range:
        k = kernels.of(self.counts)
        return k.least_error_range(self.counts, self.width, self.low, self.high, *quantizer.rule)


class Entropy(Histogram):
    """The range that loses least information (Migacz 2017), as TensorRT calibrates."""

    def range(self, quantizer: FakeQuantize) -> Range:
        symmetric = quantizer.symmetric
        levels = quantizer.quant_max + 1 if symmetric else 2 ** (quantizer.bits - 1)
        return self.within(*kernels.of(self.counts).entropy_range(self.counts, self.width, levels, symmetric))


OBSERVERS: dict[str, Callable[[], Observer]] = {
    "minmax": MinMax,
    "moving": Moving,
    "percentile": Percentile,
    "mse": LeastError,
    "kl": Entropy,
}


def make_observer(observer: str | Callable[[], Observer]) -> Observer:
    """A new observer: of a name in OBSERVERS, or what `observer()` gives. Raises ValueError for others."""
    if callable(observer):
        return observer()
    if observer not in OBSERVERS:
        nearest = difflib.get_close_matches(str(observer), OBSERVERS, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(f"unknown observer {observer!r}: {hint}expected one of {', '.join(OBSERVERS)}")
    return OBSERVERS[observer]()


def extremes(value: Tensor) -> Range:
    """Smallest and largest element, widened to hold 0. Raises ValueError if one is infinite or no number."""
    k = kernels.of(value.data)
    low, high = (float(kernels.to_host(bound)) for bound in k.value_range(value.data, None))
    if not (math.isfinite(low) and math.isfinite(high) and k.all_finite(value.data)):
        raise ValueError(f"an activation of shape {value.shape} is infinite or no number")
    return low, high
