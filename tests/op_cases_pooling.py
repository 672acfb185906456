"""Rows for `minicnn/functions/pooling.py`. Inputs of maxima have no ties: every engine picks the same."""

from __future__ import annotations

from op_table import OpCase, distinct, normal, values

from minicnn.nn import functional as F

NAN, INF = float("nan"), float("inf")
Shape = tuple[int, ...]


def pool(op: str, name: str, shape: Shape, edges: dict | None = None, **options: object) -> OpCase:
    make = distinct if "max" in op else normal
    return OpCase(
        f"{op} {name}", getattr(F, op), make(shape), options, torch=f"nn.functional.{op}", edges=edges or {}
    )


IMAGES, SEQUENCES = (2, 3, 9, 8), (2, 3, 11)

CASES = [
    pool(
        "max_pool2d",
        "2x2",
        (2, 3, 8, 8),
        edges={
            "empty batch": normal((0, 3, 8, 8)),
            "minus infinity": values([[[[-INF, -INF], [-INF, -INF]]]]),
            "one NaN": values([[[[1.0, NAN], [3.0, 2.0]]]]),
            "ties": values([[[[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]]]),
        },
        kernel_size=2,
    ),
    pool("max_pool2d", "of one image", (3, 9, 8), kernel_size=2),
    pool("max_pool2d", "odd channels", (2, 17, 7, 7), kernel_size=2),
    pool("max_pool2d", "overlapping, padded", IMAGES, kernel_size=3, stride=2, padding=1),
    pool("max_pool2d", "with gaps", IMAGES, kernel_size=2, stride=3),
    pool("max_pool2d", "ceil mode", IMAGES, kernel_size=3, stride=2, ceil_mode=True),
    pool(
        "max_pool2d",
        "ceil mode, last window dropped",
        (2, 3, 6, 7),
        kernel_size=2,
        stride=3,
        padding=1,
        ceil_mode=True,
    ),
    pool("max_pool2d", "dilation", IMAGES, kernel_size=(2, 3), stride=1, padding=(1, 1), dilation=(3, 2)),
    pool(
        "max_pool2d", "asymmetric", IMAGES, kernel_size=(1, 4), stride=(2, 3), padding=(0, 2), ceil_mode=True
    ),
    pool(
        "max_pool2d",
        "indices",
        IMAGES,
        edges={
            "empty batch": normal((0, 3, 9, 8)),
            "minus infinity": values([[[[-INF] * 4] * 4]]),
        },
        kernel_size=3,
        stride=2,
        padding=1,
        return_indices=True,
    ),
    pool("max_pool2d", "indices, dilated", IMAGES, kernel_size=2, dilation=3, return_indices=True),
    pool("max_pool2d", "more than 256 taps", (1, 2, 20, 19), kernel_size=(18, 17), stride=1),
    pool("max_pool1d", "2", SEQUENCES, kernel_size=2, edges={"empty": normal((0, 3, 11))}),
    pool(
        "max_pool1d", "all options", SEQUENCES, kernel_size=3, stride=2, padding=1, dilation=2, ceil_mode=True
    ),
    pool("max_pool1d", "indices of one sequence", (3, 11), kernel_size=3, return_indices=True),
    pool("avg_pool2d", "2x2", (2, 3, 8, 8), kernel_size=2, edges={"empty batch": normal((0, 3, 8, 8))}),
    pool("avg_pool2d", "of one image", (3, 9, 8), kernel_size=2),
    pool("avg_pool2d", "odd channels", (2, 17, 7, 7), kernel_size=3),
    pool("avg_pool2d", "padding counted", IMAGES, kernel_size=3, stride=2, padding=1),
    pool(
        "avg_pool2d",
        "padding not counted",
        IMAGES,
        kernel_size=3,
        stride=2,
        padding=1,
        count_include_pad=False,
    ),
    pool("avg_pool2d", "ceil mode", IMAGES, kernel_size=3, stride=2, ceil_mode=True),
    pool(
        "avg_pool2d",
        "ceil mode, padding counted",
        IMAGES,
        kernel_size=(2, 4),
        stride=(3, 3),
        padding=(1, 2),
        ceil_mode=True,
    ),
    pool(
        "avg_pool2d",
        "ceil mode, padding not counted",
        IMAGES,
        kernel_size=(2, 4),
        stride=(3, 3),
        padding=(1, 2),
        ceil_mode=True,
        count_include_pad=False,
    ),
    pool("avg_pool2d", "divisor", IMAGES, kernel_size=3, padding=1, divisor_override=5),
    pool("avg_pool1d", "2", SEQUENCES, kernel_size=2, edges={"empty": normal((0, 3, 11))}),
    pool(
        "avg_pool1d",
        "all options",
        SEQUENCES,
        kernel_size=3,
        stride=2,
        padding=1,
        ceil_mode=True,
        count_include_pad=False,
    ),
    pool("avg_pool1d", "of one sequence", (3, 11), kernel_size=4, stride=3),
    pool("adaptive_avg_pool2d", "to 1", IMAGES, output_size=1, edges={"empty": normal((0, 3, 9, 8))}),
    pool("adaptive_avg_pool2d", "uneven", IMAGES, output_size=(4, 3)),
    pool("adaptive_avg_pool2d", "one size kept", IMAGES, output_size=(None, 5)),
    pool("adaptive_avg_pool2d", "to more", (3, 4, 3), output_size=(7, 5)),
    pool("adaptive_avg_pool1d", "uneven", SEQUENCES, output_size=4),
    pool("adaptive_avg_pool1d", "of one sequence", (3, 11), output_size=1),
    pool("adaptive_max_pool2d", "to 1", IMAGES, output_size=1, edges={"empty": normal((0, 3, 9, 8))}),
    pool("adaptive_max_pool2d", "uneven", IMAGES, output_size=(4, 3)),
    pool("adaptive_max_pool2d", "indices", IMAGES, output_size=(4, 3), return_indices=True),
    pool("adaptive_max_pool2d", "of one image, one size kept", (3, 9, 8), output_size=(None, 2)),
    pool("adaptive_max_pool1d", "indices", SEQUENCES, output_size=4, return_indices=True),
]
