"""Module, the building block of models.

A module knows its parameters, buffers and children by name; everything that walks a model (state_dict,
train and eval, moving between types, printing) is here, with PyTorch's names and behaviour. Layers are in
the files beside this one; where a running module stands in its model is kept by `minicnn.scope`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

import minicnn_kernels as kernels
from minicnn import scope
from minicnn.nn.hooks import RemovableHandle
from minicnn.nn.parameter import Parameter
from minicnn.nn.state import LoadReport, copy_state
from minicnn.tensor import Tensor, as_dtype, float32, float64

M = TypeVar("M", bound="Module")

TRANSFORMS = "_transforms"  # a child called weight_transforms changes what reading weight gives


class Module:
    """Base class of layers and models: assign parameters and modules as attributes, define `forward`."""

    training: bool
    is_frozen: bool = False  # stays in eval mode, whatever `train` says: see minicnn.compress.transfer
    _scope_name: str

    def __init__(self) -> None:
        set_attribute = super().__setattr__  # past our own __setattr__, which needs these dicts
        set_attribute("_parameters", {})
        set_attribute("_buffers", {})
        set_attribute("_non_persistent_buffers", set())
        set_attribute("_modules", {})
        set_attribute("_forward_hooks", {})
        set_attribute("_forward_pre_hooks", {})
        set_attribute("_scope_name", "")
        set_attribute("training", True)

    # -- running ------------------------------------------------------------------------------

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The module's result. Subclasses define it; callers call the module itself."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        scope.push(type(self).__name__, self._scope_name)
        try:
            for hook in tuple(self._forward_pre_hooks.values()):
                replaced = hook(self, inputs)
                if replaced is not None:
                    inputs = replaced if isinstance(replaced, tuple) else (replaced,)
            if "input_transforms" in self._modules:
                inputs = (self._modules["input_transforms"](inputs[0]), *inputs[1:])
            result = self.forward(*inputs, **options)
            if "output_transforms" in self._modules:
                result = self._modules["output_transforms"](result)
            for hook in tuple(self._forward_hooks.values()):
                replaced = hook(self, inputs, result)
                if replaced is not None:
                    result = replaced
            return result
        finally:
            scope.pop()

    def register_forward_pre_hook(self, hook: Callable[[Module, tuple], Any]) -> RemovableHandle:
        """Call `hook(module, inputs)` before forward; a return value replaces the inputs."""
        return RemovableHandle(self._forward_pre_hooks, hook)

    def register_forward_hook(self, hook: Callable[[Module, tuple, Any], Any]) -> RemovableHandle:
        """Call `hook(module, inputs, result)` after forward; a return value replaces the result."""
        return RemovableHandle(self._forward_hooks, hook)

    # -- attributes ---------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        registered = self.__dict__
        for kind in ("_parameters", "_buffers", "_modules"):
            entries = registered.get(kind)
            if entries is not None and name in entries:
                value = entries[name]
                if kind == "_parameters" and name + TRANSFORMS in registered["_modules"]:
                    return registered["_modules"][name + TRANSFORMS](value)  # see nn/transform.py
                return value
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __setattr__(self, name: str, value: Any) -> None:
        if "_parameters" not in self.__dict__:
            if isinstance(value, (Parameter, Module, Tensor)):
                raise AttributeError(
                    f"{type(self).__name__}: cannot assign '{name}' before super().__init__() was called"
                )
            super().__setattr__(name, value)
        elif isinstance(value, Parameter):
            self._forget(name, but_in=self._parameters)
            self.register_parameter(name, value)
            if name + TRANSFORMS in self._modules:
                self._modules[name + TRANSFORMS].attached(self, name)
        elif isinstance(value, Module):
            self._forget(name, but_in=self._modules)
            self.register_module(name, value)
        elif name in self._parameters:
            if value is not None:
                raise TypeError(
                    f"{type(self).__name__}: cannot assign {type(value).__name__} as parameter '{name}': "
                    f"expected a Parameter or None"
                )
            self._parameters[name] = None
        elif name in self._buffers:
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(
                    f"{type(self).__name__}: cannot assign {type(value).__name__} as buffer '{name}': "
                    f"expected a Tensor or None"
                )
            self._buffers[name] = value
        elif name in self._modules:
            if value is not None:
                raise TypeError(
                    f"{type(self).__name__}: cannot assign {type(value).__name__} as child module '{name}': "
                    f"expected a Module or None"
                )
            self._modules[name] = None
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if any(name in entries for entries in (self._parameters, self._buffers, self._modules)):
            self._forget(name)
        else:
            super().__delattr__(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._parameters, *self._buffers, *self._modules})

    def _forget(self, name: str, but_in: dict[str, Any] | None = None) -> None:
        """Drop what is called `name`. In `but_in` it stays, so that its successor takes the same place."""
        self.__dict__.pop(name, None)
        for entries in (self._parameters, self._buffers, self._modules):
            if entries is not but_in:
                entries.pop(name, None)
        self._non_persistent_buffers.discard(name)

    def _check_name(self, what: str, name: str) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(
                f"{type(self).__name__}: {what} name must be a non-empty string without '.', got {name!r}"
            )
        registered = any(name in entries for entries in (self._parameters, self._buffers, self._modules))
        if not registered and hasattr(self, name):
            raise KeyError(f"{type(self).__name__}: attribute '{name}' exists already")

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Add a parameter (or None: a parameter this layer could have but has not)."""
        self._check_name("parameter", name)
        if parameter is not None and not isinstance(parameter, Parameter):
            raise TypeError(
                f"{type(self).__name__}: parameter '{name}' must be a Parameter or None, "
                f"got {type(parameter).__name__}"
            )
        self._parameters[name] = parameter

    def register_buffer(self, name: str, value: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but is not trained. persistent: whether state_dict holds it."""
        self._check_name("buffer", name)
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(
                f"{type(self).__name__}: buffer '{name}' must be a Tensor or None, got {type(value).__name__}"
            )
        self._buffers[name] = value
        if persistent:
            self._non_persistent_buffers.discard(name)
        else:
            self._non_persistent_buffers.add(name)

    def register_module(self, name: str, module: Module | None) -> None:
        """Add a child module."""
        self._check_name("module", name)
        if module is not None and not isinstance(module, Module):
            raise TypeError(
                f"{type(self).__name__}: child '{name}' must be a Module or None, got {type(module).__name__}"
            )
        self._modules[name] = module
        if module is not None:
            module._named_by_parent(name)

    add_module = register_module

    def _named_by_parent(self, name: str) -> None:
        """Remember the name that error messages show. Containers that are never called pass it on."""
        self._scope_name = name

    # -- walking ------------------------------------------------------------------------------

    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """This module and all below it, parents first, with dotted names ('' for itself)."""
        seen: set[int] = set()
        stack: list[tuple[str, Module]] = [(prefix, self)]
        while stack:
            path, module = stack.pop()
            if remove_duplicate and id(module) in seen:
                continue
            seen.add(id(module))
            yield path, module
            children = [
                (_join(path, name), child) for name, child in module._modules.items() if child is not None
            ]
            stack.extend(reversed(children))

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Direct children with their names, each once."""
        seen: set[int] = set()
        for name, child in self._modules.items():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                yield name, child

    def children(self) -> Iterator[Module]:
        """Direct children, each once."""
        return (child for _, child in self.named_children())

    def _named_tensors(
        self, kind: str, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = self.named_modules(prefix, remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, value in getattr(module, kind).items():
                if value is None or (remove_duplicate and id(value) in seen):
                    continue
                seen.add(id(value))
                yield _join(path, name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Parameters with dotted names; a shared one appears once, under its first name."""
        return self._named_tensors("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Parameters, each once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Buffers with dotted names."""
        return self._named_tensors("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Buffers, each once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """The module with this dotted name ('' is this one). Raises AttributeError if there is none."""
        module = self
        for name in target.split(".") if target else ():
            child = module._modules.get(name)
            if child is None:
                known = ", ".join(module._modules) or "none"
                raise AttributeError(
                    f"{type(module).__name__} has no child module '{name}' (asked for '{target}'); "
                    f"children: {known}"
                )
            module = child
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter with this dotted name. Raises AttributeError if there is none."""
        return self._get_tensor("_parameters", "parameter", target)

    def get_buffer(self, target: str) -> Tensor:
        """The buffer with this dotted name. Raises AttributeError if there is none."""
        return self._get_tensor("_buffers", "buffer", target)

    def _get_tensor(self, kind: str, what: str, target: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        value = getattr(module, kind).get(name)
        if value is None:
            known = ", ".join(getattr(module, kind)) or "none"
            raise AttributeError(
                f"{type(module).__name__} has no {what} '{name}' (asked for '{target}'); it has: {known}"
            )
        return value

    def apply(self: M, function: Callable[[Module], Any]) -> M:
        """Call `function` on every module, children first, and return self."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    # -- modes and types ----------------------------------------------------------------------

    def train(self: M, mode: bool = True) -> M:
        """Training mode (True) or evaluation mode for this module and all below: batch norm, dropout."""
        if not isinstance(mode, bool):
            raise ValueError(f"{type(self).__name__}.train: expected True or False, got {mode!r}")
        self.training = mode and not self.is_frozen
        for child in self.children():
            child.train(mode)
        return self

    def eval(self: M) -> M:
        """Evaluation mode: the same as train(False)."""
        return self.train(False)

    def requires_grad_(self: M, requires_grad: bool = True) -> M:
        """Freeze (False) or unfreeze all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or overwrite them with zeros."""
        zero_grad(self.parameters(), set_to_none)

    def to(self: M, target: Any = None, *, device: str | None = None, dtype: Any = None) -> M:
        """Move and cast in place: `to("cuda")`, `to(minicnn.float64)`. Integer buffers keep their type.

        Raises ValueError for an unknown device, RuntimeError for one that is not here, TypeError for a dtype
        that is no floating one.
        """
        if isinstance(target, Tensor):
            device, dtype = target.device, target.dtype
        elif isinstance(target, str) and target in kernels.DEVICES:
            device = target
        elif target is not None:
            dtype = target
        if dtype is not None:
            dtype = as_dtype(dtype)
            if dtype.kind != "f":
                raise TypeError(f"{type(self).__name__}.to: expected a floating-point dtype, got {dtype}")
        for value in itertools.chain(self.parameters(), self.buffers()):
            for part in (value, value.grad):
                if part is not None:
                    array = _converted(part.data, device, dtype)
                    if array is not part.data:  # assigning the same one would mean that it was written into
                        part.data = array
        return self

    def float(self: M) -> M:
        """Cast to float32 in place."""
        return self.to(dtype=float32)

    def double(self: M) -> M:
        """Cast to float64 in place."""
        return self.to(dtype=float64)

    def cpu(self: M) -> M:
        """Move to host memory in place."""
        return self.to(device="cpu")

    def cuda(self: M) -> M:
        """Move to the GPU in place. Raises if there is none, saying what is missing."""
        return self.to(device="cuda")

    # -- state --------------------------------------------------------------------------------

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and persistent buffers by PyTorch's dotted names. Shares memory with the module."""
        return {name: value.detach() for name, value in self._state(prefix)}

    def _state(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        for path, module in self.named_modules(remove_duplicate=False):
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    yield prefix + _join(path, name), parameter
            for name, buffer in module._buffers.items():
                if buffer is not None and name not in module._non_persistent_buffers:
                    yield prefix + _join(path, name), buffer

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> LoadReport:
        """Copy the values of `state_dict` (tensors or anything NumPy reads) into this module.

        strict: names must match exactly; otherwise what is missing or unexpected is only reported.
        Memory layout and dtype stay the module's. Raises ValueError listing every mismatch, and then nothing
        was changed.
        """
        return copy_state(type(self).__name__, dict(self._state()), state_dict, strict)

    # -- printing -----------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What stands between the parentheses when the module is printed."""
        return ""

    def __repr__(self) -> str:
        name, extra = type(self).__name__, self.extra_repr()
        children = [f"({key}): {child!r}" for key, child in self._modules.items()]
        if not children:
            return f"{name}({extra})"
        lines = [*extra.splitlines(), *children]
        return f"{name}(\n  " + "\n  ".join(line.replace("\n", "\n  ") for line in lines) + "\n)"


def zero_grad(parameters: Iterable[Tensor], set_to_none: bool = True) -> None:
    """Forget the gradients of `parameters`, or overwrite them with zeros."""
    for parameter in parameters:
        if set_to_none:
            parameter.grad = None
        elif parameter.grad is not None:
            parameter.grad.zero_()


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _converted(array: Any, device: str | None, dtype: np.dtype | None) -> Any:
    if dtype is not None and array.dtype.kind == "f" and array.dtype != dtype:
        array = kernels.of(array).cast(array, dtype)
    return array if device is None else kernels.to_device(array, device)
