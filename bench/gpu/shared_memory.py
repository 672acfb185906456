"""A small program that launches each kernel whose threads meet in shared memory, for compute-sanitizer.

Run by `python -m bench gpu`; by hand: compute-sanitizer --tool racecheck python -m bench.gpu.shared_memory.
In the simulator with MINICNN_SIMULATED_THREADS=4 our own watch looks on. It fails if a kernel is left out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

import numpy as np

from minicnn_kernels import cuda
from minicnn_kernels.cuda import driver, gemm, implicit, implicit_weight
from minicnn_kernels.ladder import cuda_matmul


def meets_in_shared_memory(function: Any, seen: set[Any] | None = None) -> bool:
    """Whether a kernel, or a device function that it calls, asks for shared memory."""
    function = getattr(function, "py_func", function)
    seen = set() if seen is None else seen
    if not isinstance(function, FunctionType) or function in seen:
        return False
    seen.add(function)
    if "shared" in function.__code__.co_names:
        return True
    used = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    names = (*function.__code__.co_names, *function.__code__.co_freevars)
    return any(meets_in_shared_memory(used.get(name), seen) for name in names)


def main() -> None:
    """Launch them all, and say how many there are."""
    launched, launch = set(), driver.Kernel.run

    def noted(kernel: Any, *arguments: Any) -> None:
        launched.add(kernel.name)
        launch(kernel, *arguments)

    setattr(driver.Kernel, "run", noted)  # noqa: B010  (this process does nothing else)
    for call in (products, convolutions, rungs, reductions, normalizations, lattices, compression):
        call()
    driver.stream().synchronize()
    meeting = {kernel.name for kernel in driver.KERNELS if meets_in_shared_memory(kernel.function)}
    if left_out := meeting - launched:
        raise SystemExit(f"left out: {', '.join(sorted(left_out))}")
    print(f"{len(meeting)} kernels that meet in shared memory were launched")


def normal(*shape: int) -> Any:
    """Normal numbers on the device, the same for the same shape."""
    return cuda.to_device(np.random.default_rng(0).standard_normal(shape, np.float32))


def integers(*shape: int, low: int = -5, high: int = 6) -> Any:
    """int64 numbers on the device."""
    return cuda.to_device(np.random.default_rng(0).integers(low, high, shape))


def with_every_tile(module: Any, tiles: Iterable[Any], call: Callable[[Any], None]) -> None:
    """Call with each tile in turn, which the kernels of `module` take whatever the shape would want."""
    choose = module.choose
    for tile in tiles:
        setattr(module, "choose", lambda *_, tile=tile: (tile, 1))  # noqa: B010  (put back below)
        call(tile)
    setattr(module, "choose", choose)  # noqa: B010


def products() -> None:
    """Every tile with both orders of both operands, at sizes that fill no tile."""

    def multiply(tile: Any) -> None:
        m, n, k = tile.rows + 3, tile.columns + 1, 2 * tile.depth + 3
        for a in (normal(m, k), normal(k, m).permuted((1, 0))):
            for b in (normal(k, n), normal(n, k).permuted((1, 0))):
                cuda.matmul(a, b)

    with_every_tile(gemm, (*gemm.FLOAT32_TILES, *gemm.TF32_TILES), multiply)


def convolutions() -> None:
    """Every tile forward and backward, and the direct kernels of few channels."""

    def convolve(_: Any, groups: int = 1) -> None:
        window = ((1, 1), (1, 1), (1, 1), groups)
        x, weight = normal(2, 4, 6, 5), normal(4, 4 // groups, 3, 3)
        grad = cuda.conv2d_forward(x, weight, None, *window)
        cuda.conv2d_backward_input(grad, weight, x.shape, *window)
        cuda.conv2d_backward_weight(grad, x, weight.shape, *window)

    with_every_tile(implicit, (tile for kind in implicit.tiles for tile in kind), convolve)
    with_every_tile(implicit_weight, (*gemm.FLOAT32_TILES, *gemm.TF32_TILES), convolve)
    convolve(None, groups=4)


def rungs() -> None:
    """The ladder of products."""
    m, k, n = (5, 7, 6) if driver.SIMULATED else (130, 50, 70)
    for rung in cuda_matmul.RUNGS:
        rung.function(*cuda_matmul.arguments(rung, normal(m, k), normal(k, n)))


def reductions() -> None:
    """With one block for a result, and with several."""
    for shape, dim in (((3, 5, 4), (0, 2)), ((70, 90), None)):
        for name in ("sum", "prod", "max", "min", "any", "all"):
            getattr(cuda, name)(normal(*shape), dim, False)
        for name in ("sum", "prod", "max", "min"):
            getattr(cuda, name)(integers(*shape), dim, False)


def normalizations() -> None:
    """Both kinds, forward and backward, with channels that several blocks share."""
    side = 5 if driver.SIMULATED else 50
    x, grad, needs = normal(3, 4, side, side), normal(3, 4, side, side), (True, True, True)
    _, mean, inv_std = cuda.batch_norm_forward(x, None, None, 1e-5)
    cuda.batch_norm_backward(grad, x, None, mean, inv_std, needs)
    _, mean, inv_std = cuda.layer_norm_forward(x, 2, None, None, 1e-5)
    cuda.layer_norm_backward(grad, x, 2, None, mean, inv_std, needs)


def lattices() -> None:
    """Observers of ranges, and products of integers and of values on a lattice."""
    x = normal(4, 90)
    low, high = cuda.value_range(x, 0)
    scale, _ = cuda.choose_scale(low, high, -7, 7, True, False)
    cuda.move_range(low, high, *cuda.value_range(x, 0), 0.25)
    cuda.least_error_values(x, 0, -7, 7, True, False, 5)
    small = cuda.to_device(np.asarray(0.01, np.float32))
    whole = cuda.cast(integers(3, 90, low=0, high=100), np.uint8), cuda.cast(integers(4, 90), np.int8)
    cuda.integer_linear_forward(*whole, None, small, 3, 5, 0, 255)
    cuda.quantized_linear_forward(normal(3, 90), x, None, small, scale, None, None, 0, 0)


def compression() -> None:
    """Sums over the units of a mask, codebooks, signs."""
    x = normal(6, 90)
    cuda.unit_sums(x, 1, 0)
    centroids = cuda.kmeans(x, 4, "linear", 0)
    cuda.codebook_backward(x, x, cuda.nearest_centroid(x, centroids, np.uint8), 4)
    cuda.mean_magnitude(x, 0)


if __name__ == "__main__":
    main()
