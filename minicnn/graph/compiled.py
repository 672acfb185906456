"""compile: a model that runs by plans instead of module by module.

A plan is made for each kind of call (shapes, types, mode, options of the layers) when it first comes, from
a trace of that very call, with fused ops. What cannot be traced runs as it always did.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import Any

from minicnn import scope
from minicnn.grad_mode import is_grad_enabled
from minicnn.graph.fuse import fuse
from minicnn.graph.plan import Plan
from minicnn.graph.trace import TraceError, record
from minicnn.nn.module import Module
from minicnn.random import get_rng_state, set_rng_state
from minicnn.tensor import Tensor

_PLANS = 32  # kept, the most recently used; a data set has two shapes of batch, and training and evaluation
_PLAIN = (bool, int, float, str, tuple, type(None))


class CompileWarning(UserWarning):
    """A model runs uncompiled, module by module; the message says why."""


class CompiledModule:
    """What `compile` returns: called like the model, and otherwise the model itself.

    Attributes, parameters, state_dict, train and eval are the model's own.
    """

    def __init__(self, model: Module) -> None:
        self._model = model
        self._plans: OrderedDict[tuple, tuple[Plan, type]] = OrderedDict()
        self._refused: str | None = None

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """The model's result; uncompiled with options, inputs that are no tensors, or forward hooks."""
        model = self._model
        if self._refused or options or scope.watch.recorder is not None:
            return model(*inputs, **options)
        key = self._kind_of_call(inputs)
        if key is None:
            return model(*inputs)
        if key in self._plans:
            self._plans.move_to_end(key)
            plan, container = self._plans[key]
            results = plan(*inputs)
            return results[0] if container is Tensor else container(results)
        before = get_rng_state(), [(buffer, buffer.clone()) for buffer in model.buffers()]
        try:
            graph, outcome = record(model, *inputs)
        except TraceError as error:
            self._refused = str(error)
            _restore(*before)  # the run below shall be the first
            warnings.warn(f"{type(model).__name__} runs uncompiled: {error}", CompileWarning, stacklevel=2)
            return model(*inputs)
        container = tuple if isinstance(outcome, tuple) else list if isinstance(outcome, list) else Tensor
        self._plans[key] = (Plan(fuse(graph), model), container)
        if len(self._plans) > _PLANS:
            self._plans.popitem(last=False)
        return outcome

    def _kind_of_call(self, inputs: tuple) -> tuple | None:
        """What a plan depends on beside values; None if no plan can serve the call."""
        key: list[Any] = [is_grad_enabled()]
        for x in inputs:
            if not isinstance(x, Tensor):
                return None
            key.append((x.shape, x.dtype))
        for module in self._model.modules():
            if module._forward_hooks or module._forward_pre_hooks:
                return None
            attributes = module.__dict__
            key.append(id(module))  # plans hold their modules, so an id is not used again while it matters
            key.append(tuple(value for value in attributes.values() if isinstance(value, _PLAIN)))
        return tuple(key)

    def plans(self) -> list[Plan]:
        """The plans made so far, the most recently used last."""
        return [plan for plan, _ in self._plans.values()]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_model", "_plans", "_refused"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._model, name, value)

    def __repr__(self) -> str:
        return f"compiled {self._model!r}"


def _restore(random_state: dict[str, int], buffers: list[tuple[Tensor, Tensor]]) -> None:
    set_rng_state(random_state)
    for buffer, value in buffers:
        buffer.copy_(value)


def compile(model: Module) -> CompiledModule:
    """`model` with fused kernels and reused buffers, for training and for evaluation.

    The parameters are the same objects and gradients land in them, so optimizers and checkpoints do not
    notice; results are equal up to the rounding of float32. The first call with a new batch shape is run
    uncompiled and recorded. A forward pass that looks at values from Python runs uncompiled, with one
    CompileWarning that names the line. Raises TypeError for anything but a Module.
    """
    if isinstance(model, CompiledModule):
        return model
    if not isinstance(model, Module):
        raise TypeError(f"compile: expected a minicnn.nn.Module, got {type(model).__name__}")
    return CompiledModule(model)
