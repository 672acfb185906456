"""Words of bits in registers: what differs between words, counted in tiles, and signs of floats as bits.

Written as LLVM vector IR, like `vectors.py`: `ctpop` of eight words becomes one instruction where the machine
has AVX512-VPOPCNTDQ, and what LLVM knows best elsewhere. `plain_bits.py` says the same in ordinary loops; the
choice is made at the end of this file. `binary.py` calls it.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minicnn_kernels.cpu.lanes import LANES, PLAIN
from minicnn_kernels.cpu.plain_bits import make_count_tile as plain_count_tile
from minicnn_kernels.cpu.plain_bits import make_sign_bits as plain_sign_bits
from minicnn_kernels.cpu.pointers import FLOAT_BYTES, INT_BYTES
from minicnn_kernels.reference.binary import PANEL

__all__ = ["TILE_ROWS", "make_count_tile", "make_sign_bits"]

_WORDS = 8  # of a vector; LLVM takes several registers where they are shorter
_VECTORS = PANEL // _WORDS
# 4 rows x 4 vectors: 16 counts stay in registers beside the weights, and 64 images are whole tiles.
TILE_ROWS = 4 if LANES == 16 else 1
_INT = ir.IntType(64)
_COUNT = ir.IntType(32)
_VECTOR = ir.VectorType(_INT, _WORDS)
_COUNTS = ir.VectorType(_COUNT, _WORDS)
_FLOATS = ir.VectorType(ir.FloatType(), _WORDS)


def _vector_count_tile(rows: int, planes: int):
    """A micro-kernel for up to `rows` rows of x and one panel of weights, as a Numba intrinsic:

    tile(x, row_offsets, valid_rows, taps, tap_count, run, weight, starts, start_rows, start_stride, factor,
         y, y_stride)

        for i in range(valid_rows):
            for j in range(PANEL):
                differ = sum(
                    popcount(x[row_offsets[i] + taps[t] + k] ^ weight[(t * run + k) * PANEL + j])
                    for t in range(tap_count)
                    for k in range(run)
                )
                y[i * y_stride + j] = (starts[start_rows[i] * start_stride + j] - 2 * differ) * factor[j]

    x, weight: addresses of uint64; row_offsets, taps, start_rows: of int64; starts: of int32; factor, y: of
    float32. Offsets and strides count elements. planes 2: the words of weights come in pairs of panels, and
    the second says which bits count.
    """

    @intrinsic
    def tile(typingctx, x, row_offsets, valid_rows, taps, tap_count, run, weight, starts, start_rows,
             start_stride, factor, y, y_stride):  # fmt: skip
        def codegen(context, builder, signature, args):
            _TileBuilder(builder, rows, planes).emit(*args)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 13), codegen

    return tile


class _TileBuilder:
    """Emits one micro-kernel."""

    def __init__(self, builder, rows: int, planes: int) -> None:
        self.builder, self.rows, self.planes = builder, rows, planes
        self.popcount = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VECTOR, [_VECTOR]), f"llvm.ctpop.v{_WORDS}i64"
        )

    def emit(self, x, row_offsets, valid_rows, taps, tap_count, run, weight, starts, start_rows, start_stride,
             factor, y, y_stride):  # fmt: skip
        build = self.builder
        # Rows past the edge repeat the last row: they write the same values at the same places.
        last = build.sub(valid_rows, _int(1))
        clamped = [
            build.select(build.icmp_signed("<", _int(i), last), _int(i), last) for i in range(self.rows)
        ]
        x_rows = [self._moved(x, self._load_int(row_offsets, row), INT_BYTES) for row in clamped]
        zero = ir.Constant(_VECTOR, [0] * _WORDS)
        sums = [[cgutils.alloca_once_value(build, zero) for _ in range(_VECTORS)] for _ in range(self.rows)]
        place = cgutils.alloca_once_value(build, weight)
        with cgutils.for_range(build, tap_count) as tap:
            tap_offset = self._load_int(taps, tap.index)
            with cgutils.for_range(build, run) as k:
                self._count(x_rows, build.add(tap_offset, k.index), build.load(place), sums)
                next_place = build.add(build.load(place), _int(self.planes * PANEL * INT_BYTES))
                build.store(next_place, place)
        for row, row_sums in zip(clamped, sums, strict=True):
            first = build.mul(self._load_int(start_rows, row), start_stride)
            start, target = (
                self._moved(starts, first, 4),
                self._moved(y, build.mul(row, y_stride), FLOAT_BYTES),
            )
            self._finish(row_sums, start, factor, target)

    def _count(self, x_rows, offset, weight, sums):
        """One word of every row: sums[i][j] += popcount(x[i] ^ weight[j])."""
        build = self.builder
        signs = [self._load(weight, j * _WORDS, _VECTOR, INT_BYTES) for j in range(_VECTORS)]
        masks = signs
        if self.planes == 2:
            masks = [self._load(weight, PANEL + j * _WORDS, _VECTOR, INT_BYTES) for j in range(_VECTORS)]
        for row, row_sums in zip(x_rows, sums, strict=True):
            word = _splat(build, self._load_int(row, offset), _VECTOR)
            for sign, mask, total in zip(signs, masks, row_sums, strict=True):
                differ = build.xor(word, sign)
                if self.planes == 2:
                    differ = build.and_(differ, mask)
                build.store(build.add(build.load(total), build.call(self.popcount, [differ])), total)

    def _finish(self, row_sums, start, factor, target):
        """y[j] = (start[j] - 2 sums[j]) * factor[j]."""
        build = self.builder
        two = ir.Constant(_COUNTS, [2] * _WORDS)
        for j, total in enumerate(row_sums):
            differ = build.mul(build.trunc(build.load(total), _COUNTS), two)
            whole = build.sub(self._load(start, j * _WORDS, _COUNTS, 4), differ)
            scale = self._load(factor, j * _WORDS, _FLOATS, FLOAT_BYTES)
            value = build.fmul(build.sitofp(whole, _FLOATS), scale)
            place = self._moved(target, _int(j * _WORDS), FLOAT_BYTES)
            build.store(value, build.inttoptr(place, _FLOATS.as_pointer()), align=FLOAT_BYTES)

    def _load(self, address, position, kind, size):
        place = self._moved(address, _int(position), size)
        return self.builder.load(self.builder.inttoptr(place, kind.as_pointer()), align=size)

    def _load_int(self, table, index):
        place = self._moved(table, index, INT_BYTES)
        return self.builder.load(self.builder.inttoptr(place, _INT.as_pointer()), align=INT_BYTES)

    def _moved(self, address, elements, size):
        return self.builder.add(address, self.builder.mul(elements, _int(size)))


def _vector_sign_bits(count: int):
    """`signs(address)`: the signs of `count` float32 at an address as a uint64, lowest bit first, 1: >= 0."""
    floats, bits = ir.VectorType(ir.FloatType(), count), ir.IntType(count)

    @intrinsic
    def signs(typingctx, address):
        def codegen(context, builder, signature, args):
            values = builder.load(builder.inttoptr(args[0], floats.as_pointer()), align=FLOAT_BYTES)
            zero = ir.Constant(floats, [0.0] * count)
            word = builder.bitcast(builder.fcmp_ordered(">=", values, zero), bits)
            return word if count == 64 else builder.zext(word, _INT)

        return types.uint64(types.intp), codegen

    return signs


def _splat(build, scalar, kind):
    undefined = ir.Constant(kind, ir.Undefined)
    one = build.insert_element(undefined, scalar, ir.Constant(_COUNT, 0))
    return build.shuffle_vector(one, undefined, ir.Constant(_COUNTS, [0] * _WORDS))


def _int(value: int) -> ir.Constant:
    return ir.Constant(_INT, value)


make_count_tile = plain_count_tile if PLAIN else _vector_count_tile
make_sign_bits = plain_sign_bits if PLAIN else _vector_sign_bits
