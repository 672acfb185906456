"""Rows for `minicnn/functions/normalization.py`; running statistics are in test_functional.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from op_table import Inputs, OpCase, join, normal, uniform

from minicnn.nn import functional as F

Shape = tuple[int, ...]


def row(
    op: str,
    name: str,
    inputs: Inputs,
    arrange: Callable[..., tuple] = lambda x, weight=None, bias=None: (x, weight, bias),
    edges: dict[str, Inputs] | None = None,
    **options: Any,
) -> OpCase:
    """`arrange` puts the tensors of a row into the order in which the op takes them."""
    return OpCase(
        f"{op} {name}",
        lambda *tensors, **kw: getattr(F, op)(*arrange(*tensors), **kw),
        inputs,
        options,
        torch=lambda torch: lambda *tensors, **kw: getattr(torch.nn.functional, op)(*arrange(*tensors), **kw),
        edges=edges or {},
    )


def batch(name: str, *shapes: Shape, edges: dict[str, Inputs] | None = None, **options: Any) -> OpCase:
    """Batch norm in training, without running statistics."""
    arrange = lambda x, weight=None, bias=None: (x, None, None, weight, bias)  # noqa: E731
    return row("batch_norm", name, normal(*shapes), arrange, edges, training=True, **options)


def affine(x: Shape) -> tuple[Shape, Shape, Shape]:
    return x, (x[1],), (x[1],)


def evaluation(name: str, x: Shape, weights: int) -> OpCase:
    """Batch norm with given statistics, which get no gradient."""
    return OpCase(
        f"batch_norm in evaluation {name}",
        F.batch_norm,
        join(normal(x), normal((x[1],)), uniform((x[1],)), normal(*((x[1],),) * weights)),
        torch="nn.functional.batch_norm",
        differentiable=(0, *range(3, 3 + weights)),
    )


def layer(name: str, shape: Shape, dims: int, weights: int, **options: Any) -> OpCase:
    normalized = shape[-dims:]
    return row(
        "layer_norm",
        name,
        normal(shape, *(normalized,) * weights),
        lambda x, weight=None, bias=None: (x, normalized, weight, bias),
        {"empty batch": normal((0, *shape[1:]), *(normalized,) * weights)} if dims < len(shape) else {},
        **options,
    )


def group(name: str, shape: Shape, groups: int, weights: int) -> OpCase:
    return row(
        "group_norm",
        name,
        normal(shape, *((shape[1],),) * weights),
        lambda x, weight=None, bias=None: (x, groups, weight, bias),
    )


def instance(name: str, shape: Shape, weights: int) -> OpCase:
    return row(
        "instance_norm",
        name,
        normal(shape, *((shape[1],),) * weights),
        lambda x, weight=None, bias=None: (x, None, None, weight, bias),
    )


IMAGES = (4, 3, 5, 6)

CASES = [
    batch("of images", *affine(IMAGES), edges={"empty batch": normal(*affine((0, 3, 5, 6)))}),
    batch("of images, without weight", IMAGES),
    batch("of images, odd channels", *affine((3, 17, 4, 3))),
    batch("of vectors", *affine((8, 5))),
    batch("of two vectors", *affine((2, 5)), eps=1.0),
    batch("of sequences", *affine((4, 3, 7)), eps=0.1),
    batch("of one image", *affine((1, 3, 5, 6))),
    evaluation("of images", IMAGES, 2),
    evaluation("of images, without weight", IMAGES, 0),
    evaluation("of vectors", (8, 5), 2),
    evaluation("of one value", (1, 5), 2),
    instance("of images", IMAGES, 0),
    instance("of images, with weight", IMAGES, 2),
    instance("of sequences", (4, 3, 7), 2),
    layer("of vectors", (6, 5), 1, 2),
    layer("of sequences", (2, 6, 5), 1, 2),
    layer("of sequences, with weight alone", (2, 6, 5), 1, 1),
    layer("of images", IMAGES, 3, 2, eps=0.1),
    layer("of images, last two", IMAGES, 2, 0),
    layer("of everything", (3, 4), 2, 2),
    group("of images", (2, 6, 4, 3), 3, 2),
    group("of images, one group", (2, 6, 4, 3), 1, 2),
    group("of vectors", (5, 6), 2, 0),
    OpCase(
        "local_response_norm",
        F.local_response_norm,
        normal((2, 7, 4, 3)),
        {"size": 5},
        torch="nn.functional.local_response_norm",
        edges={"empty batch": normal((0, 7, 4, 3))},
    ),
    OpCase(
        "local_response_norm of sequences, even size",
        F.local_response_norm,
        normal((2, 7, 4)),
        {"size": 4, "alpha": 0.5, "beta": 1.5, "k": 2.0},
        torch="nn.functional.local_response_norm",
    ),
    *(
        OpCase(
            f"normalize p {p} dim {dim}",
            F.normalize,
            uniform((4, 5, 3), low=0.1),
            {"p": p, "dim": dim},
            torch="nn.functional.normalize",
        )
        for p, dim in ((2.0, 1), (1.0, -1), (3.0, 0), (float("inf"), 1))
    ),
]
