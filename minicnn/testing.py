"""gradcheck: does a function's backward agree with what its forward does?

One random direction tests the whole gradient at once: the derivative along it, by central differences,
must equal the inner product of gradient and direction. For other comparisons see `tests/op_table.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minicnn.tensor import Tensor


class GradcheckError(AssertionError):
    """A gradient disagrees with finite differences: `op` names the function, `error` is relative."""

    def __init__(self, message: str, op: str, error: float) -> None:
        super().__init__(message)
        self.op, self.error = op, error


def gradcheck(
    function: Callable[..., Any],
    inputs: Tensor | Sequence[Tensor],
    *,
    directions: int = 3,
    eps: float = 1e-5,
    tol: float = 1e-6,
    seed: int = 0,
) -> bool:
    """True if the gradient of `function` agrees with central differences along random directions.

    function: called with `inputs`, gives a tensor or a sequence of tensors; results that require no gradient
        are left alone. It must compute the same each time (seed its dropout).
    inputs: tensors, of which those with requires_grad (float64) are checked. Stay away from kinks and ties:
        there the derivative depends on the direction.
    tol: largest error allowed, relative to the gradient's norm.
    Raises GradcheckError naming the op, TypeError for inputs that are not float64, ValueError if nothing
    requires a gradient.
    """
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    wanted = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    if not wanted:
        raise ValueError("gradcheck: none of the inputs requires a gradient; set requires_grad=True")
    for i in wanted:
        if inputs[i].dtype != np.float64:
            raise TypeError(
                f"gradcheck: input {i} is {inputs[i].dtype}, finite differences need float64; use x.double()"
            )
    rng = np.random.default_rng(seed)
    values = [inputs[i].detach().numpy() for i in wanted]

    def run(at: list[np.ndarray]) -> tuple[list[Tensor], list[Tensor]]:
        leaves = [Tensor(value, requires_grad=True) for value in at]
        arguments = list(inputs)
        for i, leaf in zip(wanted, leaves, strict=True):
            arguments[i] = leaf
        results = function(*arguments)
        results = [results] if isinstance(results, Tensor) else list(results)
        return leaves, [result for result in results if result.requires_grad]

    def weighted_sum(at: list[np.ndarray]) -> float:
        return sum(float(np.vdot(w, r.detach().numpy())) for w, r in zip(weights, run(at)[1], strict=True))

    leaves, results = run(values)
    if not results:
        raise ValueError("gradcheck: no result requires a gradient; is the function differentiable?")
    op = results[0].grad_fn.name if results[0].grad_fn is not None else "identity"
    weights = [rng.standard_normal(result.shape) for result in results]
    for result, weight in zip(results, weights, strict=True):
        result.backward(weight, retain_graph=True)
    grads = [np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in leaves]

    for _ in range(directions):
        direction = [rng.standard_normal(value.shape) for value in values]
        ahead = weighted_sum([v + eps * d for v, d in zip(values, direction, strict=True)])
        behind = weighted_sum([v - eps * d for v, d in zip(values, direction, strict=True)])
        numeric = (ahead - behind) / (2 * eps)
        analytic = sum(float(np.vdot(g, d)) for g, d in zip(grads, direction, strict=True))
        # The norm is the size that the product with a random direction is expected to have.
        norm = sum(float(np.vdot(g, g)) for g in grads) ** 0.5
        error = abs(numeric - analytic) / max(norm, abs(numeric), 1e-3)
        if not error <= tol:
            raise GradcheckError(
                f"gradcheck: {op}: derivative along a random direction is {analytic:.9g} by backward and "
                f"{numeric:.9g} by central differences (relative error {error:.2g} > {tol:g})",
                op,
                error,
            )
    return True
