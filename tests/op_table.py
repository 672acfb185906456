"""The op table: one row per way of calling an op; `test_functions.py` checks every property of every row.

Rows live in `op_cases_*.py` beside this file, each with a list `CASES`; all such files are collected.
A row gives the op, a factory of inputs and, where PyTorch has the op too, its name there.

    OpCase("max_pool2d stride 2", F.max_pool2d, distinct((2, 3, 8, 8)), dict(kernel_size=3, stride=2),
           torch="nn.functional.max_pool2d")
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import minicnn
import minicnn_kernels as kernels
from minicnn_kernels import memory

Arrays = tuple[np.ndarray, ...]
Inputs = Callable[[np.random.Generator], Arrays]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class OpCase:
    """One row.

    name: unique and readable, it becomes the test's name.
    op: called as op(*tensors, **options); gives a tensor, or a sequence of them. Gradients are checked
        for the floating-point ones that are on the tape.
    inputs: factory of the arrays; write float64, the tests cast floating arrays to the precision in hand.
    torch: dotted name below `torch` ("nn.functional.relu"), or a function that gets the module torch and
        gives the callable; None if PyTorch has no such op.
    torch_options: options for PyTorch where they differ; default `options`.
    differentiable: positions of the inputs that have a gradient; None means every floating one.
    edges: named factories of further inputs (empty and size-1 dimensions, ties, NaN, values at bounds). They
        are compared with the reference and PyTorch, forward and backward, not with finite differences.
    layouts: whether inputs in other memory layouts, stride 0 among them, must give the same answer.
    tolerance: relative, of float32 against the reference and PyTorch.
    """

    name: str
    op: Callable[..., Any]
    inputs: Inputs
    options: dict[str, Any] = field(default_factory=dict)
    torch: str | Callable[[Any], Callable[..., Any]] | None = None
    torch_options: dict[str, Any] | None = None
    differentiable: tuple[int, ...] | None = None
    edges: dict[str, Inputs] = field(default_factory=dict)
    layouts: bool = True
    tolerance: float = 1e-4

    def call(self, *tensors: minicnn.Tensor) -> list[minicnn.Tensor]:
        """The op's results as a list."""
        return as_list(self.op(*tensors, **copy.deepcopy(self.options)))

    def call_torch(self, module: Any, *tensors: Any) -> list[Any]:
        """PyTorch's results as a list."""
        assert self.torch is not None
        if isinstance(self.torch, str):
            function = reduce(getattr, self.torch.split("."), module)
        else:
            function = self.torch(module)
        options = self.options if self.torch_options is None else self.torch_options
        return as_list(function(*tensors, **copy.deepcopy(options)))

    def differentiated(self, arrays: Arrays) -> tuple[int, ...]:
        """Positions of the inputs that get a gradient."""
        if self.differentiable is not None:
            return self.differentiable
        return tuple(i for i, array in enumerate(arrays) if array.dtype.kind == "f")


def collect() -> list[OpCase]:
    """The rows of every op_cases_*.py. Raises ValueError for a name that appears twice."""
    rows: list[OpCase] = []
    for path in sorted(Path(__file__).parent.glob("op_cases_*.py")):
        rows += import_module(path.stem).CASES
    names = [row.name for row in rows]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"rows of the op table need unique names, twice: {sorted(twice)}")
    return rows


def as_list(results: Any) -> list[Any]:
    """One result or a sequence of results (named tuples too) as a list."""
    return list(results) if isinstance(results, (tuple, list)) else [results]


# -- inputs ---------------------------------------------------------------------------------------


def normal(*shapes: Shape) -> Inputs:
    """Arrays of these shapes with standard normal numbers."""
    return lambda rng: tuple(rng.standard_normal(shape) for shape in shapes)


def uniform(*shapes: Shape, low: float = 0.2, high: float = 2.0) -> Inputs:
    """Arrays of these shapes with numbers between `low` and `high`: positive and far from zero by default."""
    return lambda rng: tuple(rng.uniform(low, high, shape) for shape in shapes)


def distinct(*shapes: Shape) -> Inputs:
    """Arrays of elements at least 0.01 from each other and from 0: for maxima, sorting and kinks."""

    def make(rng: np.random.Generator) -> Arrays:
        arrays = []
        for shape in shapes:
            size = int(np.prod(shape))
            values = 0.02 * (np.arange(size) - size // 2) + 0.01
            arrays.append(rng.permutation(values).reshape(shape))
        return tuple(arrays)

    return make


def values(*rows: Any) -> Inputs:
    """These very arrays."""
    return lambda rng: tuple(np.array(row) for row in rows)


def integers(*shapes: Shape, low: int = -5, high: int = 6) -> Inputs:
    """int64 arrays with numbers from `low` up to `high` - 1."""
    return lambda rng: tuple(rng.integers(low, high, shape) for shape in shapes)


def booleans(*shapes: Shape) -> Inputs:
    """Boolean arrays."""
    return lambda rng: tuple(rng.random(shape) < 0.5 for shape in shapes)


def join(*factories: Inputs) -> Inputs:
    """The arrays of several factories, one after the other."""
    return lambda rng: tuple(array for factory in factories for array in factory(rng))


# -- running --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What an op gave: result arrays, and a gradient (or None) for each input."""

    results: list[np.ndarray]
    grads: list[np.ndarray | None]


def cast(arrays: Arrays, dtype: Any) -> Arrays:
    """Floating arrays as `dtype`, others as they are; always copies."""
    return tuple(a.astype(dtype) if a.dtype.kind == "f" else a.copy() for a in arrays)


def output_gradients(shapes: list[Shape]) -> list[np.ndarray]:
    """One gradient for each result, the same for whoever asks with the same shapes."""
    rng = np.random.default_rng(20_250_101)
    return [np.asarray(rng.standard_normal(shape)) for shape in shapes]


def run(
    case: OpCase,
    arrays: Arrays,
    *,
    backend: str | None = None,
    device: str = "cpu",
    relayout: Callable[[np.ndarray], np.ndarray] = lambda array: array,
    wanted: tuple[int, ...] | None = None,
) -> Outcome:
    """Forward and backward of `case` on these arrays.

    backend: force one; None lets the dtype decide, as for a user.
    device: where the op runs; the outcome is in host memory.
    relayout: applied to the gradients of the results before backward, to give them another memory layout.
    wanted: positions of the inputs that require a gradient; default all that can.
    """
    if backend is not None:
        with kernels.use(backend):
            return run(case, arrays, relayout=relayout, wanted=wanted)
    wanted = case.differentiated(arrays) if wanted is None else wanted
    tensors = [placed(array, device) for array in arrays]
    for i in wanted:
        tensors[i].requires_grad_()
    results = case.call(*tensors)
    for result, grad in zip(results, output_gradients([r.shape for r in results]), strict=True):
        if result.requires_grad:
            result.backward(placed(relayout(grad.astype(result.dtype)), device), retain_graph=True)
    return Outcome(
        [result.detach().cpu().numpy() for result in results],
        [None if t.grad is None else t.grad.cpu().numpy() for t in tensors],
    )


def placed(array: np.ndarray, device: str) -> minicnn.Tensor:
    """A tensor of these values on `device`, with the array's order of axes in memory and its strides of 0."""
    if device == "cpu":
        return minicnn.from_numpy(array)
    order = memory.memory_order(array)
    once = tuple(slice(1) if step == 0 else slice(None) for step in array.strides)
    moved = kernels.to_device(np.array(array[once].transpose(order), order="C"), device)
    return minicnn.Tensor(moved.permuted(tuple(memory.inverse_order(order))).broadcast(array.shape))


def run_torch(module: Any, case: OpCase, arrays: Arrays) -> Outcome:
    """The same in PyTorch."""
    tensors = [module.from_numpy(array.copy()) for array in arrays]
    for i in case.differentiated(arrays):
        tensors[i].requires_grad_()
    results = case.call_torch(module, *tensors)
    for result, grad in zip(results, output_gradients([tuple(r.shape) for r in results]), strict=True):
        if result.requires_grad:
            result.backward(module.from_numpy(grad).to(result.dtype), retain_graph=True)
    return Outcome(
        [result.detach().resolve_conj().numpy() for result in results],
        [None if t.grad is None else t.grad.numpy() for t in tensors],
    )


# -- comparing ------------------------------------------------------------------------------------


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float, what: str) -> None:
    """Equal shape, dtype and values, within `tolerance` of each and a tenth of it of the largest."""
    assert isinstance(actual, np.ndarray), f"{what}: expected an array, got {type(actual).__name__}"
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"{what}: dtype {actual.dtype}, expected {expected.dtype}"
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected, err_msg=what)
        return
    if expected.dtype == np.float32 and tolerance:  # float64 inputs may have float32 results
        tolerance = max(tolerance, 1e-6)
    finite = np.abs(expected[np.isfinite(expected)])
    scale = float(finite.max()) if finite.size else 0.0
    np.testing.assert_allclose(
        actual, expected, rtol=tolerance, atol=0.1 * tolerance * scale, equal_nan=True, err_msg=what
    )


def assert_same(actual: Outcome, expected: Outcome, tolerance: float) -> None:
    """Equal results and gradients. No gradient and a gradient of zeros are the same answer."""
    assert len(actual.results) == len(expected.results), "number of results"
    for i, (a, b) in enumerate(zip(actual.results, expected.results, strict=True)):
        assert_close(a, b, tolerance, f"result {i}")
    for i, (a, b) in enumerate(zip(actual.grads, expected.grads, strict=True)):
        if a is None and b is None:
            continue
        a = np.zeros_like(b) if a is None else a
        b = np.zeros_like(a) if b is None else b
        assert_close(a, b, tolerance, f"gradient of input {i}")


def layouts(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The same values in other memory: (name, array)."""
    if array.ndim > 1:
        yield "axes reversed in memory", np.asfortranarray(array)
    if array.ndim == 4:
        yield "channels last", array.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    if array.ndim:
        wide = np.repeat(array, 2, axis=-1)
        yield "every second element", wide[..., ::2]
        yield "backwards in memory", np.flip(np.flip(array).copy())
    read_only = array.copy()
    read_only.flags.writeable = False
    yield "read-only", read_only


def expanded(array: np.ndarray) -> np.ndarray:
    """The first element along the last dimension, repeated with stride 0."""
    return np.broadcast_to(array[..., :1], array.shape) if array.ndim else array
