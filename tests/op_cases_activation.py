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
# PyTorch's own gradient of NaN differs from function to function; test_functional.py says what ours is.
NUMBERS = {name: make for name, make in EDGES.items() if name != "NaN"}
KINK = {**EDGES, "at the kinks": values([-3.0, -1.0, -0.0, 0.0, 1.0, 3.0, 6.0])}


def activation(name: str, edges: dict = EDGES, **options: object) -> OpCase:
    label = f"{name} {options}" if options else name
    inputs = distinct((4, 3, 5, 7)) if edges is KINK else normal((4, 3, 5, 7))
    return OpCase(label, getattr(F, name), inputs, options, torch=f"nn.functional.{name}", edges=edges)


def along(name: str, dim: int) -> OpCase:
    out = -INF if name == "softmin" else INF
    edges = {
        "no rows": normal((0, 3, 2)),
        "one element": normal((1, 1, 1)),
        "no dimensions": normal(()) if dim in (0, -1) else normal((1, 1)),
        "far apart": values([[[1e4, -1e4], [0.0, 1e4]], [[-1e4, -1e4], [1e4, 1e4]]]),
        "ruled out": values([[[-out, 1.0], [2.0, -out]], [[0.5, -out], [-1.0, 3.0]]]),
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
    activation("hardtanh", KINK, min_val=-0.36, max_val=2.0),
    activation("sigmoid"),
    activation("tanh"),
    activation("silu"),
    activation("gelu"),
    activation("gelu", approximate="tanh"),
    activation("elu", NUMBERS),
    activation("elu", NUMBERS, alpha=0.4),
    activation("softplus"),
    activation("softplus", beta=2.0, threshold=1.0),
    activation("logsigmoid"),
    activation("hardswish", NUMBERS),
    OpCase(  # PyTorch's hardsigmoid multiplies by a sixth that it rounds to float32
        "hardsigmoid",
        F.hardsigmoid,
        normal((4, 3, 5, 7)),
        torch=lambda torch: lambda x: torch.nn.functional.relu6(x + 3) / 6,
        edges=NUMBERS,
    ),
    *(along(name, dim) for name in ("softmax", "log_softmax", "softmin") for dim in (0, 1, -1)),
    OpCase(
        "softmax of images",
        F.softmax,
        uniform((2, 3, 4, 5)),
        {"dim": 1},
        torch="nn.functional.softmax",
    ),
]
