"""What `bits.py` offers, as ordinary Numba loops: for machines whose vectors we do not know."""

from __future__ import annotations

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.pointers import FLOAT_BYTES, INT_BYTES, floats, load_int
from minicnn_kernels.reference.binary import PANEL


@intrinsic
def _int32_pointer(typingctx, address):
    pointer_type = types.CPointer(types.int32)

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(pointer_type))

    return pointer_type(types.intp), codegen


def make_count_tile(rows: int, planes: int):
    """As `bits.make_count_tile`."""

    @kernel
    def tile(
        x, row_offsets, valid_rows, taps, tap_count, run, weight, starts, start_rows, start_stride, factor, y,
        y_stride,
    ):  # fmt: skip
        factors = floats(factor, PANEL)
        for i in range(valid_rows):
            row = x + INT_BYTES * load_int(row_offsets + INT_BYTES * i)
            first = starts + 4 * load_int(start_rows + INT_BYTES * i) * start_stride
            start = carray(_int32_pointer(first), (PANEL,))
            target = floats(y + FLOAT_BYTES * i * y_stride, PANEL)
            for j in range(PANEL):
                differ, place = 0, weight + INT_BYTES * j
                for t in range(tap_count):
                    words = row + INT_BYTES * load_int(taps + INT_BYTES * t)
                    for k in range(run):
                        bits = load_int(words + INT_BYTES * k) ^ load_int(place)
                        if planes == 2:
                            bits &= load_int(place + INT_BYTES * PANEL)
                        differ += _popcount(bits)
                        place += planes * PANEL * INT_BYTES
                target[j] = np.float32(start[j] - 2 * differ) * factors[j]

    return tile


def make_sign_bits(count: int):
    """As `bits.make_sign_bits`."""

    @kernel
    def signs(address):
        values = floats(address, count)
        word = np.uint64(0)
        for i in range(count):
            if values[i] >= 0:
                word |= np.uint64(1) << np.uint64(i)
        return word

    return signs


@kernel
def _popcount(word):
    """Bits of an int64 that are set: sums of neighbours, twice as wide in every step (Warren, ch. 5)."""
    word = np.uint64(word)
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int32((word * np.uint64(0x0101010101010101)) >> np.uint64(56))
