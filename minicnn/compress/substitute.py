"""Transforms whose value comes from parameters of their own, so that the raw one is kept but not trained."""

from __future__ import annotations

from minicnn.grad_mode import no_grad
from minicnn.nn.module import Module
from minicnn.nn.transform import ORDER, Transform, find, raw
from minicnn.tensor import Tensor


class Substitute(Transform):
    """Base class: while attached the raw parameter asks for no gradient, so optimizers leave it alone."""

    raw_was_trained = True

    def attached(self, module: Module, place: str) -> None:
        parameter = raw(module, place)
        self.raw_was_trained = parameter.requires_grad
        parameter.requires_grad_(False)

    def detached(self, module: Module, place: str) -> None:
        raw(module, place).requires_grad_(self.raw_was_trained)


def value_before(module: Module, place: str, kind: str) -> Tensor:
    """The parameter called `place` as a transform of `kind` would find it: after those that come earlier."""
    with no_grad():
        value = raw(module, place)
        for earlier in ORDER[: ORDER.index(kind)]:
            transform = find(module, place, earlier)
            value = value if transform is None else transform(value)
    return value.detach()
