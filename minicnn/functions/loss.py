"""Losses of class scores: cross-entropy, negative log-likelihood, focal, binary cross-entropy, divergence.

Losses of distances and margins, and penalties on weights, are in `distance.py`. `reduction` is 'none' (one
loss per element or row), 'mean' or 'sum' throughout. Cross-entropy with index targets and binary
cross-entropy of probabilities are Functions of their own, for precision; the others are composed.
"""

from __future__ import annotations

import math
from typing import Any

import minicnn_kernels as kernels
from minicnn import scope
from minicnn.function import Function
from minicnn.functions.activation import Softplus, log_softmax, sigmoid
from minicnn.functions.arguments import check_tensors, fail, one_of, same_shape
from minicnn.functions.arithmetic import where
from minicnn.functions.indexing import gather
from minicnn.tensor import Tensor, int64

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "focal_loss",
    "kl_div",
    "nll_loss",
    "sigmoid_focal_loss",
]

REDUCTIONS = ("none", "mean", "sum")


class CrossEntropy(Function):
    """Logits (M, C), target (M,) int64, weight (C,) or None -> (M,), or () for 'mean' and 'sum'.

    'mean' divides by the sum of the targets' weights.
    """

    def forward(
        self,
        logits: Any,
        target: Any,
        weight: Any,
        *,
        ignore_index: int,
        reduction: str,
        label_smoothing: float,
    ) -> Any:
        k = kernels.of(logits)
        self.target, self.weight, self.options = target, weight, (ignore_index, label_smoothing)
        losses, self.log_p = k.cross_entropy_forward(logits, target, weight, ignore_index, label_smoothing)
        self.divisor = None
        if reduction == "none":
            return losses
        total = k.sum(losses, None, False)
        if reduction == "mean":
            self.divisor = target_weight(target, weight, ignore_index, logits.dtype)
            total = k.div(total, self.divisor)
        return total

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k = kernels.of(grad)
        if self.divisor is not None:
            grad = k.div(grad, self.divisor)
        rows = k.broadcast_to(grad, self.target.shape)
        ignore_index, label_smoothing = self.options
        dlogits = k.cross_entropy_backward(
            rows, self.log_p, self.target, self.weight, ignore_index, label_smoothing
        )
        return dlogits, None, None


class BinaryCrossEntropy(Function):
    """-(t log x + (1 - t) log(1 - x)) with logarithms of at least -100, so that a sure mistake is finite."""

    def forward(self, x: Any, target: Any) -> Any:
        self.x, self.target = x, target
        log_x, log_rest = self._logarithms()
        k = kernels.of(x)
        return k.neg(k.add(k.mul(target, log_x), k.mul(k.sub(1, target), log_rest)))

    def backward(self, grad: Any) -> tuple[Any, ...]:
        k, x = kernels.of(grad), self.x
        dx = dtarget = None
        if self.needs_input_grad[0]:
            variance = k.clamp(k.mul(x, k.sub(1, x)), 1e-12, None)
            dx = k.div(k.mul(grad, k.sub(x, self.target)), variance)
        if self.needs_input_grad[1]:
            log_x, log_rest = self._logarithms()
            dtarget = k.mul(grad, k.sub(log_rest, log_x))
        return dx, dtarget

    def _logarithms(self) -> tuple[Any, Any]:
        k = kernels.of(self.x)
        return k.clamp(k.log(self.x), -100, None), k.clamp(k.log1p(k.neg(self.x)), -100, None)


def target_weight(target: Any, weight: Any, ignore_index: int, dtype: Any) -> Any:
    """Sum of the class weights of all targets (arrays) that are not ignored: what 'mean' divides by, 0-d."""
    k = kernels.of(target)
    kept = k.ne(target, ignore_index)
    if weight is None:
        return k.cast(k.sum(kept, None, False), dtype)
    k = kernels.of(weight)
    return k.sum(k.mul(k.cast(kept, dtype), k.getitem(weight, k.where(kept, target, 0))), None, False)


def reduce(op: str, losses: Tensor, reduction: str) -> Tensor:
    """`losses` themselves, their mean or their sum."""
    one_of(op, "reduction", reduction, REDUCTIONS)
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def check_targets(op: str, target: Tensor, classes: int, ignore_index: int, *, values: bool = True) -> Tensor:
    """`target` as int64. values: whether they are looked at.

    Raises TypeError unless it is whole numbers, ValueError for one outside [0, C).
    """
    if not isinstance(target, Tensor) or target.dtype.kind not in "iu":
        got = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise TypeError(
            f"{scope.where(op)}: expected target of class indices (int64), got {got}; convert it with .long()"
        )
    if not values:
        return target if target.dtype == int64 else target.to(int64)
    array = target.data
    k = kernels.of(array)
    outside = k.logical_and(k.logical_or(k.lt(array, 0), k.ge(array, classes)), k.ne(array, ignore_index))
    if kernels.to_host(k.any(outside, None, False)):
        position = int(kernels.to_host(outside).argmax())
        value = int(kernels.to_host(array).reshape(-1)[position])
        raise fail(
            op,
            f"expected targets in [0, {classes}), got {value} at position {position}; "
            f"is the number of outputs right, or is {value} an ignore_index?",
        )
    return target if target.dtype == int64 else target.to(int64)


def _check_scores(op: str, input: Tensor, weight: Tensor | None) -> int:
    """The number of classes of input (C,) or (N, C, ...)."""
    check_tensors(op, input=input, weight=weight)
    if input.ndim == 0:
        raise fail(op, "expected input (N, C), (C,) or (N, C, d1, ...), got a tensor without dimensions")
    classes = input.shape[0 if input.ndim == 1 else 1]
    if weight is not None and weight.shape != (classes,):
        raise fail(op, f"expected weight ({classes},), one per class, got {weight.shape}")
    return classes


def _check_index_shape(op: str, input: Tensor, target: Tensor) -> None:
    expected = () if input.ndim == 1 else (input.shape[0], *input.shape[2:])
    if target.shape != expected:
        raise fail(op, f"expected target of shape {expected} for input {input.shape}, got {target.shape}")


def _rows(input: Tensor) -> Tensor:
    """Scores (C,) or (N, C, d1, ...) as rows (M, C)."""
    if input.ndim == 2:
        return input
    if input.ndim == 1:
        return input.unsqueeze(0)
    classes = input.shape[1]
    return input.permute(0, *range(2, input.ndim), 1).reshape(input.numel() // max(classes, 1), classes)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(input)[target] of every row; precise for scores of any size.

    input: logits (N, C), (C,) or (N, C, d1, ...). target: classes, integers of the same shape without C, or
    probabilities, floats of the shape of input. weight: (C,), a factor per class. ignore_index: targets that
    do not count. 'mean' divides by the sum of the targets' weights (for probabilities by N d1 ...).
    Raises ValueError for shapes that do not fit or targets outside [0, C), TypeError for dtypes. On device
    "cuda", which would have to be waited for, such a target makes the loss NaN.
    """
    op = "cross_entropy"
    classes = _check_scores(op, input, weight)
    one_of(op, "reduction", reduction, REDUCTIONS)
    if not 0 <= label_smoothing <= 1:
        raise fail(op, f"expected label_smoothing in [0, 1], got {label_smoothing}")
    if isinstance(target, Tensor) and target.shape == input.shape and target.dtype.kind == "f":
        return _cross_entropy_of_probabilities(
            input, target, weight, ignore_index, reduction, label_smoothing
        )
    # Where looking would make a device wait, its kernel answers NaN to a target outside [0, C).
    looking = not isinstance(target, Tensor) or target.device == "cpu"
    target = check_targets(op, target, classes, ignore_index, values=looking)
    _check_index_shape(op, input, target)
    losses = CrossEntropy.apply(
        _rows(input),
        target.reshape(-1) if target.ndim != 1 else target,
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )
    return losses.reshape(target.shape) if reduction == "none" and target.ndim != 1 else losses


def _cross_entropy_of_probabilities(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    op = "cross_entropy"
    check_tensors(op, input=input, target=target)
    if ignore_index >= 0:
        raise fail(op, "ignore_index is for targets of class indices, got class probabilities")
    dim = 0 if input.ndim == 1 else 1
    classes = input.shape[dim]
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / classes
    if weight is not None:
        target = target * weight.reshape(-1, *(1,) * max(input.ndim - 2, 0))
    losses = -(log_softmax(input, dim) * target).sum(dim)
    return reduce(op, losses, reduction)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-input[target] of every row of log-probabilities. Shapes, weight and errors as for `cross_entropy`."""
    op = "nll_loss"
    classes = _check_scores(op, input, weight)
    one_of(op, "reduction", reduction, REDUCTIONS)
    target = check_targets(op, target, classes, ignore_index)
    _check_index_shape(op, input, target)
    losses = _nll(_rows(input), target.reshape(-1), weight, ignore_index)
    if reduction == "none":
        return losses.reshape(target.shape)
    total = losses.sum()
    if reduction == "sum":
        return total
    dtype, raw_weight = input.dtype, None if weight is None else weight.data
    return total / Tensor(target_weight(target.data, raw_weight, ignore_index, dtype))


def _nll(log_p: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """-weight[target] log_p[target] for rows (M, C); 0 where the target is ignored."""
    kept = target != ignore_index
    target = where(kept, target, 0)
    picked = gather(log_p, 1, target.unsqueeze(1)).squeeze(1)
    if weight is not None:
        picked = picked * weight[target]
    return where(kept, -picked, 0.0)


def focal_loss(
    input: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-(1 - p)^gamma log p with p = softmax(input)[target]: easy rows count less (Lin et al. 2017, eq. 4).

    Shapes, weight (the paper's alpha), reduction and errors as for `cross_entropy` with class indices.
    """
    op = "focal_loss"
    classes = _check_scores(op, input, weight)
    one_of(op, "reduction", reduction, REDUCTIONS)
    if gamma < 0:
        raise fail(op, f"expected gamma of at least 0, got {gamma}")
    target = check_targets(op, target, classes, ignore_index)
    _check_index_shape(op, input, target)
    rows = target.reshape(-1)
    surprise = _nll(log_softmax(_rows(input), 1), rows, None, ignore_index)  # -log p
    missing = -((-surprise).expm1())  # 1 - p, precise near p = 1
    losses = surprise * missing**gamma if gamma else surprise
    if weight is not None:
        losses = losses * weight[where(rows != ignore_index, rows, 0)]
    if reduction == "none":
        return losses.reshape(target.shape)
    total = losses.sum()
    if reduction == "sum":
        return total
    raw_weight = None if weight is None else weight.data
    return total / Tensor(target_weight(target.data, raw_weight, ignore_index, input.dtype))


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    """Focal loss of independent yes-no logits (Lin et al. 2017), torchvision's arguments and defaults.

    inputs, targets (0 to 1): one shape. alpha: weight of the positives, 1 - alpha of the others; -1 for none.
    """
    op = "sigmoid_focal_loss"
    check_tensors(op, inputs=inputs, targets=targets)
    same_shape(op, inputs=inputs, targets=targets)
    if alpha != -1 and not 0 <= alpha <= 1:
        raise fail(op, f"expected alpha in [0, 1], or -1 for no weighting, got {alpha}")
    p = sigmoid(inputs)
    losses = binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    missing = p * (1 - targets) + (1 - p) * targets
    losses = losses * missing**gamma
    if alpha >= 0:
        losses = losses * (targets * alpha + (1 - targets) * (1 - alpha))
    return reduce(op, losses, reduction)


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """-(t log x + (1 - t) log(1 - x)) of probabilities x. input, target: one shape; weight broadcasts to it.

    Raises ValueError for an input outside [0, 1]: logits go to `binary_cross_entropy_with_logits`.
    """
    op = "binary_cross_entropy"
    check_tensors(op, input=input, target=target, weight=weight)
    same_shape(op, input=input, target=target)
    k = kernels.of(input.data)
    outside = k.logical_or(k.lt(input.data, 0), k.gt(input.data, 1))
    if kernels.to_host(k.any(outside, None, False)):
        raise fail(op, "expected probabilities in [0, 1]; logits go to binary_cross_entropy_with_logits")
    losses = BinaryCrossEntropy.apply(input, target)
    return reduce(op, losses if weight is None else losses * weight, reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of sigmoid(input), precise for logits of any size.

    input, target: one shape. weight, pos_weight (a factor for t = 1): broadcast to it.
    """
    op = "binary_cross_entropy_with_logits"
    check_tensors(op, input=input, target=target, weight=weight, pos_weight=pos_weight)
    same_shape(op, input=input, target=target)
    miss = Softplus.apply(-input, beta=1.0, threshold=math.inf)  # -log sigmoid(input)
    if pos_weight is not None:
        miss = miss * ((pos_weight - 1) * target + 1)
    losses = (1 - target) * input + miss
    return reduce(op, losses if weight is None else losses * weight, reduction)


def kl_div(input: Tensor, target: Tensor, *, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """target (log target - input): the divergence of the distribution exp(input) from target.

    input: log-probabilities. target: probabilities, or with log_target their logarithms. reduction: also
    'batchmean', the sum divided by N, which is the divergence's definition; 'mean' divides by all elements.
    """
    op = "kl_div"
    check_tensors(op, input=input, target=target)
    same_shape(op, input=input, target=target)
    one_of(op, "reduction", reduction, (*REDUCTIONS, "batchmean"))
    if log_target:
        losses = target.exp() * (target - input)
    else:
        # 0 log 0 is 0: the logarithm of 1 stands in for that of 0.
        losses = target * where(target == 0, 1.0, target).log() - target * input
    if reduction == "batchmean":
        return losses.sum() / max(input.shape[0] if input.ndim else 1, 1)
    return reduce(op, losses, reduction)
