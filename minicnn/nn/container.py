"""Containers: modules in a row, in a list, in a dict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from minicnn.nn.module import Module


def _position(owner: Module, index: int) -> str:
    """The name of the child at `index`, which may be negative."""
    names = list(owner._modules)
    try:
        return names[index]
    except IndexError:
        raise IndexError(
            f"{type(owner).__name__}: index {index} is out of range for {len(names)} modules"
        ) from None


class Sequential(Module):
    """Modules that run one after the other. Takes modules, or one dict of names and modules."""

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            named = dict(modules[0])
        else:
            named = {str(i): module for i, module in enumerate(modules)}
        for name, module in named.items():
            self.register_module(name, module)

    def forward(self, input: Any) -> Any:
        for module in self._modules.values():
            input = module(input)
        return input

    def append(self, module: Module) -> Sequential:
        """Add a module at the end."""
        self.register_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Sequential:
        """Add modules at the end."""
        for module in modules:
            self.append(module)
        return self

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Sequential(dict(list(self._modules.items())[index]))
        return self._modules[_position(self, index)]

    def __setitem__(self, index: int, module: Module) -> None:
        self.register_module(_position(self, index), module)

    def __delitem__(self, index: int) -> None:
        delattr(self, _position(self, index))
        _renumber(self)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())


class _Holder(Module):
    """A container that is never called itself: its children show its name before theirs."""

    def _named_by_parent(self, name: str) -> None:
        super()._named_by_parent(name)
        for key, child in self._modules.items():
            if child is not None:
                child._named_by_parent(f"{name}.{key}")

    def register_module(self, name: str, module: Module | None) -> None:
        """Add a child module."""
        super().register_module(name, module)
        if module is not None and self._scope_name:
            module._named_by_parent(f"{self._scope_name}.{name}")


class ModuleList(_Holder):
    """A list of modules that a model can find."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def append(self, module: Module) -> ModuleList:
        """Add a module at the end."""
        self.register_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Add modules at the end."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> None:
        """Add a module before `index`."""
        modules = list(self)
        modules.insert(index, module)
        self._modules.clear()
        self.extend(modules)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return ModuleList(list(self)[index])
        return self._modules[_position(self, index)]

    def __setitem__(self, index: int, module: Module) -> None:
        self.register_module(_position(self, index), module)

    def __delitem__(self, index: int) -> None:
        delattr(self, _position(self, index))
        _renumber(self)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())


class ModuleDict(_Holder):
    """A dict of modules that a model can find."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        self.update(modules or {})

    def update(self, modules: Mapping[str, Module]) -> None:
        """Add or replace modules."""
        for name, module in modules.items():
            self[name] = module

    def __getitem__(self, name: str) -> Any:
        return self._modules[name]

    def __setitem__(self, name: str, module: Module) -> None:
        self.register_module(name, module)

    def __delitem__(self, name: str) -> None:
        del self._modules[name]

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def keys(self) -> Iterable[str]:
        """Names."""
        return self._modules.keys()

    def values(self) -> Iterable[Any]:
        """Modules."""
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Any]]:
        """Names and modules."""
        return self._modules.items()


def _renumber(owner: Module) -> None:
    """Close the gap that a deletion left in names that are numbers."""
    entries = [
        (str(i) if name.isdigit() else name, module)
        for i, (name, module) in enumerate(owner._modules.items())
    ]
    owner._modules.clear()
    for name, module in entries:
        owner.register_module(name, module)
