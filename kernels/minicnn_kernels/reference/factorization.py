"""Low-rank factors of weights in plain NumPy: the singular value decomposition, and Tucker's in two modes.

Both are computed in double precision, once per layer. A weight is (out, in, *kernel); factors are shaped as
the weights of the smaller layers that could stand in its place.
"""

from __future__ import annotations

import numpy as np

__all__ = ["low_rank_factors", "rank_of_energy", "tucker2_factors"]


def rank_of_energy(x, mode, energy):
    """The smallest rank whose singular values hold at least the share `energy` of the sum of squares; int.

    Of x as a matrix whose rows run along dimension `mode`. At least 1.
    """
    squares = np.square(np.linalg.svd(_unfold(x.astype(np.float64), mode), compute_uv=False))
    lost = squares[::-1].cumsum()[::-1]  # by keeping 0, 1, ... of them; from small to large, for precision
    return max(int(np.count_nonzero(lost > (1 - energy) * lost[0])), 1)


def low_rank_factors(x, rank):
    """left (out, rank) and right (rank, in, *kernel) whose product is the nearest of that rank to x.

    The first `rank` terms of the singular value decomposition (Eckart and Young 1936): the squared error is
    the sum of the squares of the other singular values. Each factor takes the square root of those kept.
    """
    left, values, right = np.linalg.svd(_unfold(x.astype(np.float64), 0), full_matrices=False)
    root = np.sqrt(values[:rank])
    right = root[:, None] * right[:rank]
    return (left[:, :rank] * root).astype(x.dtype), right.reshape(rank, *x.shape[1:]).astype(x.dtype)


def tucker2_factors(x, ranks, sweeps):
    """left (out, r0), core (r0, r1, *kernel), right (r1, in): x is nearly their product in modes 0 and 1.

    The bases start as the leading singular vectors of each mode (HOSVD) and are then improved in turn, each
    given the other (HOOI: De Lathauwer et al. 2000; of convolutions: Kim et al. 2016). left and right^T have
    orthonormal columns, so that squares of the core add up to those of the approximation.
    """
    weight = x.astype(np.float64)
    left, right = (_basis(_unfold(weight, mode), rank) for mode, rank in enumerate(ranks))
    for _ in range(sweeps):
        left = _basis(_unfold(_times(weight, right, 1), 0), ranks[0])
        right = _basis(_unfold(_times(weight, left, 0), 1), ranks[1])
    core = _times(_times(weight, left, 0), right, 1)
    return left.astype(x.dtype), core.astype(x.dtype), right.T.astype(x.dtype)


def _unfold(x, mode):
    """The matrix whose row i holds all elements with index i in dimension `mode`."""
    return np.moveaxis(x, mode, 0).reshape(x.shape[mode], -1)


def _basis(matrix, rank):
    """The leading left singular vectors as columns."""
    return np.linalg.svd(matrix, full_matrices=False)[0][:, :rank]


def _times(x, basis, mode):
    """x with its dimension `mode` expressed in a basis (size, rank)."""
    return np.moveaxis(np.tensordot(basis, x, axes=(0, mode)), 0, mode)
