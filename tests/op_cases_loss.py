"""Rows for `minicnn/functions/loss.py` and `distance.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from op_table import Inputs, OpCase, distinct, integers, join, normal, uniform, values

from minicnn.nn import functional as F

Shape = tuple[int, ...]
REDUCTIONS = ("none", "mean", "sum")


def case(
    op: str,
    name: str,
    inputs: Inputs,
    edges: dict[str, Inputs] | None = None,
    differentiable: tuple[int, ...] | None = None,
    **options: Any,
) -> OpCase:
    return OpCase(
        f"{op} {name}",
        getattr(F, op),
        inputs,
        options,
        torch=f"nn.functional.{op}",
        edges=edges or {},
        differentiable=differentiable,
    )


def signs(*shape: int) -> Inputs:
    return lambda rng: (rng.choice([-1, 1], shape),)


def distributions(*shape: int) -> Inputs:
    """Probabilities along dimension 1."""
    return lambda rng: (np.moveaxis(rng.dirichlet(np.ones(shape[1]), (shape[0], *shape[2:])), -1, 1),)


def classified(shape: Shape, classes: int, weighted: bool = False) -> Inputs:
    """Scores, class numbers and perhaps weights of classes."""
    targets = integers(shape[:1] + shape[2:] if len(shape) > 1 else (), low=0, high=classes)
    weight = [uniform((classes,))] if weighted else []
    return join(normal(shape), targets, *weight)


FAR = values([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, -1e4]], [1, 1, 0])
IGNORED = values([[0.3, -0.2, 1.0], [0.1, 2.0, -1.0], [-1.0, 0.4, 0.6]], [2, -100, 1])
ALL_IGNORED = values([[0.3, -0.2, 1.0], [0.1, 2.0, -1.0]], [-100, -100])
LOSSES_OF_CLASSES = [
    row
    for op in ("cross_entropy", "nll_loss")
    for reduction in REDUCTIONS
    for row in (
        case(
            op,
            reduction,
            classified((6, 5), 5),
            {
                "empty": classified((0, 5), 5),
                "far apart": FAR,
                "ignored": IGNORED,
                **({"all ignored": ALL_IGNORED} if reduction != "mean" else {}),
            },
            reduction=reduction,
        ),
        case(
            op,
            f"{reduction} weighted",
            classified((6, 5), 5, weighted=True),
            differentiable=(0,),
            reduction=reduction,
        ),
        case(
            op,
            f"{reduction} of images",
            classified((2, 5, 3, 4), 5, weighted=True),
            differentiable=(0,),
            reduction=reduction,
        ),
        case(op, f"{reduction} of one row", classified((5,), 5), reduction=reduction),
        case(
            op,
            f"{reduction} ignoring a class",
            classified((9, 3), 3, weighted=True),
            differentiable=(0,),
            reduction=reduction,
            ignore_index=1,
        ),
    )
]

CASES = [
    *LOSSES_OF_CLASSES,
    *(
        row
        for reduction in REDUCTIONS
        for row in (
            case(
                "cross_entropy",
                f"{reduction} smoothed",
                classified((6, 5), 5),
                {"ignored": IGNORED},
                reduction=reduction,
                label_smoothing=0.1,
            ),
            case(
                "cross_entropy",
                f"{reduction} smoothed and weighted",
                classified((2, 5, 3), 5, weighted=True),
                differentiable=(0,),
                reduction=reduction,
                label_smoothing=0.3,
            ),
            case(
                "cross_entropy",
                f"{reduction} of probabilities",
                join(normal((6, 5)), distributions(6, 5), uniform((5,))),
                differentiable=(0, 1),
                reduction=reduction,
                label_smoothing=0.2,
            ),
            case(
                "cross_entropy",
                f"{reduction} of probabilities of images",
                join(normal((2, 5, 3, 4)), distributions(2, 5, 3, 4), uniform((5,))),
                differentiable=(0, 1),
                reduction=reduction,
            ),
        )
    ),
    case("cross_entropy", "of probabilities of one row", join(normal((5,)), uniform((5,)))),
    *(
        row
        for reduction in REDUCTIONS
        for row in (
            case(
                "mse_loss",
                reduction,
                normal((3, 4), (3, 4)),
                {"no rows": normal((0, 4), (0, 4))},
                reduction=reduction,
            ),
            case("l1_loss", reduction, distinct((3, 4), (3, 4)), reduction=reduction),
            case("huber_loss", reduction, normal((3, 4), (3, 4)), reduction=reduction, delta=0.7),
            case("smooth_l1_loss", reduction, normal((3, 4), (3, 4)), reduction=reduction, beta=0.7),
            case(
                "binary_cross_entropy",
                reduction,
                join(uniform((3, 4), (3, 4), low=0.05, high=0.95)),
                reduction=reduction,
            ),
            case(
                "binary_cross_entropy_with_logits",
                reduction,
                join(normal((3, 4)), uniform((3, 4), low=0.0, high=1.0)),
                {"far out": values([-1e4, 1e4, -1e4, 1e4, 30.0], [0.0, 1.0, 1.0, 0.0, 1.0])},
                reduction=reduction,
            ),
            case(
                "kl_div",
                reduction,
                join(normal((3, 4)), uniform((3, 4))),
                reduction=reduction,
            ),
            case(
                "cosine_embedding_loss",
                reduction,
                join(normal((6, 4), (6, 4)), signs(6)),
                reduction=reduction,
            ),
            case("triplet_margin_loss", reduction, normal((6, 4), (6, 4), (6, 4)), reduction=reduction),
            case("hinge_embedding_loss", reduction, join(distinct((3, 4)), signs(3, 4)), reduction=reduction),
            case(
                "margin_ranking_loss",
                reduction,
                join(normal((6,), (6,)), signs(6)),
                reduction=reduction,
                margin=0.3,
            ),
        )
    ),
    case("smooth_l1_loss", "beta 0", distinct((3, 4), (3, 4)), beta=0.0),
    OpCase(
        "binary_cross_entropy weighted",
        F.binary_cross_entropy,
        uniform((3, 4), (3, 4), (4,), low=0.05, high=0.95),
        torch="nn.functional.binary_cross_entropy",
        differentiable=(0, 1),
    ),
    OpCase(
        "binary_cross_entropy_with_logits, both weights",
        lambda x, t, w, p: F.binary_cross_entropy_with_logits(x, t, w, pos_weight=p),
        join(normal((3, 4)), uniform((3, 4), (3, 1), (4,))),
        torch=lambda torch: (
            lambda x, t, w, p: torch.nn.functional.binary_cross_entropy_with_logits(x, t, w, pos_weight=p)
        ),
        differentiable=(0, 1),
    ),
    case(
        "kl_div",
        "of certain targets",
        join(normal((2, 2)), values([[1.0, 0.0], [0.0, 1.0]])),
        differentiable=(0,),
    ),
    case("kl_div", "batchmean", join(normal((3, 4)), uniform((3, 4))), reduction="batchmean"),
    case("kl_div", "of logarithms", normal((3, 4), (3, 4)), log_target=True),
    case("cosine_embedding_loss", "of one pair", join(normal((4,), (4,)), signs()), margin=0.2),
    case("triplet_margin_loss", "swapped, p 1", normal((6, 4), (6, 4), (6, 4)), swap=True, p=1, margin=0.4),
    case("cosine_similarity", "dim 1", normal((4, 5), (4, 5))),
    case("cosine_similarity", "broadcast", normal((4, 5, 3), (5, 1)), dim=-2),
    case("pairwise_distance", "p 2", normal((4, 5), (4, 5))),
    case("pairwise_distance", "p 3, dimension kept", normal((4, 5), (4, 5)), p=3.0, keepdim=True),
    *(
        OpCase(
            f"focal_loss {reduction}",
            F.focal_loss,
            classified((6, 5), 5),
            {"reduction": reduction, "gamma": 1.5},
            edges={"far apart": FAR, "ignored": IGNORED},
        )
        for reduction in REDUCTIONS
    ),
    OpCase(
        "focal_loss weighted, of images",
        lambda x, t, w: F.focal_loss(x, t, weight=w),
        classified((2, 5, 3), 5, weighted=True),
        differentiable=(0,),
    ),
    OpCase(
        "focal_loss gamma 0",
        F.focal_loss,
        classified((6, 5), 5),
        {"gamma": 0.0},
        torch="nn.functional.cross_entropy",
        torch_options={},
    ),
    *(
        OpCase(
            f"sigmoid_focal_loss {options}",
            F.sigmoid_focal_loss,
            join(normal((3, 4)), uniform((3, 4), low=0.0, high=1.0)),
            options,
        )
        for options in ({}, {"alpha": -1, "gamma": 1.5, "reduction": "mean"})
    ),
    OpCase(
        "l1_penalty",
        lambda a, b: F.l1_penalty([a, b], 0.3),
        distinct((3, 4), (5,)),
        torch=lambda torch: lambda a, b: 0.3 * (a.abs().sum() + b.abs().sum()),
    ),
    OpCase(
        "l2_penalty",
        lambda a, b: F.l2_penalty([a, b], 0.3),
        normal((3, 4), (5,)),
        torch=lambda torch: lambda a, b: 0.3 * ((a**2).sum() + (b**2).sum()),
    ),
]
