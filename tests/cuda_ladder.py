"""Every rung of the GPU's ladders against the reference, with arrays on device "cuda".

Run by `test_cuda_ladder.py` in a process of its own, where Numba's simulator stands in for a GPU, or by
itself on a machine that has one. Sizes are no multiples of any tile. Prints the rungs that were right.
"""

from __future__ import annotations

import numpy as np

from minicnn_kernels import cuda, reference
from minicnn_kernels.ladder import cuda_convolution, cuda_matmul

PRODUCTS = ((3, 5, 2), (9, 17, 10), (1, 1, 1), (4, 0, 3))  # rows, terms, columns
# shape of x, shape of weight
CONVOLUTIONS = (((2, 3, 4, 5), (5, 3, 3, 3)), ((1, 1, 3, 2), (1, 1, 1, 1)), ((1, 2, 3, 6), (4, 2, 1, 5)))
TF32 = 2.0**-9  # of the sum of magnitudes: each factor may lose 2**-11


def check(rung: object, result: object, exact: np.ndarray, magnitude: np.ndarray) -> None:
    """Raises AssertionError if `result`, on the device, is further off than rounding explains."""
    tolerance = TF32 if "TF32" in rung.name else 1e-6
    error = np.abs(cuda.to_host(result) - exact)
    assert (error <= tolerance * magnitude).all(), f"{rung.name}: off by {error.max()}"  # False for NaN


def main() -> None:
    """Go through all rungs and shapes."""
    rng = np.random.default_rng(0)
    for rung in cuda_matmul.RUNGS:
        for m, k, n in PRODUCTS:
            a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
            given = cuda_matmul.arguments(rung, cuda.to_device(a), cuda.to_device(b))
            check(rung, rung.function(*given), a.astype(np.float64) @ b, np.abs(a) @ np.abs(b))
        print(rung.name)
    for rung in cuda_convolution.RUNGS:
        for image_shape, weight_shape in CONVOLUTIONS:
            x, weight = (rng.standard_normal(s, np.float32) for s in (image_shape, weight_shape))
            bias = rng.standard_normal(weight_shape[0], np.float32)
            geometry = (1, 1), (weight_shape[2] // 2, weight_shape[3] // 2), (1, 1), 1
            operands = x, weight, bias
            exact = reference.conv2d_forward(*(v.astype(np.float64) for v in operands), *geometry)
            magnitude = reference.conv2d_forward(*(np.abs(v) for v in operands), *geometry)
            given = cuda_convolution.arguments(rung, *map(cuda.to_device, operands))
            check(rung, rung.function(*given), exact, magnitude)
        print(rung.name)


if __name__ == "__main__":
    main()
