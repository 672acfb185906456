"""What all optimizers share: parameter groups, state per parameter, saving and loading it.

The steps themselves are kernels (`minicnn_kernels.reference.optim` has the formulas) and work in place.
Which parameters decay is decided by groups: see `parameter_groups`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import minicnn_kernels as kernels
from minicnn.grad_mode import enable_grad
from minicnn.nn.module import Module, zero_grad
from minicnn.tensor import Tensor

Group = dict[str, Any]


class Optimizer:
    """Base class. Subclasses check their options, and define `_update(parameter, grad, state, group)`.

    params: tensors, or dicts {"params": tensors, option: value, ...} whose options override the defaults.
    Raises TypeError for unknown options and what is no tensor, ValueError for empty or repeated ones.
    """

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        if isinstance(params, (Tensor, dict)):
            raise TypeError(
                f"{type(self).__name__}: params must be an iterable of tensors or of dicts, "
                f"got a single {type(params).__name__}"
            )
        self.defaults = defaults
        self.param_groups: list[Group] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        groups = list(params)
        if not groups:
            raise ValueError(f"{type(self).__name__}: there is nothing to optimize; params is empty")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters with options of their own, for example the layers of a network that thaws."""
        name = type(self).__name__
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        unknown = param_group.keys() - self.defaults.keys() - {"params", "initial_lr"}
        if unknown:
            raise TypeError(
                f"{name}: unknown option {sorted(unknown)[0]!r} in a parameter group; "
                f"expected some of {', '.join(self.defaults)}"
            )
        taken = {id(p) for group in self.param_groups for p in group["params"]}
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"{name}: can only optimize tensors, got {type(p).__name__}")
            if p.grad_fn is not None:
                raise ValueError(f"{name}: can only optimize leaves, got the result of {p.grad_fn.name}")
            if id(p) in taken:
                raise ValueError(f"{name}: a parameter of shape {p.shape} appears twice")
            taken.add(id(p))
        group = {**self.defaults, **param_group, "params": params}
        self._check(group)
        self.param_groups.append(group)

    def _check(self, group: Group) -> None:
        """Raise ValueError for options out of their range; subclasses add theirs."""
        for option in ("lr", "weight_decay", "l1"):
            self._require(group, option, group[option] >= 0, "at least 0")

    def _require(self, group: Group, option: str, valid: bool, expected: str) -> None:
        if not valid:
            raise ValueError(f"{type(self).__name__}: {option} must be {expected}, got {group[option]!r}")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or overwrite them with zeros."""
        for group in self.param_groups:
            zero_grad(group["params"], set_to_none)

    def to(self, device: str) -> Optimizer:
        """Move velocities and moments to where the parameters have been moved, after `model.to(device)`."""
        for entries in self.state.values():
            for name, value in entries.items():
                if _is_array(value):
                    entries[name] = kernels.to_device(value, device)
        return self

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient. closure: computes the loss anew, which is returned."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                grad = p.grad.data
                if group.get("maximize"):
                    grad = kernels.of(grad).neg(grad)
                state = self.state.get(p)
                if state is None:
                    state = self.state[p] = {}
                self._update(p.data, grad, state, group)
                _hold_at_zero(p, state)
                p.mark_changed()
        return loss

    def _update(self, param: Any, grad: Any, state: dict[str, Any], group: Group) -> None:
        raise TypeError(f"{type(self).__name__} defines no _update")

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later `load_state_dict` needs to go on bit for bit, in PyTorch's form.

        {"state": {number of the parameter: {name: Tensor or number}}, "param_groups": [options, with "params"
        a list of numbers]}. Tensors share memory with the optimizer.
        """
        numbers = {id(p): i for i, p in enumerate(self._all_params())}
        state = {
            numbers[id(p)]: {k: Tensor(v) if _is_array(v) else v for k, v in entries.items()}
            for p, entries in self.state.items()
        }
        groups = [
            {**group, "params": [numbers[id(p)] for p in group["params"]]} for group in self.param_groups
        ]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over options and state. Raises ValueError, and changes nothing, if groups or shapes differ."""
        name = type(self).__name__
        saved = state_dict["param_groups"]
        sizes = [len(group["params"]) for group in self.param_groups]
        saved_sizes = [len(group["params"]) for group in saved]
        if sizes != saved_sizes:
            raise ValueError(
                f"{name}.load_state_dict: expected parameter groups of {sizes} tensors, got {saved_sizes}; "
                f"was it saved from another model?"
            )
        for group, saved_group in zip(self.param_groups, saved, strict=True):
            if group.keys() - saved_group.keys() - {"initial_lr"}:
                missing = ", ".join(sorted(group.keys() - saved_group.keys()))
                raise ValueError(
                    f"{name}.load_state_dict: options {missing} are missing; was it another optimizer?"
                )

        numbers = [number for group in saved for number in group["params"]]
        params = dict(zip(numbers, self._all_params(), strict=True))
        state: dict[Tensor, dict[str, Any]] = {}
        for number, entries in state_dict["state"].items():
            p = params[number]
            state[p] = {
                key: self._restored(p, f"{key} of parameter {number}", v) for key, v in entries.items()
            }
        self.state = state
        for group, saved_group in zip(self.param_groups, saved, strict=True):
            group.update({k: v for k, v in saved_group.items() if k != "params"})

    def _restored(self, param: Tensor, what: str, value: Any) -> Any:
        value = value.data if isinstance(value, Tensor) else value
        if not _is_array(value):
            return value
        if value.shape != param.shape:
            raise ValueError(
                f"{type(self).__name__}.load_state_dict: {what}: expected shape {param.shape}, "
                f"got {value.shape}"
            )
        result = kernels.empty_like(param.data)
        kernels.of(result).copy_into(result, kernels.to_device(value, param.device))
        return result

    def _all_params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])


def _hold_at_zero(p: Tensor, state: dict[str, Any]) -> None:
    """Where a mask says so, undo what momentum and decay did to the parameter, and make them forget it."""
    keep = getattr(p, "keep", None)
    if keep is not None:
        for array in (p.data, *(value for value in state.values() if _is_array(value))):
            kernels.of(array).apply_mask_(array, keep.data)


def zeros_like(param: Any) -> Any:
    """Zeros with the shape, dtype and memory order of an array: an optimizer's empty state."""
    result = kernels.empty_like(param)
    kernels.of(result).copy_into(result, 0)
    return result


def parameter_groups(
    model: Module, weight_decay: float = 0.0, l1: float = 0.0, decay_all: bool = False
) -> list[Group]:
    """Groups for an optimizer in which weights decay, and biases and scales of normalization do not.

    A weight is a parameter with two or more dimensions. decay_all: everything decays, as with bare tensors.
    weight_decay adds weight_decay w to the gradient (AdamW: shrinks w), l1 adds l1 sign(w).
    Use: SGD(parameter_groups(model, weight_decay=1e-4), lr=0.1).
    """
    weights = [p for p in model.parameters() if decay_all or p.ndim > 1]
    others = [p for p in model.parameters() if not (decay_all or p.ndim > 1)]
    groups = [
        {"params": weights, "weight_decay": weight_decay, "l1": l1},
        {"params": others, "weight_decay": 0.0, "l1": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")
