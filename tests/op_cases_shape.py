"""Rows for shapes, joining, moving and indexing."""

from __future__ import annotations

from typing import Any

import numpy as np
from op_table import Inputs, OpCase, booleans, integers, join, normal, values

import minicnn
from minicnn.functions.moving import Pad


def both(
    name: str, call: Any, inputs: Inputs, edges: dict[str, Inputs] | None = None, **options: Any
) -> OpCase:
    """An expression that means the same for both engines' tensors."""
    return OpCase(name, call, inputs, torch=lambda torch: call, edges=edges or {}, **options)


def function(name: str, inputs: Inputs, edges: dict[str, Inputs] | None = None, **options: Any) -> OpCase:
    """A public function of the same name and arguments in both engines."""
    label = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
    return OpCase(label, getattr(minicnn, name), inputs, options, torch=name, edges=edges or {})


def joined(name: str, **options: Any) -> Any:
    """A function of a list of tensors as one of several tensors, for either engine."""
    return lambda module: lambda *tensors: getattr(module, name)(list(tensors), **options)


def positions(shape: tuple[int, ...], below: int) -> Inputs:
    return integers(shape, low=0, high=below)


def padded(pad: tuple[tuple[int, int], ...], mode: str) -> OpCase:
    """The Function behind functional.pad. PyTorch pads only the last dimensions, except with a constant."""
    flat = [n for pair in reversed(pad) for n in pair]

    def of_torch(torch: Any) -> Any:
        value = 1.5 if mode == "constant" else None
        return lambda x: torch.nn.functional.pad(x, flat, mode, value)

    return OpCase(
        f"pad {mode} {pad}",
        lambda x: Pad.apply(x, pad=((0, 0),) * (x.ndim - len(pad)) + pad, mode=mode, value=1.5),
        normal((2, 3, 4, 5)),
        torch=of_torch,
    )


IMAGES = normal((2, 3, 4, 5))
MATRIX = normal((3, 4))
EMPTY = {"empty": normal((0, 4))}

INDICES: dict[str, Any] = {
    "a number": 1,
    "a negative number": -1,
    "two numbers": (1, 2),
    "three numbers": (0, 1, 2),
    "a slice": slice(1, None),
    "steps": (slice(None), slice(0, 4, 2)),
    "an empty slice": slice(2, 2),
    "an ellipsis": (..., 1),
    "a new dimension": (None, slice(None), None, 0),
    "all": ...,
    "positions": np.array([2, 0, 2, -1]),
    "a list": [0, 0, 1],
    "no positions": np.zeros(0, np.int64),
    "a table of positions": np.array([[0, 1], [2, 0]]),
    "positions in two dimensions": (np.array([0, 2, 2]), np.array([1, 1, 3])),
    "positions that broadcast": (np.array([[0], [2]]), np.array([1, 3])),
    "positions around a slice": (np.array([0, 2, 2]), slice(None), np.array([1, 1, 4])),
    "a number and positions": (1, slice(None), np.array([0, 0, 3])),
    "positions and a number": (np.array([0, 0, 2]), slice(None), 3),
    "positions, a new dimension, a number": (np.array([0, 0, 2]), None, 3),
    "a mask": np.arange(3) != 1,
    "a mask in two dimensions": (np.arange(12) % 3 == 0).reshape(3, 4),
    "a mask and a slice": (slice(None), np.arange(4) > 1, slice(1, 3)),
    "a mask and a number": (np.arange(3) != 1, 2),
    "nobody": np.zeros(3, bool),
}


def torch_index(torch: Any, index: Any) -> Any:
    if isinstance(index, np.ndarray):
        return torch.from_numpy(index)
    return tuple(torch_index(torch, part) for part in index) if isinstance(index, tuple) else index


CASES = [
    both("reshape", lambda x: x.reshape(2, -1), IMAGES),
    both("reshape to a tuple", lambda x: x.reshape((6, 20)), IMAGES),
    both("reshape to nothing", lambda x: x.reshape(0, 3), normal((3, 0))),
    both("reshape a number", lambda x: x.reshape(1, 1), normal(())),
    both("reshape to a number", lambda x: x.reshape(()), normal((1, 1))),
    function("reshape", MATRIX, shape=(2, 6)),
    both("view", lambda x: x.view(-1), MATRIX, layouts=False),
    both(
        "flatten method",
        lambda x: x.flatten(1),
        IMAGES,
        {"size 1": normal((1, 1, 1)), "empty": normal((0, 2, 3))},
    ),
    function("flatten", IMAGES, start_dim=1, end_dim=-2),
    function("flatten", normal(())),
    function("unflatten", normal((3, 8)), dim=1, sizes=(2, -1)),
    function("ravel", IMAGES, EMPTY),
    function("squeeze", normal((1, 3, 1, 4)), {"number": normal(()), "ones": normal((1, 1))}),
    function("squeeze", normal((1, 3, 1, 4)), dim=2),
    function("squeeze", normal((1, 3, 1, 4)), dim=1),
    function("squeeze", normal((1, 3, 1, 4)), dim=(0, 1, -2)),
    function("unsqueeze", MATRIX, EMPTY, dim=1),
    function("unsqueeze", MATRIX, dim=-1),
    function("unsqueeze", normal(()), dim=0),
    function("permute", IMAGES, {"empty": normal((0, 3, 4, 5))}, dims=(0, 2, 3, 1)),
    both("permute method", lambda x: x.permute(3, -3, 0, 2), IMAGES),
    function("transpose", IMAGES, dim0=1, dim1=-1),
    both("swapaxes", lambda x: x.swapaxes(0, 1), IMAGES),
    function("t", MATRIX, {"vector": normal((3,)), "number": normal(())}),
    both("T", lambda x: x.T, MATRIX),
    both("mT", lambda x: x.mT, IMAGES),
    function("movedim", IMAGES, source=1, destination=-1),
    function("movedim", IMAGES, source=(0, 1), destination=(2, 0)),
    both("expand", lambda x: x.expand(5, -1, 4), normal((3, 1)), {"empty": normal((0, 1))}),
    both("expand to a tuple", lambda x: x.expand((2, 3, 4)), normal((3, 1))),
    both("expand a number", lambda x: x.expand(3), normal(())),
    both("expand_as", lambda x, y: x.expand_as(y), normal((1, 4), (3, 4)), differentiable=(0,)),
    OpCase(
        "broadcast_to",
        minicnn.broadcast_to,
        normal((3, 1)),
        {"shape": (2, 3, 4)},
        torch="broadcast_to",
        torch_options={"size": (2, 3, 4)},
    ),
    OpCase("broadcast_tensors", minicnn.broadcast_tensors, normal((3, 1), (4,)), torch="broadcast_tensors"),
    both("repeat", lambda x: x.repeat(2, 3), MATRIX, EMPTY),
    both("repeat in front", lambda x: x.repeat(2, 1, 3), MATRIX),
    both("repeat no times", lambda x: x.repeat(0, 2), MATRIX),
    function("tile", MATRIX, dims=(2,)),
    function("tile", MATRIX, dims=(2, 1, 2)),
    function("repeat_interleave", MATRIX, EMPTY, repeats=3, dim=0),
    function("repeat_interleave", MATRIX, repeats=2),
    *(
        OpCase(f"{name} {options}", joined(name, **options)(minicnn), inputs, torch=joined(name, **options))
        for name, options, inputs in (
            ("cat", {}, normal((2, 3), (4, 3))),
            ("cat", {"dim": -1}, normal((2, 3), (2, 1), (2, 0))),
            ("cat", {"dim": 1}, normal((2, 3, 4, 5), (2, 1, 4, 5))),
            ("concat", {"dim": 0}, join(normal((2,)), integers((3,)))),
            ("stack", {}, normal((2, 3), (2, 3))),
            ("stack", {"dim": -1}, normal((2, 3), (2, 3), (2, 3))),
            ("stack", {"dim": 0}, normal((), ())),
        )
    ),
    OpCase(
        "cat with a tensor of nothing",
        joined("cat", dim=1)(minicnn),
        normal((0,), (2, 3), (2, 1)),
        torch=joined("cat", dim=1),
    ),
    OpCase(
        "cat of one tensor twice",
        lambda x: minicnn.cat([x, x], 1),
        MATRIX,
        torch=lambda torch: lambda x: torch.cat([x, x], 1),
    ),
    both("split by size", lambda x: x.split(2, 1), normal((2, 5)), {"nothing": normal((2, 0))}),
    both("split into sizes", lambda x: x.split([1, 0, 4], dim=1), normal((2, 5))),
    function("chunk", normal((5, 2)), {"none": normal((0, 2))}, chunks=3),
    function("chunk", normal((2, 4)), chunks=2, dim=1),
    function("unbind", MATRIX, dim=1),
    function("clone", MATRIX, EMPTY),
    function("flip", IMAGES, dims=(2, 3)),
    both("flip method", lambda x: x.flip(0, -1), MATRIX, EMPTY),
    function("fliplr", MATRIX),
    function("flipud", MATRIX),
    function("roll", MATRIX, EMPTY, shifts=2),
    function("roll", MATRIX, shifts=(1, -2), dims=(0, 1)),
    function("roll", MATRIX, shifts=-5, dims=1),
    *(function(name, normal((2, 3, 4)), diagonal=d) for name in ("tril", "triu") for d in (0, 1, -1)),
    padded(((1, 2),), "constant"),
    padded(((2, 0), (1, 3)), "constant"),
    padded(((-1, 2), (1, -2)), "constant"),
    padded(((1, 0), (0, 1), (2, 1), (1, 1)), "constant"),
    padded(((2, 1), (1, 3)), "reflect"),
    padded(((2, 1), (1, 3)), "replicate"),
    padded(((2, 1), (1, 3)), "circular"),
    *(
        OpCase(
            f"index by {name}",
            lambda x, index=index: x[index],
            normal((3, 4, 5)),
            torch=lambda torch, index=index: lambda x: x[torch_index(torch, index)],
            edges={"whole numbers": integers((3, 4, 5))},
        )
        for name, index in INDICES.items()
    ),
    both("index by a tensor", lambda x, i: x[i], join(normal((3, 4)), positions((5,), 3)), layouts=False),
    both("index by a mask of a tensor", lambda x: x[x > 0], MATRIX, EMPTY, layouts=False),
    both("index a number by nothing", lambda x: x[...], normal(())),
    both("index with a 0-d tensor", lambda x, i: x[i, :, i], join(normal((3, 4, 3)), positions((), 3))),
    function("select", MATRIX, dim=1, index=-2),
    function("narrow", normal((3, 6)), dim=1, start=2, length=3),
    function("narrow", normal((3, 6)), dim=1, start=-2, length=2),
    OpCase(
        "index_select",
        lambda x, i: minicnn.index_select(x, 1, i),
        join(MATRIX, positions((6,), 4)),
        torch=lambda torch: lambda x, i: torch.index_select(x, 1, i),
    ),
    OpCase("masked_select", minicnn.masked_select, join(MATRIX, booleans((4,))), torch="masked_select"),
    *(
        OpCase(
            f"gather dim={dim}",
            lambda x, i, dim=dim: minicnn.gather(x, dim, i),
            join(normal((3, 4, 5)), positions((2, 3, 4), 3)),
            torch=lambda torch, dim=dim: lambda x, i: torch.gather(x, dim, i),
            edges={
                "nothing": join(normal((3, 4, 5)), positions((0, 3, 4), 3)),
                "often the same": join(normal((3, 4, 5)), positions((3, 4, 5), 1)),
            },
        )
        for dim in (0, 1, -1)
    ),
    OpCase(
        "take_along_dim",
        lambda x, i: minicnn.take_along_dim(x, i, 1),
        join(MATRIX, positions((3, 2), 4)),
        torch=lambda torch: lambda x, i: torch.take_along_dim(x, i, 1),
    ),
    OpCase(
        "one_hot", minicnn.one_hot, positions((2, 3), 4), {"num_classes": 5}, torch="nn.functional.one_hot"
    ),
    OpCase("one_hot counts classes", minicnn.one_hot, values([0, 2, 1]), torch="nn.functional.one_hot"),
]
