"""Ranks and products of low-rank factors, and the report of what a factorization saves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import minicnn_kernels as kernels
from minicnn.grad_mode import no_grad
from minicnn.nn import init
from minicnn.nn.module import Module
from minicnn.nn.parameter import Parameter
from minicnn.tensor import Tensor


def weight_like(like: Tensor, shape: tuple[int, ...]) -> Any:
    """Zeros of `shape` in the dtype of `like`, on its device, in the memory order of weights."""
    array = init.empty_weight(shape, like.dtype)
    kernels.of(array).copy_into(array, 0)
    return kernels.to_device(array, like.device)


def take_over(parameters: Iterable[Parameter], factors: Iterable[Any]) -> None:
    """Write factors, which are computed in host memory, into parameters, wherever they are."""
    for own, factor in zip(parameters, factors, strict=True):
        kernels.of(own.data).copy_into(own.data, kernels.to_device(factor, own.device))
        own.mark_changed()


def product(left: Tensor, right: Tensor) -> Tensor:
    """left (out, rank) times right (rank, in, *kernel): (out, in, *kernel), in memory as weights are."""
    dims = right.ndim
    rows = right.permute(*range(2, dims), 1, 0)  # (*kernel, in, rank): as it lies in memory
    weight = rows.reshape(-1, right.shape[0]) @ left.T
    return weight.reshape(*rows.shape[:-1], left.shape[0]).permute(dims - 1, dims - 2, *range(dims - 2))


@dataclass(frozen=True)
class Rank:
    """A rule for ranks: one of the three is not None."""

    number: int | None
    energy: float | None
    ratio: float | None

    @classmethod
    def checked(cls, number: Any, energy: Any, ratio: Any) -> Rank:
        """The rule, or ValueError that says what is wrong with the arguments of `low_rank`."""
        given = [
            name for name, x in (("rank", number), ("energy", energy), ("ratio", ratio)) if x is not None
        ]
        if len(given) != 1:
            raise ValueError(
                f"low_rank: expected one of rank, energy, ratio, got {' and '.join(given) or 'none'}"
            )
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise ValueError(f"low_rank: expected rank to be an integer of at least 1, got {number!r}")
        for name, share in (("energy", energy), ("ratio", ratio)):
            if share is not None and not 0 < share <= 1:
                raise ValueError(f"low_rank: expected {name} in (0, 1], got {share!r}")
        return cls(number, energy, ratio)

    def of_matrix(self, value: Tensor) -> int:
        """The rank of a weight taken as a matrix (out, the rest)."""
        return self._of_mode(value, 0, 1.0)

    def of_tensor(self, value: Tensor) -> tuple[int, int]:
        """The ranks of outputs and inputs.

        The squared error of cutting both modes is at most the sum of what each cuts off (De Lathauwer et al.
        2000, property 10), so each may lose half of what `energy` leaves over. More outputs than the inputs
        and the kernel can make (and the other way round) would be idle.
        """
        outputs, inputs = self._of_mode(value, 0, 0.5), self._of_mode(value, 1, 0.5)
        taps = prod(value.shape[2:])
        return min(outputs, inputs * taps), min(inputs, outputs * taps)

    def _of_mode(self, value: Tensor, mode: int, share: float) -> int:
        size = value.shape[mode]
        full = min(size, value.numel() // size)
        if self.number is not None:
            return min(self.number, full)
        if self.ratio is not None:
            return max(round(self.ratio * full), 1)
        assert self.energy is not None
        array = kernels.to_host(value.data)
        return kernels.of(array).rank_of_energy(array, mode, 1 - share * (1 - self.energy))


@dataclass(frozen=True)
class FactorRow:
    """One layer: its ranks, the share of the sum of squares that stays, numbers stored and multiplied.

    macs are multiply-accumulates per position of the output (for a dense layer: per sample), the factors run
    as layers in a row; a first 1x1 layer sees stride^2 positions for one of the output.
    """

    layer: str
    form: str
    ranks: tuple[int, ...]
    energy: float
    dense_parameters: int
    parameters: int
    dense_macs: int
    macs: int

    @classmethod
    def of(cls, name: str, layer: Module, value: Tensor, form: Any) -> FactorRow:
        """The row of `form` for the weight `value`, its energy not yet known."""
        factors = [factor.numel() for factor in form.parameters()]
        macs = sum(factors)
        if "right" in form._parameters and "core" in form._parameters:
            macs += form.right.numel() * (prod(layer.stride) - 1)
        ranks = (form.rank,) if hasattr(form, "rank") else form.ranks
        dense = value.numel()
        return cls(name, type(form).__name__, ranks, 1.0, dense, sum(factors), dense, macs)

    def measured(self, value: Tensor, form: Any) -> FactorRow:
        """The row with the energy that the factors keep of `value`."""
        with no_grad():
            total = (value * value).sum().item()
            lost = (value - form(value)).square().sum().item()
        return replace(self, energy=1 - lost / total if total else 1.0)


@dataclass(frozen=True)
class FactorReport:
    """What `low_rank` did, layer by layer; layers that are not named here are as they were."""

    rows: list[FactorRow]

    def __iter__(self) -> Iterator[FactorRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def saved_parameters(self) -> int:
        """Numbers fewer than the dense weights have."""
        return sum(row.dense_parameters - row.parameters for row in self.rows)

    def __str__(self) -> str:
        if not self.rows:
            return "no layer has fewer numbers in low-rank form"
        lines = ["layer: form and ranks, energy kept, parameters, multiplications per output position"]
        lines += [
            f"{row.layer}: {row.form} {', '.join(map(str, row.ranks))}, {row.energy:.4f}, "
            f"{row.dense_parameters:,} -> {row.parameters:,}, {row.dense_macs:,} -> {row.macs:,}"
            for row in self.rows
        ]
        return "\n".join(lines)
