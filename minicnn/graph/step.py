"""compile_step: a function of tensors whose launches on a device are recorded, and repeated without Python.

A training step launches hundreds of small kernels, and Python takes longer for a launch than a GPU for the
kernel. What forward, loss and backward launch is the same in every step, so it is recorded once and then
repeated on the same memory, on a GPU as one CUDA graph (`minicnn_kernels.cuda.recording` has the rules).
Here is what the engine adds: when a recording still stands for the function, and what a call changes beside
its results: gradients, buffers, the state of the random numbers.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import minicnn_kernels as kernels
from minicnn import scope
from minicnn.function import is_anomaly_detected
from minicnn.graph.compiled import CompiledModule, CompileWarning, Watch, signature_of
from minicnn.graph.trace import line_of_caller
from minicnn.nn.module import Module
from minicnn.random import drawn
from minicnn.tensor import Tensor

_RECORDINGS = 8  # kept, the most recently used: each holds the memory of a step
_PATIENCE = 8  # calls of an update that differ from the one before, until it is launched as it comes


def compile_step(step: Callable[..., Any], model: Module, *others: Any) -> CompiledStep:
    """`step`, a function of tensors that runs `model`: forward and loss, and backward if it is a training's.

    On the host it is called as it is. On a device its launches are recorded at the second call with inputs of
    a shape, and repeated from then on. The model's parameters, buffers and modes may change in between; what
    else decides what the function does is given as `others` (a loss), and must not change its insides: if it
    is replaced, the function is recorded anew.

    The function may leave gradients in leaves that have none (`zero_grad` before it), write into buffers,
    draw random numbers in dropout, and return tensors, plain values or tuples of them. Results are copies; a
    gradient lies in memory that the next call overwrites. A function that reads values in Python
    (`loss.item()`) cannot be recorded: it is called as it is, with one CompileWarning that names the line.
    """
    return CompiledStep(step, model, others)


class CompiledStep:
    """What `compile_step` returns."""

    def __init__(self, step: Callable[..., Any], model: Module, others: Sequence[Any]) -> None:
        self._step, self._model, self._others = step, model, tuple(others)
        self._recorded: OrderedDict[tuple, _Recorded] = OrderedDict()
        self._warm: dict[tuple, _Surroundings] = {}  # kinds of calls whose next one is recorded
        self._refused = False

    def __call__(self, *inputs: Tensor) -> Any:
        """What the step returns."""
        if self._refused or not _can_be_recorded(inputs):
            return self._step(*inputs)
        key = self._model.training, signature_of(inputs)
        recorded = self._recorded.get(key)
        if recorded is not None and not recorded.surroundings.unchanged():
            del self._recorded[key]
            recorded = None
        leaves = self._model.parameters() if recorded is None else recorded.surroundings.state
        if any(leaf.grad is not None for leaf in leaves):  # to which this call's would be added
            return self._step(*inputs)
        if recorded is not None:
            self._recorded.move_to_end(key)
            return recorded.repeat(inputs)
        if key in self._warm and self._warm[key].unchanged():
            return self._record(key, inputs)
        # The first call, and the first after a change, compiles kernels, makes plans and moves constants: no
        # repetition shall do that. A model that changes with every call never gets further.
        self._warm[key] = _Surroundings(self._model, self._others)
        return self._step(*inputs)

    def _record(self, key: tuple, inputs: tuple[Tensor, ...]) -> Any:
        recorded = _Recorded(self._step, self._model, self._others, inputs)
        if recorded.recording.refusal is not None:
            self._refused = True
            self._recorded.clear()
            why = recorded.recording.refusal
            warnings.warn(f"the step is launched kernel by kernel: {why}", CompileWarning, stacklevel=3)
        elif recorded.is_plain:
            self._recorded[key] = recorded
            if len(self._recorded) > _RECORDINGS:
                self._recorded.popitem(last=False)
        return recorded.first_results

    def recordings(self) -> list[Any]:
        """The recordings made so far, the most recently used last."""
        return [recorded.recording for recorded in self._recorded.values()]


def _can_be_recorded(inputs: tuple[Tensor, ...]) -> bool:
    """Whether a call with these inputs, now, could be recorded or be a repetition."""
    if not inputs or any(not isinstance(x, Tensor) or x.device == "cpu" for x in inputs):
        return False
    if scope.watch.recorder is not None or is_anomaly_detected():
        return False
    return not kernels.backend("cuda").is_recording()  # else this call is a part of another step


class _Surroundings:
    """What a step depends on beside its inputs, as it is now: modules, which arrays they hold, a loss."""

    def __init__(self, model: Module, others: tuple[Any, ...]) -> None:
        self._watches = [_watch(part) for part in (model, *others)]
        self.state = [*model.parameters(), *model.buffers()]
        self._arrays = [tensor.data for tensor in self.state]
        self._trained = [tensor.requires_grad for tensor in self.state]

    def unchanged(self) -> bool:
        """Whether the step would launch again what it launches now."""
        same = all(tensor.data is array for tensor, array in zip(self.state, self._arrays, strict=True))
        trained = [tensor.requires_grad for tensor in self.state] == self._trained
        return same and trained and all(watch() for watch in self._watches)


class _Recorded:
    """One recording of a step, and what a repetition does on the host."""

    def __init__(
        self, step: Callable[..., Any], model: Module, others: tuple[Any, ...], inputs: tuple[Tensor, ...]
    ) -> None:
        backend = kernels.backend("cuda")
        self.surroundings = _Surroundings(model, others)
        state = self.surroundings.state
        versions = [tensor._version.count for tensor in state]
        self._inputs = tuple(Tensor(backend.copy(x.data)) for x in inputs)
        self.recording = backend.Recording(line_of_caller)
        if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
            self.recording.refuse("a module has hooks, which are Python")
        with drawn() as draws, self.recording.listen():
            self._results = step(*self._inputs)
        if any(x._node is not None and not x._node.released for x in _tensors(self._results)):
            self.recording.refuse("backward comes after the step, not in it")
        if self.recording.rates:
            self.recording.refuse("an optimizer steps in it, with numbers that change; let it step after it")
        if [place for *_, place in draws] != self.recording.draws:
            self.recording.refuse("random numbers are drawn outside of dropout")
        self._draws = [(generator, size) for generator, size, _ in draws]
        # Numbers are drawn twice where a plan is made: such a run is not what the next one will be.
        self.is_plain = len({place for *_, place in draws}) == len(draws)
        self._gradients = [(t, t.grad.data) for t in state if t.grad is not None]
        self._changed = [t for t, count in zip(state, versions, strict=True) if t._version.count != count]
        # What is refused is this one call, whose results may be a part of a tape.
        self.first_results = self._results if self.recording.refusal else _copied(self._results)

    def repeat(self, inputs: tuple[Tensor, ...]) -> Any:
        """One more call."""
        backend = kernels.backend("cuda")
        for own, given in zip(self._inputs, inputs, strict=True):
            backend.copy_into(own.data, given.data)
        self.recording.repeat([generator.reserve(size) for generator, size in self._draws])
        for leaf, gradient in self._gradients:
            leaf.grad = Tensor(gradient)
        for tensor in self._changed:
            tensor.mark_changed()
        return _copied(self._results)


def compile_update(update: Callable[[], Any], model: Module) -> CompiledUpdate:
    """`update`, which changes the parameters of `model` by their gradients: an optimizer's step.

    It is called every time, and decides as ever; but on a device, what it launches is done as one CUDA graph
    if that is what it launched before with gradients in the same memory, as `compile_step` leaves them. Rates
    and counts of steps may change. Gives nothing.
    """
    return CompiledUpdate(update, model)


class CompiledUpdate:
    """What `compile_update` returns."""

    def __init__(self, update: Callable[[], Any], model: Module) -> None:
        self._update, self._model = update, model
        self._watch: Watch | None = None
        self._parameters: list[Any] = []
        self._recorded: OrderedDict[tuple, Any] = OrderedDict()  # None: called once
        self._in_vain = 0  # calls in a row that differed from their recording

    def __call__(self) -> None:
        """Call the function."""
        if self._watch is None or not self._watch.sees_no_change():
            self._watch, self._parameters = Watch(self._model), list(self._model.parameters())
        key = self._gradients()
        if not key or self._in_vain >= _PATIENCE or kernels.backend("cuda").is_recording():
            self._update()
            return
        recording = self._recorded.get(key)
        if recording is not None:
            self._rehearse(key, recording)
        elif key in self._recorded:  # the first call made the optimizer's state
            recording = kernels.backend("cuda").Recording(line_of_caller)
            with recording.listen():
                self._update()
            if recording.refusal is None:
                self._recorded[key] = recording
            else:
                self._in_vain = _PATIENCE
        else:
            self._recorded[key] = None
            self._update()
        self._recorded.move_to_end(key)
        if len(self._recorded) > _RECORDINGS:
            self._recorded.popitem(last=False)

    def recordings(self) -> list[Any]:
        """The recordings made so far, the most recently used last."""
        return [recording for recording in self._recorded.values() if recording is not None]

    def _rehearse(self, key: tuple, recording: Any) -> None:
        rehearsal = kernels.backend("cuda").Rehearsal(recording)
        with rehearsal.listen():
            self._update()
        self._in_vain = 0 if rehearsal.matched else self._in_vain + 1
        if not rehearsal.matched:
            self._recorded[key] = None

    def _gradients(self) -> tuple:
        """Where the gradients lie; () if one is on the host."""
        arrays = [None if p.grad is None else p.grad.data for p in self._parameters]
        if not all(array is None or isinstance(array, kernels.DeviceArray) for array in arrays):
            return ()
        return tuple(None if array is None else id(array.memory) for array in arrays)


def _watch(part: Any) -> Callable[[], bool]:
    """A function that says whether `part` (a model, a loss) is as it is now, object by object."""
    if isinstance(part, CompiledModule):
        part = part._model
    if isinstance(part, Module):
        return Watch(part).sees_no_change
    if isinstance(part, partial):
        return _watch(part.func)
    attributes = dict(getattr(part, "__dict__", {}))

    def sees_no_change() -> bool:
        now = getattr(part, "__dict__", {})
        return len(now) == len(attributes) and all(now.get(k) is v for k, v in attributes.items())

    return sees_no_change


def _tensors(results: Any) -> Iterator[Tensor]:
    for result in results if isinstance(results, tuple) else (results,):
        if isinstance(result, Tensor):
            yield result


def _copied(results: Any) -> Any:
    """Results in memory of their own, cut off from the tape."""
    if isinstance(results, Tensor):
        return Tensor(kernels.of(results.data).copy(results.data))
    return tuple(map(_copied, results)) if isinstance(results, tuple) else results
