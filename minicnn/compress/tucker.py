"""Tucker-2: a convolution as a 1x1, a small k x k and another 1x1 convolution (Kim et al. 2016)."""

from __future__ import annotations

from math import prod
from typing import Any

import minicnn_kernels as kernels
from minicnn.compress.factors import take_over, weight_like
from minicnn.compress.substitute import Substitute
from minicnn.nn.parameter import Parameter
from minicnn.tensor import Tensor

SWEEPS = 3  # of HOOI; on trained layers later ones change the error in its fourth digit


class Tucker2(Substitute):
    """left, core and right in place of a weight (out, in, *kernel), at most `ranks` (r0, r1) in each mode.

    w[o, i, ...] = sum over a, b of left[o, a] core[a, b, ...] right[b, i], with left (out, r0), core
    (r0, r1, *kernel), right (r1, in). like: the parameter, which is kept as it was and gets no gradient.
    """

    kind = "low_rank"

    def __init__(self, like: Tensor, ranks: tuple[int, int]) -> None:
        super().__init__()
        outputs, inputs, *kernel = like.shape
        first, second = ranks
        taps = prod(kernel)
        if not (1 <= first <= min(outputs, second * taps) and 1 <= second <= min(inputs, first * taps)):
            raise ValueError(
                f"Tucker2: expected ranks r0 from 1 to min({outputs}, {taps} r1) and r1 from 1 to "
                f"min({inputs}, {taps} r0) for {like.shape}, got {first} and {second}"
            )
        self.ranks = (first, second)
        self.left = Parameter(weight_like(like, (outputs, first)))
        self.core = Parameter(weight_like(like, (first, second, *kernel)))
        self.right = Parameter(weight_like(like, (second, inputs)))

    def factorize(self, value: Tensor) -> None:
        """Take the factors of `value`: HOSVD, then a few sweeps of HOOI."""
        array = kernels.to_host(value.data)
        factors = kernels.of(array).tucker2_factors(array, self.ranks, SWEEPS)
        take_over((self.left, self.core, self.right), factors)

    def forward(self, value: Tensor) -> Tensor:
        first, second, *kernel = self.core.shape
        dims = self.core.ndim
        # Two flat products with a small copy between: W2's step took 35 ms, with a product for each tap 65.
        taps = self.core.permute(*range(2, dims), 0, 1).reshape(-1, second)
        inner = (taps @ self.right).reshape(-1, first, self.right.shape[1]).mT  # (taps, in, r0)
        weight = (inner.reshape(-1, first) @ self.left.T).reshape(*kernel, -1, self.left.shape[0])
        return weight.permute(dims - 1, dims - 2, *range(dims - 2))  # as weights lie in memory

    def options(self) -> dict[str, Any]:
        return {"ranks": self.ranks}

    def extra_repr(self) -> str:
        return f"ranks={self.ranks}"
