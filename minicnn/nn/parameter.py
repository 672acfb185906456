"""Parameter: a tensor that a module trains."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

import minicnn_kernels as kernels
from minicnn.tensor import Tensor, tensor


class Parameter(Tensor):
    """A tensor that a module registers when it is assigned as an attribute. Requires a gradient by default.

    data: array, tensor (memory is shared) or nested numbers. keep: None, or a bool tensor of its shape:
    optimizers hold the parameter, and what they remember of it, at zero where it is False (pruned weights).
    """

    __slots__ = ("keep",)

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        if not isinstance(data, (np.ndarray, kernels.DeviceArray)):
            data = data.data if isinstance(data, Tensor) else tensor(data).data
        super().__init__(data, requires_grad)
        self.keep: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        result = Parameter(Tensor(kernels.of(self.data).copy(self.data)), self.requires_grad)
        memo[id(self)] = result
        result.keep = copy.deepcopy(self.keep, memo)  # the very copy that the copied mask holds
        if self.grad is not None:
            result.grad = Tensor(kernels.of(self.grad.data).copy(self.grad.data))
        return result

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()
