"""Low-rank factors of weights in plain NumPy: the singular value decomposition, and Tucker's in two modes.

Both are computed once per layer, in double precision, where the squares of float32 weights lose nothing that
matters. A weight is (out, in, *kernel); factors are shaped as the weights of the smaller layers that could
stand in its place.
"""

from __future__ import annotations

import numpy as np

__all__ = ["low_rank_factors", "rank_of_energy", "tucker2_factors"]


def rank_of_energy(x, mode, energy):
    """The smallest rank whose singular values hold at least the share `energy` of the sum of squares; int.

    Of x as a matrix whose rows run along dimension `mode`. At least 1.
    """
    squares = np.maximum(np.linalg.eigvalsh(_gram(_unfold(x.astype(np.float64), mode))), 0)
    lost = squares.cumsum()[::-1]  # by keeping 0, 1, ... of them
    return max(int(np.count_nonzero(lost > (1 - energy) * lost[0])), 1)


def low_rank_factors(x, rank):
    """left (out, rank) and right (rank, in, *kernel) whose product is the nearest of that rank to x.

    The first `rank` terms of the singular value decomposition (Eckart and Young 1936): the squared error is
    the sum of the squares of the other singular values. Each factor takes the square root of those kept.
    """
    matrix = _unfold(x.astype(np.float64), 0)
    left = _basis(matrix, rank)
    right = left.T @ matrix
    root = np.sqrt(np.linalg.norm(right, axis=1))
    right /= np.where(root > 0, root, 1)[:, None]
    return (left * root).astype(x.dtype), right.reshape(rank, *x.shape[1:]).astype(x.dtype)


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


def _gram(matrix):
    """The smaller of matrix matrix^T and its counterpart: its eigenvalues are squared singular values."""
    return matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix


def _basis(matrix, rank):
    """The `rank` leading left singular vectors as columns.

    As eigenvectors of a product where that is small: 512 x 4608 take a tenth of the decomposition's time.
    """
    if matrix.shape[0] <= matrix.shape[1]:
        return np.linalg.eigh(_gram(matrix))[1][:, : -rank - 1 : -1]
    return np.linalg.svd(matrix, full_matrices=False)[0][:, :rank]


def _times(x, basis, mode):
    """x with its dimension `mode` expressed in a basis (size, rank)."""
    return np.moveaxis(np.tensordot(basis, x, axes=(0, mode)), 0, mode)
