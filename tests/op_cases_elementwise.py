"""Rows for arithmetic, comparisons, types and functions of one operand."""

from __future__ import annotations

import numpy as np
from op_table import Inputs, OpCase, booleans, distinct, integers, join, normal, uniform, values

import minicnn

INF, NAN = float("inf"), float("nan")
SPECIAL = values([0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 3.5, INF, -INF, NAN, 1e-30, 3e8])
WITHOUT_NAN = values([0.0, -0.0, 1.0, -1.0, 2.5, INF, -INF, 1e-30])


def sizes(inputs=normal) -> dict[str, Inputs]:
    """The sizes at which loops go wrong."""
    return {"one element": inputs((1,)), "empty": inputs((0, 3)), "no dimensions": inputs(())}


def binary(name: str, inputs=normal, **options) -> list[OpCase]:
    """An operator of two tensors: equal shapes, broadcast both ways, and with 0-d and empty tensors."""
    op = getattr(minicnn, name)
    return [
        OpCase(
            name,
            op,
            inputs((3, 4), (3, 4)),
            torch=name,
            edges={
                "one element": inputs((1,), (1,)),
                "empty": inputs((0, 3), (0, 3)),
                "empty broadcast": inputs((0, 3), (1,)),
                "no dimensions": inputs((), ()),
                "images and channels": inputs((2, 5, 3, 4), (5, 1, 1)),
                "long rows": inputs((3, 1025), (1025,)),
            },
            **options,
        ),
        OpCase(f"{name} broadcast both ways", op, inputs((2, 3, 1), (4,)), torch=name, **options),
        OpCase(f"{name} with a 0-d tensor", op, inputs((3, 4), ()), torch=name, **options),
    ]


def unary(name: str, inputs: Inputs, **options) -> OpCase:
    """A function of one tensor, at its sizes and special values."""
    edges = {**sizes(), "special values": SPECIAL, **options.pop("edges", {})}
    return OpCase(name, getattr(minicnn, name), inputs, torch=name, edges=edges, **options)


def expression(name: str, op, inputs: Inputs | None = None, **options) -> OpCase:
    """Operators as one writes them, the same for both engines; on normal numbers by default."""
    return OpCase(name, op, inputs or normal((3, 4)), torch=lambda module: op, **options)


def comparison(name: str) -> list[OpCase]:
    op = getattr(minicnn, name)
    specials = join(SPECIAL, lambda rng: (np.roll(SPECIAL(rng)[0], 1),))
    return [
        OpCase(
            name,
            op,
            values([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [[1.0, 3.0, 2.0], [4.0, 4.0, 7.0]]),
            torch=name,
            edges={
                "special values": specials,
                "equal special values": join(SPECIAL, SPECIAL),
                "broadcast": join(integers((3, 1)), integers((4,))),
                "whole against float": join(integers((5,)), normal((5,))),
                "empty": normal((0, 2), (2,)),
            },
        ),
    ]


TIES = values([1.0, 2.0, 3.0, -1.0], [1.0, 3.0, 2.0, -1.0])
UNTYPED = {
    "whole and float": join(integers((3, 4)), normal((3, 4))),
    "whole numbers": integers((3, 4), (4,), low=1),
    "boolean and float": join(booleans((4,)), normal((4,))),
}

CASES = [
    *binary("add"),
    *binary("sub"),
    *binary("mul"),
    *binary("div", uniform),
    *binary("maximum", distinct),
    *binary("minimum", distinct),
    *binary("pow", uniform),
    *binary("atan2", uniform),
    OpCase("add alpha", minicnn.add, normal((3, 4), (4,)), {"alpha": 2.5}, torch="add"),
    OpCase("sub alpha", minicnn.sub, normal((3, 4), (4,)), {"alpha": -2}, torch="sub"),
    OpCase("add types", minicnn.add, normal((3,), (3,)), torch="add", edges=UNTYPED),
    OpCase("sub types", minicnn.sub, normal((3,), (3,)), torch="sub", edges={"whole": integers((3,), (3,))}),
    OpCase("mul types", minicnn.mul, normal((3,), (3,)), torch="mul", edges=UNTYPED),
    OpCase("div types", minicnn.div, uniform((3,), (3,)), torch="div", edges=UNTYPED),
    OpCase(
        "div special values",
        minicnn.div,
        uniform((3,), (3,)),
        torch="div",
        edges={"zeros": values([1.0, -1.0, 0.0, 2.0], [0.0, 0.0, 0.0, INF])},
    ),
    *(
        OpCase(
            f"div rounding {mode}",
            minicnn.div,
            values([7.3, -7.3, 7.3, -7.3], [2.0, 2.0, -2.0, -2.0]),
            {"rounding_mode": mode},
            torch="div",
            edges={"whole": values([7, -7, 7, -7], [2, 2, -2, -2])},
        )
        for mode in ("trunc", "floor")
    ),
    OpCase(
        "floor_divide",
        minicnn.floor_divide,
        values([7.3, -7.3, 7.3, -7.3], [2.0, 2.0, -2.0, -2.0]),
        torch="floor_divide",
        differentiable=(),
        edges={"whole": values([7, -7, 7, -7], [2, 2, -2, -2])},
    ),
    OpCase(
        "remainder",
        minicnn.remainder,
        values([7.3, -7.3, 7.3, -7.3], [2.0, 2.0, -2.0, -2.0]),
        torch="remainder",
        edges={"whole": values([7, -7, 7, -7], [2, 2, -2, -2])},
    ),
    OpCase("maximum ties", minicnn.maximum, distinct((4,), (4,)), torch="maximum", edges={"ties": TIES}),
    OpCase("minimum ties", minicnn.minimum, distinct((4,), (4,)), torch="minimum", edges={"ties": TIES}),
    OpCase(
        "maximum NaN",
        minicnn.maximum,
        distinct((4,), (4,)),
        torch="maximum",
        edges={"NaN": values([NAN, 1.0, INF], [1.0, NAN, -INF])},
    ),
    OpCase(
        "pow at zero",
        minicnn.pow,
        uniform((4,), (4,)),
        torch="pow",
        edges={"zeros": values([0.0, 0.0, 0.0, 2.0], [0.0, 1.0, 2.0, 0.0])},
    ),
    *(
        expression(
            f"tensor ** {p}",
            lambda x, p=p: x**p,
            uniform((3, 4)),
            edges={"at zero": values([0.0, 1.0, 2.0]), **sizes(uniform)},
        )
        for p in (2, 3, 0.5, 1, 0, -1, -1.5, 2.0)
    ),
    expression("2 ** tensor", lambda x: 2**x),
    expression("0 ** tensor", lambda x: 0**x, uniform((4,)), edges={"at zero": values([0.0, 1.0])}),
    expression("tensor + 2", lambda x: x + 2, edges={"whole": integers((3,)), **sizes()}),
    expression("2.5 + tensor", lambda x: 2.5 + x, edges={"whole": integers((3,))}),
    expression("tensor - 2", lambda x: x - 2),
    expression("2 - tensor", lambda x: 2 - x, edges={"whole": integers((3,))}),
    expression("tensor * 0.1", lambda x: x * 0.1, edges={"whole": integers((3,))}),
    expression("3 * tensor", lambda x: 3 * x, edges={"whole": integers((3,)), "boolean": booleans((3,))}),
    expression("tensor / 3", lambda x: x / 3, edges={"whole": integers((3,)), "boolean": booleans((3,))}),
    expression("3 / tensor", lambda x: 3 / x, uniform((3, 4)), edges={"whole": integers((3,), low=1)}),
    expression("tensor // 2", lambda x: x // 2, differentiable=(), edges={"whole": integers((9,))}),
    expression(
        "5 // tensor",
        lambda x: 5 // x,
        uniform((3, 4)),
        differentiable=(),
        edges={"whole": integers((3,), low=1)},
    ),
    expression("tensor % 2", lambda x: x % 2, edges={"whole": integers((9,))}),
    expression(
        "5 % tensor",
        lambda x: 5 % x,
        uniform((3, 4)),
        differentiable=(),
        edges={"whole": integers((3,), low=1)},
    ),
    expression("-tensor", lambda x: -x, edges={"whole": integers((3,))}),
    expression("abs(tensor)", lambda x: abs(x), distinct((3, 4)), edges={"whole": integers((3,))}),
    expression("a diamond", lambda x: (x * x + x) * x),
    expression("tensor > 0.5", lambda x: x > 0.5, edges={"whole": integers((9,)), **sizes()}),
    expression("0 <= tensor", lambda x: 0 <= x, edges={"whole": integers((9,))}),  # noqa: SIM300
    expression("tensor == 1", lambda x: x == 1, edges={"whole": integers((9,))}),
    expression("tensor != 1", lambda x: x != 1, edges={"whole": integers((9,))}),
    expression("masks", lambda x, y: ((x > 0) & (y > 0)) | ~(x < y) ^ (x == y), normal((9,), (9,))),
    unary("neg", normal((3, 4))),
    # PyTorch takes the sign of NaN for 0; here NaN stays NaN.
    unary("abs", distinct((3, 4)), edges={"special values": WITHOUT_NAN}),
    unary("sign", distinct((3, 4)), edges={"special values": WITHOUT_NAN, "whole": integers((9,))}),
    unary("square", normal((3, 4)), edges={"whole": integers((9,))}),
    unary("exp", normal((3, 4)), edges={"whole": integers((9,)), "long": normal((3, 1025))}),
    unary("expm1", normal((3, 4)), edges={"small": uniform((9,), low=-1e-6, high=1e-6)}),
    unary("log", uniform((3, 4)), edges={"whole": integers((9,))}),
    unary("log1p", uniform((3, 4)), edges={"small": uniform((9,), low=-1e-6, high=1e-6)}),
    unary("log2", uniform((3, 4))),
    unary("sqrt", uniform((3, 4)), edges={"whole": integers((9,))}),
    unary("rsqrt", uniform((3, 4))),
    unary("reciprocal", uniform((3, 4)), edges={"whole": integers((9,), low=1)}),
    unary("sin", normal((3, 4))),
    unary("cos", normal((3, 4))),
    unary("tan", uniform((3, 4), low=-1, high=1)),
    unary("erf", normal((3, 4))),
    unary("floor", distinct((3, 4))),
    unary("ceil", distinct((3, 4))),
    unary("trunc", distinct((3, 4))),
    unary("round", distinct((3, 4)), edges={"halves": values([0.5, 1.5, 2.5, -0.5, -1.5])}),
    OpCase("round decimals", minicnn.round, values([1.2345, -1.2355]), {"decimals": 2}, torch="round"),
    *(
        OpCase(
            f"clamp {options}",
            minicnn.clamp,
            distinct((3, 4)),
            options,
            torch="clamp",
            edges={
                "at the bounds": values([-0.06, 0.06, 0.0, 0.1]),
                "special values": SPECIAL,
                "whole": integers((9,)),
                **sizes(),
            },
        )
        for options in ({"min": -0.06, "max": 0.06}, {"min": 0.06}, {"max": -0.06}, {"min": 1, "max": 0})
    ),
    OpCase(
        "clamp between tensors",
        lambda x, low, high: minicnn.clamp(x, low, high),
        distinct((3, 4), (3, 4), (4,)),
        torch="clamp",
    ),
    *comparison("eq"),
    *comparison("ne"),
    *comparison("lt"),
    *comparison("le"),
    *comparison("gt"),
    *comparison("ge"),
    *(
        OpCase(
            name,
            getattr(minicnn, name),
            booleans((3, 4), (4,)),
            torch=name,
            edges={"numbers": join(integers((3, 4), low=-1, high=2), normal((4,)))},
        )
        for name in ("logical_and", "logical_or", "logical_xor")
    ),
    OpCase(
        "logical_not", minicnn.logical_not, booleans((5,)), torch="logical_not", edges={"numbers": SPECIAL}
    ),
    *(
        OpCase(name, getattr(minicnn, name), SPECIAL, torch=name, differentiable=())
        for name in ("isnan", "isinf", "isfinite")
    ),
    OpCase(
        "isclose",
        minicnn.isclose,
        values([1.0, 1.0, 0.0, INF, INF, NAN], [1.0, 1.001, 1e-9, INF, -INF, NAN]),
        torch="isclose",
        differentiable=(),
        edges={"numbers": normal((5,), (5,))},
    ),
    OpCase(
        "isclose equal_nan",
        minicnn.isclose,
        values([1.0, NAN], [2.0, NAN]),
        {"equal_nan": True, "rtol": 0.1},
        torch="isclose",
        differentiable=(),
    ),
    OpCase(
        "where",
        minicnn.where,
        join(booleans((3, 4)), normal((3, 4), (3, 4))),
        torch="where",
        edges={
            "broadcast": join(booleans((3, 1)), normal((4,), (2, 1, 1))),
            "empty": join(booleans((0,)), normal((0,), (1,))),
            "types": join(booleans((3,)), integers((3,)), normal((3,))),
        },
    ),
    OpCase(
        "where with a number",
        lambda c, x: minicnn.where(c, x, 0.0),
        join(booleans((3, 4)), normal((3, 4))),
        torch=lambda torch: lambda c, x: torch.where(c, x, 0.0),
    ),
    OpCase(
        "masked_fill",
        lambda x, mask: x.masked_fill(mask, -5.0),
        join(normal((3, 4)), booleans((4,))),
        torch=lambda torch: lambda x, mask: x.masked_fill(mask, -5.0),
    ),
    *(
        OpCase(
            f"to {name}",
            lambda x, name=name: x.to(getattr(minicnn, name)),
            lambda rng: (rng.uniform(0, 100, (3, 4)),),
            torch=lambda torch, name=name: lambda x: x.to(getattr(torch, name)),
            edges={"whole": integers((5,), low=0), "boolean": booleans((5,))},
            differentiable=None if name == "float64" else (),
        )
        for name in ("float64", "int64", "int32", "int8", "uint8")
    ),
    OpCase(
        "casts by method",
        lambda x: [x.bool(), x.long(), x.int(), x.double(), x.type_as(x)],
        normal((3, 4)),
        torch=lambda torch: lambda x: [x.bool(), x.long(), x.int(), x.double(), x.type_as(x)],
    ),
    OpCase("contiguous", minicnn.contiguous, normal((3, 4)), torch=lambda torch: torch.Tensor.contiguous),
]
