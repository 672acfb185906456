"""Values that share a few numbers: what weight sharing adds to the tape. See `minicnn.compress.share`."""

from __future__ import annotations

from typing import Any

import minicnn_kernels as kernels
from minicnn.function import Function
from minicnn.functions.arguments import check_tensors, fail
from minicnn.tensor import Tensor

__all__ = ["codebook"]


class Codebook(Function):
    """centroids[index] where x is not 0; x itself gets no gradient, a centroid that of all its members."""

    def forward(self, x: Any, centroids: Any, index: Any) -> Any:
        self.x, self.index, self.clusters = x, index, centroids.shape[0]
        return kernels.of(x).codebook_forward(x, centroids, index)

    def backward(self, grad: Any) -> tuple[Any, ...]:
        return None, kernels.of(grad).codebook_backward(grad, self.x, self.index, self.clusters), None


def codebook(input: Tensor, centroids: Tensor, index: Tensor) -> Tensor:
    """The centroid that `index` (whole numbers, shape of input) names, and 0 where `input` is 0.

    centroids (clusters,): their gradient is the sum over their members (Han et al. 2016, eq. 3); input has
    none. An index outside of [0, clusters) is an error of the kernel's.
    """
    check_tensors("codebook", input=input, centroids=centroids)
    if index.shape != input.shape or index.dtype.kind not in "iu" or centroids.ndim != 1:
        raise fail(
            "codebook",
            f"expected centroids (clusters,) and whole numbers of shape {input.shape}, "
            f"got {centroids.shape} and {index.dtype} {index.shape}",
        )
    return Codebook.apply(input, centroids, index)
