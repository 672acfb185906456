"""Mask: the transform that prunes.

Which weights go is decided elsewhere (`prune.py`); here is what being pruned means for a parameter.
"""

from __future__ import annotations

from typing import Any

import minicnn_kernels as kernels
from minicnn.functions.quantization import apply_mask
from minicnn.nn.module import Module
from minicnn.nn.transform import Transform, attach, find, raw
from minicnn.tensor import Tensor, bool_
from minicnn_kernels import memory


class Mask(Transform):
    """The value where `keep` holds, 0 elsewhere.

    like: the parameter, whose shape and memory order `keep` (a bool buffer, all True at first) takes.
    hard: what is pruned stays pruned: it gets no gradient, and optimizers hold it at zero, momentum and
    decay included. hard=False: it goes on being trained behind the mask, and may return when the mask is
    chosen anew (dynamic network surgery, Guo et al. 2016).
    """

    kind = "mask"

    def __init__(self, like: Tensor, *, hard: bool = True) -> None:
        super().__init__()
        self.hard = hard
        keep = memory.empty_like(like.data, bool_)
        kernels.of(like.data).copy_into(keep, True)
        self.register_buffer("keep", Tensor(keep))

    def forward(self, value: Tensor) -> Tensor:
        return apply_mask(value, self.keep, hard=self.hard)

    def options(self) -> dict[str, Any]:
        return {"hard": self.hard}

    def attached(self, module: Module, place: str) -> None:
        raw(module, place).keep = self.keep if self.hard else None

    def detached(self, module: Module, place: str) -> None:
        raw(module, place).keep = None

    def extra_repr(self) -> str:
        return f"hard={self.hard}"


def set_mask(module: Module, place: str, keep: Any, *, hard: bool = True) -> Mask:
    """Prune the parameter called `place`: what `keep` (bool, its shape) lacks is 0 from now on.

    With `hard` the raw values there become 0, too, so that nothing is hidden behind the mask.
    """
    parameter = raw(module, place)
    mask = find(module, place, "mask")
    if mask is None:
        mask = attach(module, place, Mask(parameter, hard=hard))
    mask.hard = hard
    mask.attached(module, place)
    mask.keep.copy_(keep)
    if hard:
        kernels.of(parameter.data).apply_mask_(parameter.data, mask.keep.data)
        parameter.mark_changed()
    return mask
