"""Dense layers, reshaping layers and lookup tables."""

from __future__ import annotations

import minicnn_kernels as kernels
from minicnn.functions.quantization import quantized_linear
from minicnn.nn import arguments, init
from minicnn.nn import functional as F
from minicnn.nn.module import Module
from minicnn.nn.parameter import Parameter
from minicnn.nn.transform import lattices
from minicnn.tensor import Tensor
from minicnn_kernels import memory


class Identity(Module):
    """y = x. A place holder, for example for a removed head."""

    def forward(self, input: Tensor) -> Tensor:
        return input


class Linear(Module):
    """y = x W^T + b.

    x: (..., in_features). W: (out_features, in_features). b: (out_features,). y: (..., out_features).
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = arguments.integer(self, "in_features", in_features)
        self.out_features = arguments.integer(self, "out_features", out_features)
        self.weight = Parameter(init.empty_weight((self.out_features, self.in_features)))
        self.bias = Parameter(memory.empty(self.out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new starting values."""
        init.default_weight_(self.weight)
        if self.bias is not None:
            init.default_bias_(self.bias, self.weight)

    def forward(self, input: Tensor) -> Tensor:
        exact = lattices(self)
        if exact is not None:
            return quantized_linear(input, self.weight, self.bias, exact)
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"


class Flatten(Module):
    """(N, C, H, W) becomes (N, C H W), or other neighbouring dimensions become one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = arguments.integer(self, "start_dim", start_dim, minimum=-64)
        self.end_dim = arguments.integer(self, "end_dim", end_dim, minimum=-64)

    def forward(self, input: Tensor) -> Tensor:
        return input.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Dimension `dim` becomes several: Unflatten(1, (2, 5, 5)) makes (N, 50) into (N, 2, 5, 5)."""

    def __init__(self, dim: int, unflattened_size: tuple[int, ...]) -> None:
        super().__init__()
        self.dim = arguments.integer(self, "dim", dim, minimum=-64)
        if not isinstance(unflattened_size, (tuple, list)) or not unflattened_size:
            raise arguments.fail(self, "unflattened_size", "a tuple of integers", unflattened_size)
        self.unflattened_size = arguments.integers(
            self, "unflattened_size", unflattened_size, len(unflattened_size), minimum=-1
        )

    def forward(self, input: Tensor) -> Tensor:
        dim = self.dim % input.ndim
        return input.reshape(*input.shape[:dim], *self.unflattened_size, *input.shape[dim + 1 :])

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class Embedding(Module):
    """Row i of a table for every index i.

    input: integers of any shape. weight: (num_embeddings, embedding_dim). Result: (*shape, embedding_dim).
    padding_idx: a row that starts at zero and is never trained.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.num_embeddings = arguments.integer(self, "num_embeddings", num_embeddings)
        self.embedding_dim = arguments.integer(self, "embedding_dim", embedding_dim)
        if padding_idx is not None:
            arguments.integer(self, "padding_idx", padding_idx, minimum=-num_embeddings)
            if padding_idx >= num_embeddings:
                raise arguments.fail(
                    self, "padding_idx", f"below num_embeddings={num_embeddings}", padding_idx
                )
            padding_idx %= num_embeddings
        self.padding_idx = padding_idx
        self.weight = Parameter(memory.empty((self.num_embeddings, self.embedding_dim)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new starting values: standard normal."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            kernels.of(self.weight.data).setitem(self.weight.data, self.padding_idx, 0)

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(input, self.weight, padding_idx=self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
