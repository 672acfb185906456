"""Low rank: dense weights as a product of two thin matrices, and what all low-rank forms share.

The form of convolutions with larger kernels is in `tucker.py`. Factors are trained in place of the raw weight
and shaped as the weights of the smaller layers that deployment can put in the layer's place.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import minicnn_kernels as kernels
from minicnn import nn
from minicnn.compress.factors import FactorReport, FactorRow, Rank, product, take_over, weight_like
from minicnn.compress.select import select_layers
from minicnn.compress.substitute import Substitute
from minicnn.compress.tucker import Tucker2
from minicnn.nn.module import Module
from minicnn.nn.parameter import Parameter
from minicnn.nn.transform import attach, find, value_before
from minicnn.tensor import Tensor


class LowRank(Substitute):
    """left @ right in place of a weight (out, in, *kernel): left (out, rank), right (rank, in, *kernel).

    So `right` is the weight of a layer of the same kind with `rank` outputs, and `left` that of a dense or
    1x1 layer behind it. like: the parameter. The raw parameter is kept as it was and gets no gradient.
    """

    kind = "low_rank"

    def __init__(self, like: Tensor, rank: int) -> None:
        super().__init__()
        outputs, *rest = like.shape
        most = min(outputs, prod(rest))
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most:
            raise ValueError(f"LowRank: expected rank from 1 to {most} for {like.shape}, got {rank!r}")
        self.rank = rank
        self.left = Parameter(weight_like(like, (outputs, rank)))
        self.right = Parameter(weight_like(like, (rank, *rest)))

    def factorize(self, value: Tensor) -> None:
        """Take the factors of the nearest of this rank to `value` (Eckart and Young 1936)."""
        array = kernels.to_host(value.data)
        take_over((self.left, self.right), kernels.of(array).low_rank_factors(array, self.rank))

    def forward(self, value: Tensor) -> Tensor:
        return product(self.left, self.right)

    def options(self) -> dict[str, Any]:
        return {"rank": self.rank}

    def extra_repr(self) -> str:
        return f"rank={self.rank}"


def low_rank(
    model: Module,
    *,
    rank: int | None = None,
    energy: float | None = None,
    ratio: float | None = None,
    layers: str | Iterable[str] | None = None,
) -> FactorReport:
    """Give layers the low-rank form: dense ones and 1x1 convolutions `LowRank`, others `Tucker2`.

    Exactly one of rank: a number, at most the layer's full rank; energy: in (0, 1], the least share of the
    sum of squares that stays, with the smallest ranks that promise it; ratio: in (0, 1], the share of the
    full rank. The factors are new parameters: make the optimizer afterwards.
    layers: None for all that have something to gain; those that are named are factorized in any case.
    Gives what became of each layer (`FactorReport`). Factors are computed in host memory, wherever the model
    is, and moved to it.

    Raises ValueError for other arguments, an unknown layer, grouped convolutions that are named, layers that
    are low-rank already, and weights that are not finite; the model is then as it was.
    """
    wanted = Rank.checked(rank, energy, ratio)
    made: list[tuple[Module, LowRank | Tucker2]] = []
    rows: list[FactorRow] = []
    for name, layer in select_layers(model, layers, kinds=(nn.Linear, nn.Conv1d, nn.Conv2d)).items():
        problem = _problem(layer)
        if problem:
            if layers is None and "groups" in problem:
                continue
            raise ValueError(f"low_rank: layer {name!r} {problem}")
        value = value_before(layer, "weight", "low_rank").detach()
        if not kernels.of(value.data).all_finite(value.data):
            raise ValueError(f"low_rank: the weight of layer {name!r} holds NaN or infinity; train it anew")
        form: LowRank | Tucker2
        if prod(value.shape[2:]) == 1:
            form = LowRank(value, wanted.of_matrix(value))
        else:
            form = Tucker2(value, wanted.of_tensor(value))
        row = FactorRow.of(name, layer, value, form)
        if layers is None and row.parameters >= row.dense_parameters:
            continue
        form.factorize(value)
        rows.append(row.measured(value, form))
        made.append((layer, form))
    for layer, form in made:
        attach(layer, "weight", form)
    return FactorReport(rows)


def _problem(layer: Module) -> str:
    """Why a layer can't have the form; '' if it can."""
    if getattr(layer, "groups", 1) != 1:
        return f"has groups={layer.groups}, whose parts share no factors; expected groups=1"
    if find(layer, "weight", "low_rank") is not None:
        return "is low-rank already; take that away first (minicnn.nn.transform.detach)"
    return ""
