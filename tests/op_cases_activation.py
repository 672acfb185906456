"""Rows for `minicnn/functions/activation.py`."""

from __future__ import annotations

from op_table import OpCase, distinct, normal, uniform, values

from minicnn.nn import functional as F

NAN, INF = float("nan"), float("inf")
EDGES = {
    "empty": normal((0, 3)),
    "no dimensions": normal(()),
    "far out": values([-1e4, -90.0, -20.0, 0.0, 20.0, 90.0, 1e4]),
    "NaN": values([NAN, 1.0, -1.0]),
}
KINK = {**EDGES, "at the kinks": values([-3.0, -1.0, -0.0, 0.0, 1.0, 3.0, 6.0])}


def activation(name: str, edges: dict = EDGES, **options: object) -> OpCase:
    label = f"{name} {options}" if options else name
    inputs = distinct((4, 3, 5, 7)) if edges is KINK else normal((4, 3, 5, 7))
    return OpCase(label, getattr(F, name), inputs, options, torch=f"nn.functional.{name}", edges=edges)


def along(name: str, dim: int) -> OpCase:
    edges = {
        "no rows": normal((0, 3, 2)),
        "one element": normal((1, 1, 1)),
        "no dimensions": normal(()) if dim in (0, -1) else normal((1, 1)),
        "far apart": values([[[1e4, -1e4], [0.0, 1e4]], [[-1e4, -1e4], [1e4, 1e4]]]),
        "ruled out": values([[[-INF, 1.0], [2.0, -INF]], [[0.5, -INF], [-1.0, 3.0]]]),
        "NaN": values([[[NAN, 1.0], [2.0, 3.0]]]),
    }
    options = {"dim": dim}
    return OpCase(
        f"{name} dim {dim}",
        getattr(F, name),
        normal((4, 3, 5)),
        options,
        torch=f"nn.functional.{name}",
        edges=edges,
    )


CASES = [
    activation("relu", KINK),
    activation("leaky_relu", KINK),
    activation("leaky_relu", KINK, negative_slope=0.3),
    activation("relu6", KINK),
    activation("hardtanh", KINK),
    activation("hardtanh", KINK, min_val=-0.35, max_val=2.0),
    activation("sigmoid"),
    activation("tanh"),
    activation("silu"),
    activation("gelu"),
    activation("gelu", approximate="tanh"),
    activation("elu", KINK),
    activation("elu", KINK, alpha=0.4),
    activation("softplus"),
    activation("softplus", beta=2.0, threshold=1.0),
    activation("logsigmoid"),
    activation("hardswish"),
    activation("hardsigmoid"),
    *(along(name, dim) for name in ("softmax", "log_softmax", "softmin") for dim in (0, 1, -1)),
    OpCase(
        "softmax of images",
        F.softmax,
        uniform((2, 3, 4, 5)),
        {"dim": 1},
        torch="nn.functional.softmax",
    ),
]
