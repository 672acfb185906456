"""Rows for `minicnn/functions/conv.py`."""

from __future__ import annotations

from op_table import OpCase, normal

from minicnn.nn import functional as F

Shape = tuple[int, ...]


def conv(op: str, name: str, *shapes: Shape, edges: dict | None = None, **options: object) -> OpCase:
    """Shapes of input, weight and, if there is one, bias."""
    return OpCase(
        f"{op} {name}",
        getattr(F, op),
        normal(*shapes),
        options,
        torch=f"nn.functional.{op}",
        edges=edges or {},
    )


IMAGE, KERNEL, BIAS = (2, 3, 9, 8), (5, 3, 3, 3), (5,)

CASES = [
    conv(
        "conv2d",
        "3x3",
        IMAGE,
        KERNEL,
        BIAS,
        edges={
            "empty batch": normal((0, 3, 9, 8), KERNEL, BIAS),
            "one output pixel": normal((2, 3, 3, 3), KERNEL, BIAS),
            "size 1": normal((1, 1, 1, 1), (1, 1, 1, 1), (1,)),
        },
    ),
    conv("conv2d", "without bias", IMAGE, KERNEL),
    conv("conv2d", "of one image", (3, 9, 8), KERNEL, BIAS),
    conv("conv2d", "padding", IMAGE, KERNEL, BIAS, padding=1),
    conv("conv2d", "padding larger than the kernel", IMAGE, (5, 3, 2, 2), BIAS, padding=3),
    conv("conv2d", "padding same", IMAGE, KERNEL, BIAS, padding="same"),
    conv("conv2d", "padding same, even kernel", IMAGE, (5, 3, 4, 2), BIAS, padding="same", dilation=(1, 3)),
    conv("conv2d", "padding valid", IMAGE, KERNEL, BIAS, padding="valid", stride=2),
    conv("conv2d", "stride", IMAGE, KERNEL, BIAS, stride=2, padding=1),
    conv("conv2d", "stride larger than the kernel", IMAGE, (5, 3, 2, 2), BIAS, stride=3),
    conv("conv2d", "dilation", IMAGE, KERNEL, BIAS, dilation=2, padding=2),
    conv(
        "conv2d",
        "all options asymmetric",
        (2, 4, 11, 9),
        (6, 2, 2, 3),
        (6,),
        stride=(2, 3),
        padding=(1, 2),
        dilation=(3, 1),
        groups=2,
    ),
    conv("conv2d", "1x1", IMAGE, (7, 3, 1, 1), (7,)),
    conv("conv2d", "1x1 strided", IMAGE, (7, 3, 1, 1), (7,), stride=2),
    conv("conv2d", "1x5", IMAGE, (4, 3, 1, 5), (4,), padding=(0, 2)),
    conv("conv2d", "5x5", (2, 2, 12, 11), (3, 2, 5, 5), (3,), padding=2),
    conv("conv2d", "one input channel", (3, 1, 10, 10), (16, 1, 3, 3), (16,), padding=1),
    conv("conv2d", "many channels", (2, 32, 8, 8), (32, 32, 3, 3), (32,), padding=1),
    conv("conv2d", "odd channels", (2, 17, 7, 6), (19, 17, 3, 3), (19,), padding=1),
    conv("conv2d", "one output channel", (2, 16, 7, 6), (1, 16, 3, 3), (1,), padding=1),
    conv("conv2d", "depthwise", (2, 6, 9, 8), (6, 1, 3, 3), (6,), groups=6, padding=1),
    conv("conv2d", "depthwise with multiplier, strided", (2, 6, 9, 8), (12, 1, 3, 3), groups=6, stride=2),
    conv("conv2d", "groups", (2, 6, 9, 8), (9, 2, 3, 3), (9,), groups=3, padding=1),
    conv(
        "conv1d",
        "kernel 3",
        (2, 3, 11),
        (5, 3, 3),
        BIAS,
        edges={"empty": normal((0, 3, 11), (5, 3, 3), BIAS)},
    ),
    conv("conv1d", "of one sequence", (3, 11), (5, 3, 3), BIAS),
    conv("conv1d", "stride, padding, dilation", (2, 3, 11), (5, 3, 3), stride=2, padding=3, dilation=2),
    conv("conv1d", "same", (2, 3, 11), (5, 3, 4), BIAS, padding="same"),
    conv("conv1d", "depthwise", (2, 6, 11), (6, 1, 5), (6,), groups=6),
    conv(
        "conv_transpose2d",
        "3x3",
        (2, 5, 4, 5),
        KERNEL,
        (3,),
        edges={
            "empty batch": normal((0, 5, 4, 5), KERNEL, (3,)),
            "one pixel": normal((2, 5, 1, 1), KERNEL, (3,)),
        },
    ),
    conv("conv_transpose2d", "of one image", (5, 4, 5), KERNEL, (3,)),
    conv("conv_transpose2d", "upsampling", (2, 5, 4, 5), (5, 3, 2, 2), (3,), stride=2),
    conv(
        "conv_transpose2d",
        "output padding",
        (2, 5, 4, 5),
        KERNEL,
        (3,),
        stride=(2, 3),
        padding=1,
        output_padding=(1, 2),
    ),
    conv(
        "conv_transpose2d",
        "output padding beyond the stride",
        (2, 4, 4, 5),
        (4, 3, 2, 3),
        (6,),
        stride=(2, 1),
        padding=1,
        dilation=(5, 3),
        output_padding=(3, 2),
        groups=2,
    ),
    conv(
        "conv_transpose2d",
        "all options",
        (2, 4, 4, 5),
        (4, 3, 3, 2),
        (6,),
        stride=(3, 2),
        padding=(2, 1),
        output_padding=(2, 0),
        groups=2,
        dilation=(1, 2),
    ),
    conv("conv_transpose2d", "depthwise", (2, 6, 4, 5), (6, 1, 3, 3), stride=2, groups=6),
    conv("conv_transpose1d", "kernel 3", (2, 5, 6), (5, 3, 3), (3,)),
    conv("conv_transpose1d", "of one sequence", (5, 6), (5, 3, 3), (3,), stride=2),
    conv(
        "conv_transpose1d",
        "output padding",
        (2, 5, 6),
        (5, 3, 4),
        (3,),
        stride=3,
        padding=2,
        output_padding=1,
    ),
    OpCase(
        "unfold",
        F.unfold,
        normal((2, 3, 7, 6)),
        {"kernel_size": (3, 2), "dilation": (1, 2), "padding": (2, 0), "stride": (2, 1)},
        torch="nn.functional.unfold",
        edges={"empty": normal((0, 3, 7, 6))},
    ),
    OpCase(
        "unfold of one image", F.unfold, normal((3, 7, 6)), {"kernel_size": 3}, torch="nn.functional.unfold"
    ),
    OpCase(
        "fold",
        F.fold,
        normal((2, 12, 20)),
        {"output_size": (5, 6), "kernel_size": 2},
        torch="nn.functional.fold",
        edges={"one image": normal((12, 20))},
    ),
    OpCase(
        "fold with all options",
        F.fold,
        normal((2, 18, 20)),
        {
            "output_size": (7, 6),
            "kernel_size": (3, 2),
            "dilation": (1, 2),
            "padding": (2, 0),
            "stride": (2, 1),
        },
        torch="nn.functional.fold",
    ),
]
