"""Transforms whose value comes from parameters of their own, so that the raw one is kept but not trained."""

from __future__ import annotations

from minicnn.nn.module import Module
from minicnn.nn.transform import Transform, raw


class Substitute(Transform):
    """Base class: while attached the raw parameter asks for no gradient, so optimizers leave it alone."""

    raw_was_trained = True

    def attached(self, module: Module, place: str) -> None:
        parameter = raw(module, place)
        self.raw_was_trained = parameter.requires_grad
        parameter.requires_grad_(False)

    def detached(self, module: Module, place: str) -> None:
        raw(module, place).requires_grad_(self.raw_was_trained)
