"""A trained low-rank residual on a frozen weight: f_target = f_source + delta f, with few new numbers."""

from __future__ import annotations

from math import prod
from typing import Any

from minicnn.compress.factors import product, weight_like
from minicnn.compress.substitute import Substitute
from minicnn.nn import init
from minicnn.nn.parameter import Parameter
from minicnn.tensor import Tensor


class LowRankResidual(Substitute):
    """value + left @ right: left (out, rank) starts at zero, right (rank, in, *kernel) at random.

    So it changes nothing at first (LoRA: Hu et al. 2022, section 4.1). like: the parameter, which is kept as
    it was and gets no gradient.
    """

    kind = "low_rank"

    def __init__(self, like: Tensor, rank: int) -> None:
        super().__init__()
        outputs, *rest = like.shape
        most = min(outputs, prod(rest))
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most:
            raise ValueError(
                f"LowRankResidual: expected rank from 1 to {most} for {like.shape}, got {rank!r}"
            )
        self.rank = rank
        self.left = Parameter(weight_like(like, (outputs, rank)))
        self.right = Parameter(weight_like(like, (rank, *rest)))
        init.normal_(self.right, std=prod(rest) ** -0.5)

    def forward(self, value: Tensor) -> Tensor:
        return value + product(self.left, self.right)

    def options(self) -> dict[str, Any]:
        return {"rank": self.rank}

    def extra_repr(self) -> str:
        return f"rank={self.rank}"
