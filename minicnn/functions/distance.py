"""Losses of distances and margins, similarities, and penalties on weights.

All are composed of tape operations. `reduction` is 'none', 'mean' or 'sum' throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from minicnn.functions.activation import relu
from minicnn.functions.arguments import check_tensors, fail, normalized_dim, same_shape
from minicnn.functions.arithmetic import minimum, where
from minicnn.functions.loss import reduce
from minicnn.functions.normalization import floored_norm
from minicnn.tensor import Tensor

__all__ = [
    "cosine_embedding_loss",
    "cosine_similarity",
    "hinge_embedding_loss",
    "huber_loss",
    "l1_loss",
    "l1_penalty",
    "l2_penalty",
    "margin_ranking_loss",
    "mse_loss",
    "pairwise_distance",
    "smooth_l1_loss",
    "triplet_margin_loss",
]


def _difference(op: str, input: Tensor, target: Tensor) -> Tensor:
    check_tensors(op, input=input, target=target)
    same_shape(op, input=input, target=target)
    return input - target


def mse_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """(input - target)^2. Raises ValueError unless both have one shape."""
    difference = _difference("mse_loss", input, target)
    return reduce("mse_loss", difference * difference, reduction)


def l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """abs(input - target). Raises ValueError unless both have one shape."""
    return reduce("l1_loss", _difference("l1_loss", input, target).abs(), reduction)


def huber_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """d^2 / 2 where d = abs(input - target) < delta, beyond delta (d - delta / 2) (Huber 1964)."""
    if delta <= 0:
        raise fail("huber_loss", f"expected delta above 0, got {delta}")
    distance = _difference("huber_loss", input, target).abs()
    near = distance.clamp(max=delta)
    return reduce("huber_loss", near * (distance - near * 0.5), reduction)


def smooth_l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """Huber loss with delta = beta, divided by beta; beta 0 gives `l1_loss` (Girshick 2015)."""
    if beta < 0:
        raise fail("smooth_l1_loss", f"expected beta of at least 0, got {beta}")
    distance = _difference("smooth_l1_loss", input, target).abs()
    if beta == 0:
        return reduce("smooth_l1_loss", distance, reduction)
    near = distance.clamp(max=beta)
    return reduce("smooth_l1_loss", near * (distance - near * 0.5) / beta, reduction)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 x2 / (max(norm x1, eps) max(norm x2, eps)) along `dim`, which disappears; shapes broadcast."""
    op = "cosine_similarity"
    check_tensors(op, x1=x1, x2=x2)
    dim = normalized_dim(op, dim, max(x1.ndim, x2.ndim)) - max(x1.ndim, x2.ndim)
    unit1, unit2 = (x / floored_norm(x, 2, dim, eps, keepdim=True) for x in (x1, x2))
    return (unit1 * unit2).sum(dim)


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """The p-norm of x1 - x2 + eps along the last dimension."""
    check_tensors("pairwise_distance", x1=x1, x2=x2)
    return floored_norm(x1 - x2 + eps, p, -1, 0.0, keepdim=keepdim)


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, *, reduction: str = "mean"
) -> Tensor:
    """1 - cos where target is 1, max(0, cos - margin) where it is -1.

    input1, input2 (N, D) or (D,); target (N,) or ().
    """
    op = "cosine_embedding_loss"
    check_tensors(op, input1=input1, input2=input2)
    same_shape(op, input1=input1, input2=input2)
    if input1.ndim not in (1, 2) or target.shape != input1.shape[:-1]:
        raise fail(op, f"expected inputs (N, D) and target (N,), got {input1.shape} and {target.shape}")
    cosine = cosine_similarity(input1, input2, -1)
    losses = where(target == 1, 1 - cosine, where(target == -1, relu(cosine - margin), 0.0))
    return reduce(op, losses, reduction)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    *,
    reduction: str = "mean",
) -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) (Schroff et al. 2015).

    All (N, D) or (D,); d is `pairwise_distance`. swap: use d(positive, negative) where it is smaller.
    """
    op = "triplet_margin_loss"
    check_tensors(op, anchor=anchor, positive=positive, negative=negative)
    same_shape(op, anchor=anchor, positive=positive, negative=negative)
    if margin <= 0:
        raise fail(op, f"expected margin above 0, got {margin}")
    near, far = pairwise_distance(anchor, positive, p, eps), pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = minimum(far, pairwise_distance(positive, negative, p, eps))
    return reduce(op, relu(near - far + margin), reduction)


def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, *, reduction: str = "mean"
) -> Tensor:
    """The input where target is 1, max(0, margin - input) where it is -1. input, target: one shape."""
    op = "hinge_embedding_loss"
    check_tensors(op, input=input)
    same_shape(op, input=input, target=target)
    losses = where(target == 1, input, where(target == -1, relu(margin - input), 0.0))
    return reduce(op, losses, reduction)


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, *, reduction: str = "mean"
) -> Tensor:
    """max(0, -target (input1 - input2) + margin): target 1 wants input1 above input2. All of one shape."""
    op = "margin_ranking_loss"
    check_tensors(op, input1=input1, input2=input2)
    same_shape(op, input1=input1, input2=input2, target=target)
    return reduce(op, relu((input2 - input1) * target + margin), reduction)


def l1_penalty(parameters: Tensor | Iterable[Tensor], strength: float = 1.0) -> Tensor:
    """strength sum(abs(w)) over all given parameters: a term to add to the loss; drives weights to zero."""
    return strength * _total("l1_penalty", parameters, lambda w: w.abs().sum())


def l2_penalty(parameters: Tensor | Iterable[Tensor], strength: float = 1.0) -> Tensor:
    """strength sum(w^2) over all given parameters: a term to add to the loss.

    Its gradient is 2 strength w; an optimizer's weight_decay d is strength d / 2.
    """
    return strength * _total("l2_penalty", parameters, lambda w: (w * w).sum())


def _total(op: str, parameters: Tensor | Iterable[Tensor], size: Callable[[Tensor], Tensor]) -> Tensor:
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if not tensors:
        raise fail(op, "got no parameters; a generator such as model.parameters() can be used up only once")
    for tensor in tensors:
        check_tensors(op, parameter=tensor)
    first, *rest = (size(tensor) for tensor in tensors)
    return sum(rest, first)
