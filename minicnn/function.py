"""Function, an op with its gradient, and the tape: how ops are recorded and walked backward.

A Function instance *is* the tape's node: it keeps what its backward needs as plain attributes and
the parents to hand gradients to. Nothing here knows a device or a formula; ops live in
`minicnn.functions`, their loops in `minicnn_kernels`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

import minicnn_kernels as kernels
from minicnn import scope
from minicnn.grad_mode import is_grad_enabled
from minicnn.tensor import Tensor, Version


class NonFiniteError(FloatingPointError):
    """A NaN or infinity appeared. `op` and `layer` say where it was made first."""

    def __init__(self, message: str, op: str, layer: str) -> None:
        super().__init__(message)
        self.op, self.layer = op, layer


class _Anomaly(threading.local):
    enabled = False


_anomaly = _Anomaly()


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Within the block, the first op whose result or gradient is not finite raises NonFiniteError. Slow."""
    previous, _anomaly.enabled = _anomaly.enabled, True
    try:
        yield
    finally:
        _anomaly.enabled = previous


def is_anomaly_detected() -> bool:
    """Whether this thread is inside of `detect_anomaly`."""
    return _anomaly.enabled


class Function:
    """One differentiable operation. Subclasses give `forward` and `backward`; callers use `apply`.

    forward(self, *inputs, **options) gets arrays (and None or numbers where `apply` got those) and returns
    an array, or a tuple whose first entry is the differentiable result and whose others are not.
    backward(self, grad) gets the gradient of the result and returns one array or None per positional input.
    It may return `grad` itself or views of it, and must not write into it. With `adds_input_gradient` its
    first gradient is that plus `earlier`, unless this is None: what another op gave for the same input, an
    array that it may overwrite and return.

    Save on `self` only what backward needs. An input or result saved as an attribute is watched: if it is
    changed in place before backward, backward refuses.
    """

    is_view: ClassVar[bool] = False  # the result may share memory with the first input
    changes: ClassVar[tuple[int, ...]] = ()  # positions of inputs that forward writes in place
    adds_input_gradient: ClassVar[bool] = False  # backward adds the first gradient to `earlier`

    needs_input_grad: tuple[bool, ...] = ()
    parents: tuple[Function | Tensor | None, ...] = ()
    hooks: list[Callable]
    earlier: Any = None
    released: bool = False

    @property
    def name(self) -> str:
        """The op's name as messages show it."""
        return type(self).__name__

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The result for these arrays."""
        raise TypeError(f"{self.name} defines no forward")

    @classmethod
    def prepare(cls, backend: Any, x_shape: tuple[int, ...], *weights: Any, **options: Any) -> Any:
        """This op for evaluation, made ready for inputs of x_shape: a layer of `backend.Chain`, or None.

        weights: the arrays (and None or numbers) that follow x in `forward`.
        """
        return None

    def backward(self, grad: Any) -> tuple[Any, ...]:
        """The gradient for each positional input."""
        raise TypeError(f"{self.name} has no gradient")

    @classmethod
    def apply(cls, *inputs: Any, **options: Any) -> Any:
        """Run forward on tensors, and record the op if gradients are wanted.

        Returns a Tensor, or a tuple of them where forward returns one.
        """
        node = cls()
        arrays = [x.data if isinstance(x, Tensor) else x for x in inputs]
        if is_grad_enabled():
            node.needs_input_grad = tuple(isinstance(x, Tensor) and x.requires_grad for x in inputs)
            recorded = any(node.needs_input_grad)
        else:
            node.needs_input_grad = (False,) * len(inputs)
            recorded = False

        try:
            outcome = node.forward(*arrays, **options)
        except (AttributeError, TypeError) as error:  # what a kernel says to an array of another device
            _check_devices(node.name, arrays, error)
            raise
        data, *extra = outcome if isinstance(outcome, tuple) else (outcome,)
        if _anomaly.enabled:
            _check_finite(data, node.name, scope.path(), "result")

        for position in cls.changes:
            if isinstance(inputs[position], Tensor):
                inputs[position].mark_changed()
        result = Tensor(data)
        if cls.is_view and _overlap(data, arrays[0]):
            result._version = inputs[0]._version
        if recorded and data.dtype.kind == "f":  # positions and truth values have no gradient
            result.requires_grad = True
            result._node = node
            node._record(inputs, result)
        results = (result, *(Tensor(array) for array in extra))
        if scope.watch.recorder is not None:
            scope.watch.recorder.op(cls, inputs, options, results)
        return results if isinstance(outcome, tuple) else result

    def _record(self, inputs: tuple[Any, ...], result: Tensor) -> None:
        saved = {id(value) for value in vars(self).values()}
        watched = [x for x in (*inputs, result) if isinstance(x, Tensor) and id(x.data) in saved]
        self._watched: tuple[tuple[Version, int, tuple[int, ...]], ...] = tuple(
            (x._version, x._version.count, x.shape) for x in watched
        )
        self.hooks = []
        self.layer = scope.path()
        self.parents = tuple(
            (x._node if x._node is not None else x) if wanted else None
            for x, wanted in zip(inputs, self.needs_input_grad, strict=True)
        )

    def check_unchanged(self) -> None:
        """Raise RuntimeError if anything that backward needs was changed in place after forward."""
        for version, count, shape in self._watched:
            if version.count != count:
                layer = f" of layer '{self.layer}'" if self.layer else ""
                raise RuntimeError(
                    f"{self.name}{layer}: a tensor of shape {shape} that its gradient needs was changed "
                    f"in place after the forward pass; call backward before the change, or change a clone()"
                )

    def release(self) -> None:
        """Forget everything saved; the node stays behind so that a second backward can say what happened."""
        layer, hooks = self.layer, self.hooks
        self.__dict__.clear()
        self.layer, self.hooks, self.released, self._watched = layer, hooks, True, ()


def backward(root: Tensor, gradient: Any = None, *, retain_graph: bool = False) -> None:
    """Walk the tape from `root` and accumulate into `grad` of the leaves. See Tensor.backward.

    The walk uses an explicit stack (chains of any length pass) and drops each node once it is done with,
    so memory of the forward pass returns while backward runs.
    """
    if not root.requires_grad:
        raise RuntimeError("backward: this tensor does not require a gradient; was it made under no_grad()?")
    grad = _initial_gradient(root, gradient)
    if root._node is None:
        _accumulate(root, grad, shared=True)
        return

    waiting = _count_consumers(root._node)
    pending: dict[Function, tuple[Any, bool]] = {root._node: (grad, True)}  # node: (gradient, is it shared?)
    del grad
    ready = [root._node]
    while ready:
        node = ready.pop()
        grad, shared = pending.pop(node, (None, False))
        parents = node.parents
        if grad is None:  # every consumer had nothing to say
            outputs: tuple[Any, ...] = (None,) * len(parents)
        else:
            node.check_unchanged()
            for hook in node.hooks:
                replaced = hook(Tensor(grad))
                if replaced is not None:
                    grad, shared = replaced.data, True  # the hook's owner may keep it
            if node.adds_input_gradient:
                node.earlier = _take_unshared(pending, parents[0])
            outputs = node.backward(grad)
            if _anomaly.enabled:
                for output in outputs:
                    if output is not None:
                        _check_finite(output, node.name, node.layer, "gradient")
        if not retain_graph:
            node.release()
        for position, parent in enumerate(parents):
            if parent is None:
                continue
            output = outputs[position]
            if output is not None:
                others = (other for i, other in enumerate(outputs) if i != position and other is not None)
                aliased = (shared and _overlap(output, grad)) or any(
                    _overlap(output, other) for other in others
                )
                if isinstance(parent, Tensor):
                    _accumulate(parent, output, aliased)
                elif parent in pending:
                    earlier, _ = pending[parent]
                    pending[parent] = (kernels.of(earlier).add(earlier, output), False)
                else:
                    pending[parent] = (output, aliased)
            if not isinstance(parent, Tensor):
                waiting[parent] -= 1
                if waiting[parent] == 0:
                    ready.append(parent)


def _check_devices(op: str, arrays: list[Any], error: Exception) -> None:
    """Raise TypeError, because of `error`, if the arrays lie on several devices."""
    places = {kernels.device_of(x): x.shape for x in arrays if hasattr(x, "shape")}
    if len(places) > 1:
        found = " and ".join(f"{shape} on {device!r}" for device, shape in places.items())
        raise TypeError(
            f"{scope.where(op)}: expected all tensors on one device, got {found}; move them with x.to('cuda')"
        ) from error


def _take_unshared(pending: dict[Function, tuple[Any, bool]], parent: Any) -> Any:
    """Out of `pending`: the gradient that waits for this parent, if nobody else can see the array."""
    if not isinstance(parent, Function) or parent not in pending:
        return None
    grad, shared = pending[parent]
    if shared or not grad.flags.writeable:
        return None
    del pending[parent]
    return grad


def _initial_gradient(root: Tensor, gradient: Any) -> Any:
    if gradient is None:
        if root.numel() != 1:
            raise RuntimeError(
                f"backward: a tensor of shape {root.shape} has no single derivative; reduce it to one number "
                f"(for example with .sum()) or pass gradient="
            )
        return kernels.of(root.data).full(root.shape, 1, root.dtype)
    array = gradient.data if isinstance(gradient, Tensor) else gradient
    if kernels.device_of(array) != root.device:
        raise ValueError(
            f"backward: expected a gradient on {root.device!r}, got one on {kernels.device_of(array)!r}; "
            f"move it with gradient.to({root.device!r})"
        )
    if root.device == "cpu":
        array = np.asarray(array, dtype=root.dtype)
    if array.shape != root.shape:
        raise ValueError(f"backward: expected a gradient of shape {root.shape}, got {array.shape}")
    return array


def _count_consumers(root: Function) -> dict[Function, int]:
    """How many gradients each node waits for."""
    counts = {root: 0}
    stack = [root]
    while stack:
        node = stack.pop()
        if node.released:
            raise RuntimeError(
                f"backward: the tape at {node.name} was already walked and freed; call backward once on the "
                f"sum of the losses, run the forward pass again, or pass retain_graph=True the first time"
            )
        for parent in node.parents:
            if isinstance(parent, Function):
                if parent not in counts:
                    counts[parent] = 0
                    stack.append(parent)
                counts[parent] += 1
    return counts


def _accumulate(leaf: Tensor, grad: Any, shared: bool) -> None:
    backend = kernels.of(grad)
    if leaf.grad is None:
        # A broadcast view is read-only, a few bytes behind a large shape: a leaf owns its gradient.
        leaf.grad = Tensor(backend.copy(grad) if shared or not grad.flags.writeable else grad)
    else:
        leaf.grad.data = backend.add(leaf.grad.data, grad)


def _overlap(a: Any, b: Any) -> bool:
    return a is b or kernels.share_memory(a, b)


def _check_finite(array: Any, op: str, layer: str, what: str) -> None:
    if array.dtype.kind != "f" or kernels.of(array).all_finite(array):
        return
    place = f" in layer '{layer}'" if layer else ""
    raise NonFiniteError(
        f"{op}{place}: its {what} is not finite (NaN or infinity) for the first time here", op, layer
    )
