"""compile: a model that runs by plans instead of module by module.

A plan is made for each kind of call (shapes, types, mode, options of the layers) when it first comes, from
a trace of that very call, with fused ops. What cannot be traced runs as it always did.
"""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable
from itertools import chain
from operator import is_
from typing import Any, NamedTuple

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


def _plain_attributes(module: Module) -> dict[str, Any]:
    """Options of a layer and its mode: what Python code in forward may branch on."""
    return {name: value for name, value in module.__dict__.items() if isinstance(value, _PLAIN)}


class _State:
    """What a forward pass may change: random state, buffers such as running statistics, plain attributes."""

    def __init__(self, model: Module) -> None:
        self.random = get_rng_state()
        self.attributes = [(module, _plain_attributes(module)) for module in model.modules()]
        self.buffers = [(b, b.detach().clone(), b._version.count) for b in model.buffers()]

    def restore(self) -> None:
        """Put them back; a buffer that nobody wrote into is left alone, a tape may be watching it."""
        set_rng_state(self.random)
        for module, attributes in self.attributes:
            module.__dict__.update(attributes)
        for buffer, value, count in self.buffers:
            if buffer._version.count != count:
                buffer.copy_(value)


class Watch:
    """Whether a model still is as a plan found it: the same modules, attributes and hooks, object by object.

    It compares references: a few microseconds for a net of ten layers, where `_kind_of_call` takes thirty.
    It would miss a change inside of an object that stays, a list in a tuple: it trusts no such tuples.
    """

    def __init__(self, model: Module) -> None:
        self.modules = tuple(model.modules())  # while they live, no id is used again
        self._dicts = [
            registered
            for module in self.modules
            for registered in (
                module.__dict__, module._modules, module._forward_hooks, module._forward_pre_hooks,
            )
        ]  # fmt: skip
        self._values = [value for registered in self._dicts for value in registered.values()]
        self._trusted = all(map(_is_frozen, self._values))

    def sees_no_change(self) -> bool:
        """False also where that cannot be told."""
        return (
            self._trusted
            and sum(map(len, self._dicts)) == len(self._values)
            and all(map(is_, chain.from_iterable(map(dict.values, self._dicts)), self._values))
        )


def _is_frozen(value: Any) -> bool:
    return not isinstance(value, tuple) or all(isinstance(x, _PLAIN) and _is_frozen(x) for x in value)


class _Entry(NamedTuple):
    """A plan, the type of what the model returns, and the model as it was found."""

    plan: Plan
    container: Callable
    watch: Watch

    def run(self, inputs: tuple[Tensor, ...]) -> Any:
        """What the model returns."""
        results = self.plan(*inputs)
        return results[0] if self.container is Tensor else self.container(results)


class CompiledModule:
    """What `compile` returns: called like the model, and otherwise the model itself.

    Attributes, parameters, state_dict, train and eval are the model's own.
    """

    def __init__(self, model: Module) -> None:
        self._model = model
        self._plans: OrderedDict[tuple, _Entry] = OrderedDict()
        self._latest: tuple[tuple, _Entry] | None = None
        self._refused: str | None = None

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """The model's result; uncompiled with options, inputs that are no tensors, or forward hooks."""
        model = self._model
        if self._refused or options or scope.watch.recorder is not None:
            return model(*inputs, **options)
        signature = signature_of(inputs)
        if self._latest is not None:
            latest, entry = self._latest
            if latest == signature and entry.watch.sees_no_change():
                return entry.run(inputs)
        key = self._kind_of_call(inputs)
        if key is None:
            return model(*inputs)
        if key in self._plans:
            self._plans.move_to_end(key)
            entry = self._plans[key] = self._plans[key]._replace(watch=Watch(model))
            self._latest = signature, entry
            return entry.run(inputs)
        before = _State(model)
        try:
            graph, outcome = record(model, *inputs)
            if self._kind_of_call(inputs) != key:
                raise TraceError("trace: the forward pass changes attributes of its modules")
        except TraceError as error:
            self._refused = str(error)
            warnings.warn(f"{type(model).__name__} runs uncompiled: {error}", CompileWarning, stacklevel=2)
        finally:
            # The run that was recorded shall leave no trace: the answer is the plan's from the first call
            # on, to the last bit, so that a training which is resumed goes on as one that was not broken.
            before.restore()
        if self._refused is not None:
            return model(*inputs)
        container = tuple if isinstance(outcome, tuple) else list if isinstance(outcome, list) else Tensor
        self._plans[key] = _Entry(Plan(fuse(graph), model), container, Watch(model))
        if len(self._plans) > _PLANS:
            self._plans.popitem(last=False)
        return self(*inputs)

    def _kind_of_call(self, inputs: tuple) -> tuple | None:
        """What a plan depends on beside values; None if no plan can serve the call."""
        if not all(isinstance(x, Tensor) for x in inputs):
            return None
        key: list[Any] = [signature_of(inputs)]
        for module in self._model.modules():
            if module._forward_hooks or module._forward_pre_hooks:
                return None
            key.append(id(module))
            for name, value in _plain_attributes(module).items():
                key.append((name, repr(value) if isinstance(value, tuple) else value))  # may hold a list
        return tuple(key)

    def plans(self) -> list[Plan]:
        """The plans made so far, the most recently used last."""
        return [entry.plan for entry in self._plans.values()]

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModule:
        return CompiledModule(copy.deepcopy(self._model, memo))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_model", "_plans", "_latest", "_refused"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._model, name, value)

    def __repr__(self) -> str:
        return f"compiled {self._model!r}"


def signature_of(inputs: tuple) -> tuple:
    """What a plan depends on, of the call alone."""
    return is_grad_enabled(), *[(x.shape, x.dtype) if isinstance(x, Tensor) else None for x in inputs]


def compile(model: Module) -> CompiledModule:
    """`model` with fused kernels and reused buffers, for training and for evaluation.

    The parameters are the same objects and gradients land in them, so optimizers and checkpoints do not
    notice; results are equal up to the rounding of float32. Before the first call with a new batch shape the
    model runs once uncompiled, to be recorded. A forward pass that looks at values from Python runs
    uncompiled, with one CompileWarning that names the line. Raises TypeError for anything but a Module.
    """
    if isinstance(model, CompiledModule):
        return model
    if not isinstance(model, Module):
        raise TypeError(f"compile: expected a minicnn.nn.Module, got {type(model).__name__}")
    return CompiledModule(model)
