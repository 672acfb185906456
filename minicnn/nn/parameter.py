"""Parameter: a tensor that a module trains."""

from __future__ import annotations

from typing import Any

import numpy as np

import minicnn_kernels as kernels
from minicnn.tensor import Tensor, tensor


class Parameter(Tensor):
    """A tensor that a module registers when it is assigned as an attribute. Requires a gradient by default.

    data: array, tensor (memory is shared) or nested numbers.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        if not isinstance(data, np.ndarray):
            data = data.data if isinstance(data, Tensor) else tensor(data).data
        super().__init__(data, requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        result = Parameter(kernels.of(self.data).copy(self.data), self.requires_grad)
        memo[id(self)] = result
        if self.grad is not None:
            result.grad = Tensor(kernels.of(self.grad.data).copy(self.grad.data))
        return result

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()
