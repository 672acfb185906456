"""Every property of every op: the rows of the op table times the back ends."""

from __future__ import annotations

import inspect
import os
import zlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from op_table import (
    OpCase,
    Outcome,
    assert_close,
    assert_same,
    cast,
    collect,
    expanded,
    layouts,
    run,
    run_torch,
)

import minicnn
import minicnn_kernels as kernels

CASES = collect()
# Each back end in its precision: of its own, float64 goes to the reference and float32 to the cpu's kernels.
# "sim" is the simulator of a GPU, "cuda" a real one: both are the device "cuda", in a process of their own.
PRECISION = {"reference": np.float64, "cpu": np.float32, "sim": np.float32, "cuda": np.float32}
DEVICES = ("sim", "cuda")
FLOAT64_ON_CUDA = "cuda: dtype float64 is not supported"  # all that device "cuda" cannot answer
MOST_RELAID = 500  # elements of an input; each row is run in some ten layouts, and the simulator is slow
BACKENDS = os.environ.get("MINICNN_TEST_BACKENDS", "reference,cpu").split(",")

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_fast_backend = pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
every_edge = pytest.mark.parametrize(
    ("case", "edge"), [pytest.param(c, e, id=f"{c.name}: {e}") for c in CASES for e in c.edges]
)
every_case_of_torch = pytest.mark.parametrize(
    "case", [case for case in CASES if case.torch is not None], ids=lambda case: case.name
)
every_edge_of_torch = pytest.mark.parametrize(
    ("case", "edge"),
    [pytest.param(c, e, id=f"{c.name}: {e}") for c in CASES if c.torch is not None for e in c.edges],
)


def generator(case: OpCase) -> np.random.Generator:
    """The same inputs for a row in every test."""
    return np.random.default_rng(zlib.crc32(case.name.encode()))


def largest_input(case: OpCase) -> int:
    """How many elements the largest of a row's inputs has."""
    return max(array.size for array in case.inputs(generator(case)))


def inputs(case: OpCase, backend: str, edge: str | None = None) -> tuple[np.ndarray, ...]:
    factory = case.inputs if edge is None else case.edges[edge]
    return cast(factory(generator(case)), PRECISION[backend])


def run_on(backend: str, case: OpCase, arrays: tuple[np.ndarray, ...], **options: Any) -> Outcome:
    """`run` on the device of this back end; skips rows that need float64 there."""
    if backend not in DEVICES:
        return run(case, arrays, **options)
    try:
        return run(case, arrays, device="cuda", **options)
    except TypeError as error:
        if str(error).startswith(FLOAT64_ON_CUDA):
            pytest.skip(str(error))
        raise


def tolerance(case: OpCase, backend: str) -> float:
    return case.tolerance if PRECISION[backend] == np.float32 else 1e-9


# Kernels that the cpu back end may take from the reference as they are: NumPy's loops serve them well enough.
# fmt: off
TAKEN_FROM_NUMPY = {
    "adaptive_max_pool2d_backward", "adaptive_max_pool2d_forward", "all", "any", "argmax",
    "argmin", "choose_scale", "dequantize", "quantize", "move_range",
    "entropy_range", "histogram", "least_error_range", "least_error_values", "percentile_range", "widen",
    "atan2", "broadcast_to", "clamp_", "cumsum", "elu_backward", "elu_forward", "eq",
    "erf", "flip", "floor_divide", "gather", "gather_backward", "ge", "getitem", "gt",
    "hardtanh_backward", "hardtanh_forward", "isfinite", "isinf", "isnan", "le", "logical_and",
    "logical_not", "logical_or", "logsumexp", "lt", "max", "max_pool2d_indices", "min", "ne", "one_hot",
    "permute", "philox", "prod", "random_blocks", "random_integers", "random_normal",
    "random_permutation", "random_uniform", "remainder", "roll", "rsqrt", "scale_", "setitem",
    "soft_threshold_", "softplus_backward", "softplus_forward", "sort", "takes_each_once", "topk", "tril",
    "triu", "where",
    "kmeans", "low_rank_factors", "nearest_centroid", "rank_of_energy", "tucker2_factors",
    "huffman_encode", "huffman_lengths", "pack_bits", "unpack_bits",
    "count_nonzero", "keep_n_of_m", "smallest", "spread_units", "unit_sums",  # selection
    "channel_gram", "choose_channels", "fit_channels", "lasso", "windows_at",  # lasso
    "flatten", "pack_binary_weight", "pack_ternary_weight", "to_sparse_rows",  # once for a weight
}
# fmt: on


def kernel_names(backend: ModuleType) -> set[str]:
    return {
        name
        for name, value in vars(backend).items()
        if inspect.isfunction(value) and not name.startswith("_") and "minicnn_kernels" in value.__module__
    }


def test_cpu_has_every_kernel_of_the_reference_with_the_same_signature() -> None:
    reference, cpu = kernels.backend("reference"), kernels.backend("cpu")
    names = kernel_names(reference)
    lacking = {name for name in names if getattr(cpu, name, None) in (None, getattr(reference, name))}
    assert not sorted(lacking - TAKEN_FROM_NUMPY), "kernels that the cpu back end lacks"
    different = [
        f"{name}{inspect.signature(getattr(cpu, name))} != {inspect.signature(getattr(reference, name))}"
        for name in sorted(names)
        if list(inspect.signature(getattr(cpu, name)).parameters.values())
        != list(inspect.signature(getattr(reference, name)).parameters.values())
    ]
    assert not different


@every_fast_backend
@every_case
def test_equal_to_the_reference(case: OpCase, backend: str) -> None:
    arrays = inputs(case, backend)
    assert_same(run_on(backend, case, arrays), run(case, arrays, backend="reference"), case.tolerance)


@every_fast_backend
@every_edge
def test_equal_to_the_reference_at_the_edge(case: OpCase, edge: str, backend: str) -> None:
    arrays = inputs(case, backend, edge)
    assert_same(run_on(backend, case, arrays), run(case, arrays, backend="reference"), case.tolerance)


@every_case
def test_gradient_by_random_direction(case: OpCase) -> None:
    arrays = inputs(case, "reference")
    tensors = [minicnn.from_numpy(array) for array in arrays]
    for i in case.differentiated(arrays):
        tensors[i].requires_grad_()

    if any(result.requires_grad for result in case.call(*tensors)):  # else whole numbers or truth values
        assert minicnn.gradcheck(case.call, tensors, tol=1e-6)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's remarks on edges
@every_backend
@every_case_of_torch
def test_equal_to_pytorch(case: OpCase, backend: str) -> None:
    torch = pytest.importorskip("torch")
    arrays = inputs(case, backend)
    assert_same(run(case, arrays), run_torch(torch, case, arrays), tolerance(case, backend))


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's remarks on edges
@every_backend
@every_edge_of_torch
def test_equal_to_pytorch_at_the_edge(case: OpCase, edge: str, backend: str) -> None:
    torch = pytest.importorskip("torch")
    arrays = inputs(case, backend, edge)
    assert_same(run(case, arrays), run_torch(torch, case, arrays), tolerance(case, backend))


@every_backend
@every_case
def test_inputs_are_not_modified(case: OpCase, backend: str) -> None:
    arrays = inputs(case, backend)
    before = [array.copy() for array in arrays]
    gradients: list[tuple[np.ndarray, np.ndarray]] = []

    def remember(grad: np.ndarray) -> np.ndarray:
        gradients.append((grad, grad.copy()))
        return grad

    run_on(backend, case, arrays, relayout=remember)
    for i, (array, copy) in enumerate(zip(arrays, before, strict=True)):
        assert_close(array, copy, 0, f"input {i} after forward and backward")
    for grad, copy in gradients:
        assert_close(grad, copy, 0, "gradient of the result after backward")


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name not in DEVICES] or ["reference"])
@every_case
def test_memory_shared_with_an_input_shares_its_version(case: OpCase, backend: str) -> None:
    """Else a change in place through the one would go unseen by the other's backward.

    Views of device memory are told apart by kernels.share_memory, as in the engine itself.
    """
    tensors = [minicnn.from_numpy(array) for array in inputs(case, backend)]
    for result in case.call(*tensors):
        for tensor in tensors:
            if np.may_share_memory(result.data, tensor.data):
                assert result._version is tensor._version


@every_backend
@every_case
def test_each_gradient_alone_equals_all_together(case: OpCase, backend: str) -> None:
    arrays = inputs(case, backend)
    together = run_on(backend, case, arrays).grads
    for i in case.differentiated(arrays):
        alone = run_on(backend, case, arrays, wanted=(i,)).grads
        assert [j for j, grad in enumerate(alone) if grad is not None] in ([i], [])
        if together[i] is not None:
            assert_close(alone[i], together[i], tolerance(case, backend) / 10, f"gradient of input {i}")


every_layout = pytest.mark.parametrize(
    ("case", "backend"),
    [
        pytest.param(case, backend, id=f"{case.name}-{backend}")
        for case in CASES
        for backend in BACKENDS
        if case.layouts and not (backend == "sim" and largest_input(case) > MOST_RELAID)
    ],
)


@every_layout
def test_memory_layout_does_not_change_the_answer(case: OpCase, backend: str) -> None:
    arrays = inputs(case, backend)
    expected = run_on(backend, case, arrays)
    for i, array in enumerate(arrays):
        for name, same in layouts(array):
            outcome = run_on(backend, case, (*arrays[:i], same, *arrays[i + 1 :]))
            try:
                assert_same(outcome, expected, tolerance(case, backend))
            except AssertionError as error:
                raise AssertionError(f"input {i} {name}: {error}") from None
    for relayout in (np.asfortranarray, lambda grad: np.repeat(grad, 2, axis=-1)[..., ::2]):
        if all(result.ndim for result in expected.results):
            assert_same(run_on(backend, case, arrays, relayout=relayout), expected, tolerance(case, backend))


@every_layout
def test_inputs_of_stride_zero_equal_their_copies(case: OpCase, backend: str) -> None:
    repeated = tuple(expanded(array) if array.dtype.kind == "f" else array for array in inputs(case, backend))
    dense = tuple(array.copy() for array in repeated)
    assert_same(run_on(backend, case, repeated), run_on(backend, case, dense), tolerance(case, backend))
    expected = run_on(backend, case, dense, relayout=lambda grad: expanded(grad).copy())
    assert_same(run_on(backend, case, dense, relayout=expanded), expected, tolerance(case, backend))
