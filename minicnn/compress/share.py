"""Weight sharing: every weight of a layer is one of a few numbers (Han et al. 2016, "Deep Compression").

Clusters come from k-means, and are then fine-tuned by gradient, each by the sum over its members. Coding the
indices with few bits is the business of deployment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import minicnn_kernels as kernels
from minicnn.compress.select import select_layers
from minicnn.compress.substitute import Substitute
from minicnn.functions.codebook import codebook
from minicnn.grad_mode import no_grad
from minicnn.nn.module import Module
from minicnn.nn.parameter import Parameter
from minicnn.nn.transform import attach, detach, find, value_before
from minicnn.tensor import Tensor, int16, uint8

INITS = ("linear", "density", "random")
_MOST = 1 << 15  # positions in an int16


class Codebook(Substitute):
    """centroids[index] wherever the value is not 0; zeros, those of a mask for example, stay exactly zero.

    like: the parameter, whose shape, memory order and dtype it takes. clusters: from 1 to 32768. centroids
    (clusters,) is a Parameter, ascending when made; index is a buffer, uint8 up to 256 clusters, else int16.
    The raw parameter is kept as it was and gets no gradient.
    """

    kind = "codebook"

    def __init__(self, like: Tensor, clusters: int) -> None:
        super().__init__()
        if isinstance(clusters, bool) or not isinstance(clusters, int) or not 1 <= clusters <= _MOST:
            raise ValueError(f"Codebook: expected clusters from 1 to {_MOST}, got {clusters!r}")
        self.clusters = clusters
        index = kernels.empty_like(like.data, uint8 if clusters <= 256 else int16)
        k = kernels.of(like.data)
        k.copy_into(index, 0)
        self.centroids = Parameter(k.full((clusters,), 0, like.dtype))
        self.register_buffer("index", Tensor(index))

    def cluster(self, value: Tensor, init: str = "linear", seed: int = 0) -> None:
        """Take the centroids of `value`'s elements other than 0, and for each element the nearest of them."""
        k, x = kernels.of(value.data), value.data
        centroids = k.kmeans(k.getitem(x, k.ne(x, 0)), self.clusters, init, seed)
        k.copy_into(self.centroids.data, centroids)
        k.copy_into(self.index.data, k.nearest_centroid(x, centroids, self.index.dtype))
        self.centroids.mark_changed()
        self.index.mark_changed()

    def forward(self, value: Tensor) -> Tensor:
        return codebook(value, self.centroids, self.index)

    @property
    def bits(self) -> int:
        """Bits of an index."""
        return (self.clusters - 1).bit_length()

    def options(self) -> dict[str, Any]:
        return {"clusters": self.clusters}

    def extra_repr(self) -> str:
        return f"{self.clusters} clusters"


def share(
    model: Module,
    clusters: int | Mapping[str, int] = 16,
    *,
    biases: int | None = None,
    layers: str | Iterable[str] | None = None,
    init: str = "linear",
    seed: int = 0,
) -> dict[str, Codebook]:
    """Let the weights of each layer share `clusters` numbers; gives the codebook of each layer by name.

    clusters: one number, or {name or pattern of layers: number} with `layers` left out. biases: how many
    numbers the biases of each layer share, if it has more of them; None keeps them all. Their codebook is
    given as "NAME.bias". init: where k-means starts, 'linear', 'density' or 'random' (from `seed`). The
    centroids are new parameters: make the optimizer afterwards, with a lower learning rate than for single
    weights, for a centroid's gradient is a sum. A layer that was shared before gets a new codebook for its
    present values.

    Raises ValueError for an unknown layer or init, a number of clusters out of range and weights that are not
    finite; the model is then as it was.
    """
    if init not in INITS:
        raise ValueError(f"share: expected init to be one of {', '.join(INITS)}, got {init!r}")
    found: dict[str, tuple[Module, str, Codebook]] = {}
    for name, (module, count) in _clusters_by_layer(model, clusters, layers).items():
        found[name] = module, "weight", _codebook(name, module, "weight", count, init, seed)
        bias = module._parameters.get("bias")
        if biases is not None and bias is not None and bias.numel() > biases:
            book = _codebook(name, module, "bias", biases, init, seed)
            found[f"{name}.bias" if name else "bias"] = module, "bias", book
    for module, place, book in found.values():
        if find(module, place, "codebook") is not None:
            detach(module, place, "codebook")
        attach(module, place, book)
    return {name: book for name, (_, _, book) in found.items()}


def _codebook(name: str, module: Module, place: str, count: int, init: str, seed: int) -> Codebook:
    """A codebook of `count` numbers for what the parameter `place` of layer `name` is now."""
    earlier = find(module, place, "codebook")
    with no_grad():
        value = value_before(module, place, "codebook").detach()
        value = value if earlier is None else earlier(value)
    if not kernels.of(value.data).all_finite(value.data):
        raise ValueError(f"share: the {place} of layer {name!r} holds NaN or infinity; train it anew")
    book = Codebook(value, count)
    book.cluster(value, init, seed)
    return book


def _clusters_by_layer(
    model: Module, clusters: int | Mapping[str, int], layers: str | Iterable[str] | None
) -> dict[str, tuple[Module, int]]:
    """For each layer its module and number of clusters."""
    if not isinstance(clusters, Mapping):
        return {name: (module, clusters) for name, module in select_layers(model, layers).items()}
    if layers is not None:
        raise ValueError("share: clusters by layer name the layers; leave out `layers`")
    return {
        name: (module, count)
        for pattern, count in clusters.items()
        for name, module in select_layers(model, pattern).items()
    }
