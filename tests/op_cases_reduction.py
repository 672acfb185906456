"""Rows for reductions, scans and order."""

from __future__ import annotations

import math
from typing import Any

from op_table import Inputs, OpCase, booleans, distinct, integers, normal, uniform, values

import minicnn

INF, NAN = math.inf, math.nan
TIES = values([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
NANS = values([[1.0, NAN, 3.0], [2.0, 2.0, INF]])


def text(options: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in options.items())


def reduction(name: str, inputs=normal, dims: Any = None, torch: Any = None, **options) -> list[OpCase]:
    """A reduction over every kind of `dim`, with and without keepdim."""
    edges = options.pop("edges", {})
    usual = (
        {},
        {"dim": 0},
        {"dim": -1, "keepdim": True},
        {"dim": (0, 2)},
        {"dim": (1, 2), "keepdim": True},
        {"dim": (0, 1, 2)},
    )
    rows = [
        OpCase(
            f"{name} {text(given)}".strip(),
            getattr(minicnn, name),
            inputs((3, 4, 5)),
            given,
            torch=torch or name,
            edges={
                "size 1": inputs((1, 1, 1)),
                "long rows": inputs((2, 3, 1030)),
                "long columns": inputs((1030, 2, 3)),
                **(edges if not given else {}),
            },
            **options,
        )
        for given in (usual if dims is None else [{"dim": dim} for dim in dims])
    ]
    image = OpCase(
        f"{name} over images",
        getattr(minicnn, name),
        inputs((2, 3, 4, 5)),
        {"dim": (0, 2, 3)} if dims is None else {"dim": 1},
        torch=torch or name,
        **options,
    )
    return [*rows, image]


def of_torch_prod(torch: Any) -> Any:
    """PyTorch's prod takes one dimension at most."""

    def prod(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        dims = (
            range(x.ndim)
            if dim is None
            else sorted(d % x.ndim for d in ((dim,) if isinstance(dim, int) else dim))
        )
        for d in reversed(dims):
            x = x.prod(d, keepdim=keepdim)
        return x

    return prod


def method(name: str, **options: Any) -> Any:
    """The method of both engines' tensors, results as a plain list."""
    return lambda x: getattr(x, name)(**options)


def both(name: str, inputs: Inputs, edges: dict[str, Inputs] | None = None, **options: Any) -> OpCase:
    call = method(name, **options)
    return OpCase(
        f"{name} {text(options)}".strip(), call, inputs, torch=lambda torch: call, edges=edges or {}
    )


EMPTY = {"no rows": normal((0, 4, 5)), "nothing": normal((3, 0, 5))}
NORMS = (2, 1, 3, 1.5, INF, -INF, 0)

CASES = [
    *reduction(
        "sum", edges={**EMPTY, "whole": integers((3, 4)), "truths": booleans((7,)), "number": normal(())}
    ),
    *reduction("mean", edges={"number": normal(()), "nothing": normal((0,))}),
    *reduction("prod", uniform, torch=of_torch_prod),
    *reduction("amax", distinct, edges={"ties": TIES, "NaN": values([1.0, NAN]), "whole": integers((3, 4))}),
    *reduction("amin", distinct, edges={"ties": TIES, "whole": integers((3, 4))}),
    *reduction("logsumexp", dims=(0, (1, 2), -1)),
    *reduction("var", edges={"constant": values([[2.0, 2.0], [2.0, 2.0]])}),
    *reduction("std"),
    *reduction("norm", torch="linalg.vector_norm"),
    *reduction("any", edges={"nothing": normal((0,)), "truths": booleans((5,))}),
    *reduction("all", edges={"nothing": normal((0,)), "truths": booleans((5,))}),
    *reduction("count_nonzero", dims=(0, (1, 2), -1)),
    both("sum", normal((2, 3)), dim=[0, 1]),
    both("sum", normal((0, 3)), {"nothing": normal((4, 0))}, dim=(0,)),
    both("mean", normal((2, 3, 4, 5)), dim=(2, 3), keepdim=True),
    OpCase(
        "prod with zeros",
        minicnn.prod,
        values([[1.5, 2.0, -3.0], [0.5, 4.0, 1.0], [2.0, 2.0, 3.0]]),
        {"dim": 1},
        torch="prod",
        edges={
            "one zero and two": values([[1.5, 0.0, -3.0], [0.0, 4.0, 0.0], [2.0, 2.0, 3.0]]),
            "whole": integers((3, 4)),
            "empty": normal((3, 0)),
        },
    ),
    OpCase("prod of all with a zero", minicnn.prod, values([1.5, 0.0, -3.0]), torch="prod"),
    OpCase(
        "logsumexp far out",
        minicnn.logsumexp,
        normal((3, 4)),
        {"dim": 1},
        torch="logsumexp",
        edges={
            "large": values([[1000.0, 1000.0], [-1000.0, -1001.0]]),
            "infinite": values([[-INF, -INF], [INF, 1.0], [-INF, 0.0]]),
            "no columns": normal((3, 0)),
            "no rows": normal((0, 4)),
        },
    ),
    *(
        both(name, normal((4, 5)), {"constant": values([[2.0, 2.0], [2.0, 2.0]])}, **options)
        for name in ("var", "std")
        for options in (
            {"unbiased": False},
            {"dim": 0, "unbiased": True, "keepdim": True},
            {"dim": 1, "correction": 0},
            {"dim": 1, "correction": 2},
        )
    ),
    OpCase(
        "var of one element",
        method("var"),
        normal((2,)),
        torch=lambda torch: method("var"),
        edges={"one": values([3.0])},
    ),
    OpCase("var_mean", minicnn.var_mean, normal((3, 4)), {"dim": 1}, torch="var_mean"),
    OpCase("std_mean", minicnn.std_mean, normal((3, 4)), {"dim": 0, "correction": 0}, torch="std_mean"),
    *(
        OpCase(
            f"norm p={p} dim={dim}",
            minicnn.norm,
            distinct((3, 4)),
            {"p": p, "dim": dim},
            torch="norm",
            edges={"zero": values([[0.0, 0.0], [0.0, 2.0]]), "ties": values([[1.0, -1.0], [2.0, 2.0]])},
        )
        for p in NORMS
        for dim in (None, 1)
    ),
    *(
        OpCase(
            f"cumsum dim={dim}",
            minicnn.cumsum,
            normal((3, 4, 5)),
            {"dim": dim},
            torch="cumsum",
            edges={
                **EMPTY,
                "whole": integers((3, 4, 5)),
                "truths": booleans((3, 4, 5)),
                "size 1": normal((1, 1, 1)),
            },
        )
        for dim in (0, 1, -1)
    ),
    OpCase("cumsum of a number", minicnn.cumsum, normal(()), {"dim": 0}, torch="cumsum"),
    *(
        both(
            name,
            distinct((3, 4, 5)),
            {"ties": values([[[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]]), **edges},
            **options,
        )
        for name in ("max", "min")
        for options in ({"dim": 0}, {"dim": -1, "keepdim": True}, {"dim": 1})
        for edges in ({"NaN": values([[[1.0, NAN, 3.0], [NAN, NAN, 0.0]]]), "whole": integers((3, 4, 5))},)
    ),
    *(
        both(
            name,
            distinct((3, 4)),
            {"ties": TIES, "whole": integers((5,)), "one": normal((1,)), "number": normal(())},
        )
        for name in ("max", "min")
    ),
    OpCase(
        "max and min of NaN",
        lambda x: [x.max(), x.min()],
        NANS,
        differentiable=(),
        torch=lambda torch: lambda x: [x.max(), x.min()],
    ),
    *(
        OpCase(f"{name} of two", getattr(minicnn, name), distinct((3, 4), (4,)), torch=name)
        for name in ("max", "min")
    ),
    *(
        both(name, distinct((3, 4, 5)), {"ties": values([[[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]])}, **options)
        for name in ("argmax", "argmin")
        for options in ({}, {"dim": 0}, {"dim": -1, "keepdim": True})
    ),
    *(
        both(
            "sort",
            distinct((3, 4)),
            {
                "ties": TIES,
                "NaN": NANS,
                "whole": integers((3, 4)),
                "one": normal((1, 1)),
                "none": normal((0, 3)),
            },
            stable=True,
            **options,
        )
        for options in ({}, {"dim": 0}, {"dim": 1, "descending": True})
    ),
    both("argsort", distinct((3, 4)), {"ties": TIES}, dim=1, stable=True),
    *(
        both("topk", distinct((3, 4)), {"whole": values([[4, 3, 2, 1], [1, 2, 3, 4]])}, **options)
        for options in (
            {"k": 2},
            {"k": 2, "largest": False},
            {"k": 1, "dim": 0},
            {"k": 0},
        )
    ),
]
