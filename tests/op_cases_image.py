"""Rows for `minicnn/functions/image.py`."""

from __future__ import annotations

from typing import Any

from op_table import OpCase, normal

from minicnn.nn import functional as F


def case(op: str, name: str, shape: tuple[int, ...], **options: Any) -> OpCase:
    return OpCase(f"{op} {name}", getattr(F, op), normal(shape), options, torch=f"nn.functional.{op}")


IMAGES = (2, 3, 5, 4)

CASES = [
    case("pad", "last dimension", IMAGES, pad=(1, 2)),
    case("pad", "three dimensions with a value", IMAGES, pad=(1, 0, 2, 3, 0, 1), value=0.5),
    case("pad", "cutting", IMAGES, pad=(-1, 2, 3, -2)),
    *(
        case("pad", mode, IMAGES, pad=(1, 3, 4, 2), mode=mode)
        for mode in ("reflect", "replicate", "circular")
    ),
    *(
        case("pad", f"{mode} of sequences", (2, 3, 5), pad=(2, 1), mode=mode)
        for mode in ("reflect", "circular")
    ),
    case("interpolate", "twice as large", IMAGES, scale_factor=2),
    case("interpolate", "by a fraction", IMAGES, scale_factor=(0.6, 1.7)),
    case("interpolate", "to a size", IMAGES, size=(3, 9)),
    case("interpolate", "of sequences", (2, 3, 7), size=4),
    case("interpolate", "bilinear", IMAGES, scale_factor=2, mode="bilinear"),
    case("interpolate", "bilinear by a fraction", IMAGES, scale_factor=1.7, mode="bilinear"),
    case("interpolate", "bilinear, smaller", IMAGES, size=(3, 2), mode="bilinear"),
    case("interpolate", "bilinear, corners kept", IMAGES, size=(7, 1), mode="bilinear", align_corners=True),
    case("interpolate", "linear", (2, 3, 7), size=11, mode="linear"),
    case("pixel_shuffle", "2", (2, 12, 3, 4), upscale_factor=2),
    case("pixel_unshuffle", "3", (2, 1, 6, 9), downscale_factor=3),
]
