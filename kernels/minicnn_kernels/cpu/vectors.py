"""The register-blocked core of every convolution and matrix product, written as LLVM vector IR.

A micro-kernel computes one small tile of a product, C = init + A B, and keeps it in vector registers from
the first multiplication to the last. Numba vectorizes a loop, but does not hold a tile of vectors in
registers; so this file emits the loop nest itself, for vectors of 16, 8 or 4 floats. A is read through two
tables of offsets, which makes one kernel serve matrix products, convolutions of any geometry, and their
gradients; `blocks.py` calls it.
"""

from __future__ import annotations

from contextlib import contextmanager

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minicnn_kernels.cpu.pointers import FLOAT_BYTES

_INT = ir.IntType(64)
_FLOAT = ir.FloatType()


def make_tile(rows: int, vectors: int, lanes: int):
    """A micro-kernel for tiles of up to `rows` x (`vectors` * `lanes`) floats, as a Numba intrinsic:

    tile(a, row_offsets, taps, tap_count, run, step, b, b_stride, init, init_stride, c, c_stride,
         valid_rows, valid_columns)

        for i in range(valid_rows):
            for j in range(valid_columns):
                c[i * c_stride + j] = init[i * init_stride + j] + sum(
                    a[row_offsets[i] + taps[t] + k * step] * b[(t * run + k) * b_stride + j]
                    for t in range(tap_count)
                    for k in range(run)
                )

    a, b, init, c are addresses of float32, row_offsets and taps addresses of int64; offsets and strides
    count floats. A bias is an init with stride 0, accumulation an init that is c itself. B is read in whole
    vectors: its rows must be readable up to a multiple of `lanes` columns; what lies there is not used.
    """

    @intrinsic
    def tile(typingctx, a, row_offsets, taps, tap_count, run, step, b, b_stride, init, init_stride,
             c, c_stride, valid_rows, valid_columns):  # fmt: skip
        def codegen(context, builder, signature, args):
            _TileBuilder(builder, rows, vectors, lanes).emit(*args)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 14), codegen

    return tile


@intrinsic
def load_float(typingctx, address):
    """The float32 at an address."""

    def codegen(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], _FLOAT.as_pointer()), align=FLOAT_BYTES)

    return types.float32(types.intp), codegen


@intrinsic
def store_float(typingctx, address, value):
    """Write a float32 to an address."""

    def codegen(context, builder, signature, args):
        builder.store(args[1], builder.inttoptr(args[0], _FLOAT.as_pointer()), align=FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(types.intp, types.float32), codegen


@intrinsic
def copy_floats(typingctx, target, source, count):
    """Copy `count` floats between addresses; the two places do not overlap."""

    def codegen(context, builder, signature, args):
        target, source = (builder.inttoptr(address, _FLOAT.as_pointer()) for address in args[:2])
        cgutils.raw_memcpy(builder, target, source, args[2], FLOAT_BYTES, align=FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen


@intrinsic
def zero_floats(typingctx, target, count):
    """Write `count` zeros from an address on."""

    def codegen(context, builder, signature, args):
        nbytes = builder.mul(args[1], _int(FLOAT_BYTES))
        cgutils.memset(builder, builder.inttoptr(args[0], _FLOAT.as_pointer()), nbytes, 0)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), codegen


def make_transpose(lanes: int):
    """`transpose_block(source, source_stride, target, target_stride)`: target[j, i] = source[i, j].

    For one block of `lanes` x `lanes` floats at two addresses; strides between rows count floats. The block
    is turned in registers: log2(lanes) steps exchange the off-diagonal quarters of ever smaller squares.
    """

    @intrinsic
    def transpose_block(typingctx, source, source_stride, target, target_stride):
        def codegen(context, builder, signature, args):
            source, source_stride, target, target_stride = args
            vector = ir.VectorType(_FLOAT, lanes).as_pointer()

            def row(start, stride, i):
                offset = builder.mul(stride, _int(i * FLOAT_BYTES))
                return builder.inttoptr(builder.add(start, offset), vector)

            rows = [builder.load(row(source, source_stride, i), align=FLOAT_BYTES) for i in range(lanes)]
            half = lanes // 2
            while half:
                low, high = _exchange(lanes, half)
                for i in range(lanes):
                    if not i & half:
                        a, b = rows[i], rows[i + half]
                        rows[i] = builder.shuffle_vector(a, b, low)
                        rows[i + half] = builder.shuffle_vector(a, b, high)
                half //= 2
            for i in range(lanes):
                builder.store(rows[i], row(target, target_stride, i), align=FLOAT_BYTES)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 4), codegen

    return transpose_block


def _exchange(lanes: int, half: int) -> tuple[ir.Constant, ir.Constant]:
    """Masks that build from rows (a, b) their left halves and their right halves, in squares of 2 `half`."""
    indices = ir.VectorType(ir.IntType(32), lanes)
    low = [i if not i & half else lanes + i - half for i in range(lanes)]
    high = [i + half if not i & half else lanes + i for i in range(lanes)]
    return ir.Constant(indices, low), ir.Constant(indices, high)


class _TileBuilder:
    """Emits one micro-kernel at the builder's position. The methods read as the loop nest they write."""

    def __init__(self, builder: ir.IRBuilder, rows: int, vectors: int, lanes: int) -> None:
        self.builder = builder
        self.rows, self.vectors, self.lanes = rows, vectors, lanes
        self.vector = ir.VectorType(_FLOAT, lanes)
        self.mask = ir.VectorType(ir.IntType(1), lanes)

    def emit(self, a, row_offsets, taps, tap_count, run, step, b, b_stride, init, init_stride, c, c_stride,
             valid_rows, valid_columns):  # fmt: skip
        build = self.builder
        # Rows past the edge repeat the last row: they read and write the same values at the same places.
        last = build.sub(valid_rows, _int(1))
        clamped = [self._minimum(_int(i), last) for i in range(self.rows)]
        a_rows = [self._shifted(a, self._load_int(row_offsets, row)) for row in clamped]
        init_rows = [self._shifted(init, build.mul(row, init_stride)) for row in clamped]
        c_rows = [self._shifted(c, build.mul(row, c_stride)) for row in clamped]
        masks = [self._mask(valid_columns, j) for j in range(self.vectors)]
        whole = build.icmp_signed("==", valid_columns, _int(self.vectors * self.lanes))
        accumulators = [
            [cgutils.alloca_once(build, self.vector) for _ in range(self.vectors)] for _ in range(self.rows)
        ]

        with build.if_else(whole) as (all_columns, some_columns):
            with all_columns:
                for i, j in self._cells():
                    build.store(self._load_vector(init_rows[i], j), accumulators[i][j])
            with some_columns:
                for i, j in self._cells():
                    build.store(self._load_masked(init_rows[i], j, masks[j]), accumulators[i][j])

        # Not unrolled: a turn has 16 multiply-adds already; two and four turns at once gained nothing.
        b_position = cgutils.alloca_once_value(build, b)
        a_position = cgutils.alloca_once_value(build, _int(0))
        with self._loop(tap_count) as tap:
            build.store(self._scaled(self._load_int(taps, tap)), a_position)
            with self._loop(run):
                self._multiply_add(a_rows, a_position, step, b_position, b_stride, accumulators)

        with build.if_else(whole) as (all_columns, some_columns):
            with all_columns:
                for i, j in self._cells():
                    self._store_vector(build.load(accumulators[i][j]), c_rows[i], j)
            with some_columns:
                for i, j in self._cells():
                    self._store_masked(build.load(accumulators[i][j]), c_rows[i], j, masks[j])

    def _multiply_add(self, a_rows, a_position, step, b_position, b_stride, accumulators):
        """One k: accumulators[i][j] += a[i] * b[j], then move on along both."""
        build = self.builder
        position, b = build.load(a_position), build.load(b_position)
        b_vectors = [self._load_vector(b, j) for j in range(self.vectors)]
        for i in range(self.rows):
            factor = self._broadcast(build.add(a_rows[i], position))
            for j in range(self.vectors):
                total = build.load(accumulators[i][j])
                build.store(build.call(self._fma(), [factor, b_vectors[j], total]), accumulators[i][j])
        build.store(build.add(position, self._scaled(step)), a_position)
        build.store(self._shifted(b, b_stride), b_position)

    def _cells(self):
        return [(i, j) for i in range(self.rows) for j in range(self.vectors)]

    @contextmanager
    def _loop(self, count):
        with cgutils.for_range(self.builder, count) as loop:
            yield loop.index

    def _fma(self):
        """fmuladd: fused where the machine can, multiply and add where it cannot."""
        return self._function("fmuladd", self.vector, [self.vector] * 3, f"v{self.lanes}f32")

    def _function(self, name, result, arguments, suffix):
        return cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(result, arguments), f"llvm.{name}.{suffix}"
        )

    def _minimum(self, a, b):
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def _scaled(self, floats):
        return self.builder.shl(floats, _int(2))

    def _shifted(self, address, floats):
        return self.builder.add(address, self._scaled(floats))

    def _load_int(self, table, index):
        address = self.builder.add(table, self.builder.shl(index, _int(3)))
        return self.builder.load(self.builder.inttoptr(address, _INT.as_pointer()))

    def _vector_pointer(self, address, j):
        address = self.builder.add(address, _int(j * self.lanes * FLOAT_BYTES))
        return self.builder.inttoptr(address, self.vector.as_pointer())

    def _load_vector(self, address, j):
        return self.builder.load(self._vector_pointer(address, j), align=FLOAT_BYTES)

    def _store_vector(self, value, address, j):
        self.builder.store(value, self._vector_pointer(address, j), align=FLOAT_BYTES)

    def _mask(self, valid_columns, j):
        """Which lanes of vector j lie before `valid_columns`."""
        lane = ir.VectorType(_INT, self.lanes)
        columns = ir.Constant(lane, [j * self.lanes + i for i in range(self.lanes)])
        return self.builder.icmp_signed("<", columns, self._splat(valid_columns, lane))

    def _load_masked(self, address, j, mask):
        function = self._function(
            "masked.load",
            self.vector,
            [self.vector.as_pointer(), ir.IntType(32), self.mask, self.vector],
            f"v{self.lanes}f32.p0",
        )
        zero = ir.Constant(self.vector, [0.0] * self.lanes)
        align = ir.Constant(ir.IntType(32), FLOAT_BYTES)
        return self.builder.call(function, [self._vector_pointer(address, j), align, mask, zero])

    def _store_masked(self, value, address, j, mask):
        function = self._function(
            "masked.store",
            ir.VoidType(),
            [self.vector, self.vector.as_pointer(), ir.IntType(32), self.mask],
            f"v{self.lanes}f32.p0",
        )
        align = ir.Constant(ir.IntType(32), FLOAT_BYTES)
        self.builder.call(function, [value, self._vector_pointer(address, j), align, mask])

    def _broadcast(self, address):
        pointer = self.builder.inttoptr(address, _FLOAT.as_pointer())
        return self._splat(self.builder.load(pointer, align=FLOAT_BYTES), self.vector)

    def _splat(self, scalar, vector_type):
        zero = ir.Constant(ir.IntType(32), 0)
        undefined = ir.Constant(vector_type, ir.Undefined)
        one = self.builder.insert_element(undefined, scalar, zero)
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(one, undefined, lanes)


def _int(value: int) -> ir.Constant:
    return ir.Constant(_INT, value)
