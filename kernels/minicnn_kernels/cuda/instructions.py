"""Instructions of the GPU that Python has no words for: 128-bit loads, copies in the background, dot products
of bytes, and the tensor core's matrix product.

Each is declared by its text in PTX and, as its body, by the same in Python, which the simulator runs and
which is the description to read. "PTX ISA" is NVIDIA's manual of that name. How a text becomes a device
function is in `ptx.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn_kernels.cuda import simulator
from minicnn_kernels.cuda.driver import SIMULATED, cuda, inline_function

__all__ = [
    "barrier", "commit_copies", "copy4", "copy16", "dot4_signed", "dot4_unsigned", "load", "load4",
    "load_words", "multiply_tile_tf32", "store", "store4", "tf32", "wait_for_copies", "wait_for_older_copies",
]  # fmt: skip

if not SIMULATED:
    from minicnn_kernels.cuda import ptx


def _instruction(
    text: str, signature: str, *, stays: bool = False, touches_memory: bool = False
) -> Callable[[Callable], Any]:
    """Declare an instruction; arguments as `ptx.instruction`'s. The body is for the simulator."""

    def declare(simulated: Callable) -> Any:
        if SIMULATED:
            return simulated
        return ptx.instruction(text, signature, stays=stays, touches_memory=touches_memory)

    return declare


# Loads and stores. Numba reads array[i] for any signed i, negative ones too, which takes some instructions
# more; these read an int32 index as it is. In the simulator a misaligned index is refused, as by the GPU.


def _load(array: Any, index: Any) -> Any:
    assert index >= 0, f"index {index}"
    return array[index]


def _load4(array: Any, index: Any) -> tuple[Any, ...]:
    simulator.check_alignment(array, index, 16)
    return tuple(array[index + i] for i in range(4))


def _store(array: Any, index: Any, value: Any) -> None:
    assert index >= 0, f"index {index}"
    array[index] = value


def _store4(array: Any, index: Any, a: Any, b: Any, c: Any, d: Any) -> None:
    simulator.check_alignment(array, index, 16)
    for i, value in enumerate((a, b, c, d)):
        array[index + i] = value


def _load_words(array: Any, index: Any) -> tuple[Any, ...]:
    simulator.check_alignment(array, index, 16)
    return tuple(np.array([array[index + i] for i in range(16)]).view(np.int32))


if SIMULATED:
    load, load4, store, store4, load_words = _load, _load4, _store, _store4, _load_words
else:
    load, load4, store, store4, load_words = ptx.load, ptx.load4, ptx.store, ptx.store4, ptx.words
# load(array, index): array[index]. store(array, index, value): its counterpart.
# load4(array, index): four neighbours of a float32 or int32 array, by one instruction of 128 bits.
# store4(array, index, a, b, c, d): its counterpart.
# load_words(array, index): 16 neighbours of an int8 or uint8 array as four int32, for `dot4_...`.


# Copies from global to shared memory that run in the background, past the registers (PTX ISA, "cp.async").
# A thread begins copies, closes them as a group by `commit_copies` and waits for closed groups; `syncthreads`
# then shows what arrived to the other threads. The simulator copies at the wait, no sooner: a kernel that
# reads too early reads what was there before.


@_instruction(
    "cp.async.ca.shared.global [$0], [$1], 4, $2;", "void(int32, int64, int32)", touches_memory=True
)
def _copy4(target: Any, source: Any, size: Any) -> None:
    simulator.begin_copy(target, source, size, 4)


@_instruction(
    "cp.async.cg.shared.global [$0], [$1], 16, $2;", "void(int32, int64, int32)", touches_memory=True
)
def _copy16(target: Any, source: Any, size: Any) -> None:
    for array, index in (target, source):
        simulator.check_alignment(array, index, 16)
    simulator.begin_copy(target, source, size, 16)


@_instruction("cp.async.commit_group;", "void()", touches_memory=True)
def commit_copies() -> None:
    """Close the group of the copies that this thread has begun since the last one."""
    simulator.close_copies()


@_instruction("cp.async.wait_group 0;", "void()", touches_memory=True)
def wait_for_copies() -> None:
    """Wait until all closed groups of this thread have arrived."""
    simulator.finish_copies(but=0)


@_instruction("cp.async.wait_group 1;", "void()", touches_memory=True)
def wait_for_older_copies() -> None:
    """Wait until all closed groups of this thread but the youngest have arrived."""
    simulator.finish_copies(but=1)


@inline_function
def _barrier():
    cuda.syncthreads()


# barrier(): `cuda.syncthreads`, for device functions in files without kernels, where the simulator is not.
barrier: Any = simulator.meet if SIMULATED else _barrier


if SIMULATED:
    address = shared_address = lambda array, index: (array, index)
else:
    address, shared_address = ptx.address, ptx.shared_address


@inline_function
def copy4(target: Any, target_index: Any, source: Any, source_index: Any, inside: Any) -> None:
    """Begin to copy an element of 4 bytes; zero if not `inside`, and then nothing is read."""
    _copy4(shared_address(target, target_index), address(source, source_index), 4 if inside else 0)


@inline_function
def copy16(target: Any, target_index: Any, source: Any, source_index: Any, count: Any) -> None:
    """Begin to copy four elements of 4 bytes to multiples of 16 bytes: the first `count`, then zeros."""
    _copy16(shared_address(target, target_index), address(source, source_index), 4 * count)


# Dot products of four bytes, which a 32-bit word holds, the first in its lowest bits (PTX ISA, "dp4a").


@_instruction("dp4a.u32.s32 $0, $1, $2, $3;", "int32(int32, int32, int32)")
def dot4_unsigned(a: Any, b: Any, total: Any) -> Any:
    """total + the sum of a[i] b[i]: a four uint8, b four int8, total int32."""
    return _dot4(a, np.uint8, b, total)


@_instruction("dp4a.s32.s32 $0, $1, $2, $3;", "int32(int32, int32, int32)")
def dot4_signed(a: Any, b: Any, total: Any) -> Any:
    """total + the sum of a[i] b[i]: a and b four int8 each, total int32."""
    return _dot4(a, np.int8, b, total)


def _dot4(a: Any, type_of_a: Any, b: Any, total: Any) -> Any:
    products = _bytes(a, type_of_a) * _bytes(b, np.int8)
    return (int(total) + products.sum()).astype(np.int32)  # wraps around, as int32 does


def _bytes(word: Any, dtype: Any) -> np.ndarray:
    return np.array([int(word) & 0xFFFFFFFF], np.uint32).view(dtype).astype(np.int64)


# Matrix products of a whole warp on the tensor cores.


@_instruction("cvt.rna.tf32.f32 $0, $1;", "int32(float32)")
def tf32(x: Any) -> Any:
    """x with 10 bits after the leading one, rounded to nearest, ties away from zero: the bits as int32."""
    if np.isnan(x):
        return np.int32(0x7FFFFFFF)
    return ((np.float32(x).view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.int32)


@_instruction(
    "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
    "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};",
    f"UniTuple(float32, 4)({', '.join(['int32'] * 6 + ['float32'] * 4)})",
    stays=True,
)
def multiply_tile_tf32(
    a0: Any, a1: Any, a2: Any, a3: Any, b0: Any, b1: Any, c0: Any, c1: Any, c2: Any, c3: Any
) -> tuple[Any, ...]:
    """A B + C for A (16, 8), B (8, 8) and C (16, 8), held by the 32 threads of a warp together.

    Lane l, with g = l // 4 and t = l % 4, holds A[g, t], A[g + 8, t], A[g, t + 4], A[g + 8, t + 4]; B[t, g],
    B[t + 4, g]; and of C and the result [g, 2t], [g, 2t + 1], [g + 8, 2t], [g + 8, 2t + 1] (PTX ISA,
    "Matrix Fragments for mma.m16n8k8"). All threads of the warp have to come here; in the simulator all of
    the block. A and B are bits from `tf32`; sums are float32, in an order that NVIDIA does not tell.
    """
    lane, fragments = simulator.gather_from_warp((a0, a1, a2, a3, b0, b1))
    values = np.array(fragments, np.int32).view(np.float32).astype(np.float64)
    a, b = np.empty((16, 8)), np.empty((8, 8))
    for other, held in enumerate(values):
        g, t = divmod(other, 4)
        a[g, t], a[g + 8, t], a[g, t + 4], a[g + 8, t + 4] = held[:4]
        b[t, g], b[t + 4, g] = held[4:]
    product, (g, t) = a @ b, divmod(lane, 4)
    places = ((g, 2 * t), (g, 2 * t + 1), (g + 8, 2 * t), (g + 8, 2 * t + 1))
    return tuple(np.float32(product[place] + c) for place, c in zip(places, (c0, c1, c2, c3), strict=True))
