"""The register-blocked core of integer convolutions and dense layers, written as LLVM vector IR.

What `../vectors.py` is for floats. A tile of sums in int32 stays in registers from the first multiplication
on; vpdpbusd multiplies 64 uint8 by 64 int8 and adds each four products that lie side by side to one of 16
sums. What follows a sum (maximum over a pool's window, factor, rounding, limits, 8 bits) happens in registers
too: so a sum is never written to memory. `plain.py` has ordinary loops in its place.
"""

from __future__ import annotations

from contextlib import contextmanager

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # sums in a vector
QUAD = 4  # products that one instruction adds to one sum

_INT, _INT32, _BYTE, _FLOAT = ir.IntType(64), ir.IntType(32), ir.IntType(8), ir.FloatType()
_SUMS, _BYTES = ir.VectorType(_INT32, LANES), ir.VectorType(_BYTE, LANES * QUAD)
_FLOATS, _RESULT = ir.VectorType(_FLOAT, LANES), ir.VectorType(_BYTE, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)


def make_tile(rows: int, vectors: int, window: int, to_float: bool):
    """A micro-kernel for up to `rows` rows of x and `vectors` * 16 columns, as a Numba intrinsic:

    tile(x, x_offsets, taps, tap_count, steps, weight, bias, factor, y, y_offsets, units, columns,
         low, high, zero)

        for i in range(units):
            for j in range(columns):
                sums = [
                    bias[j] + sum(
                        x[x_offsets[r] + taps[t] + 4 * k + q] * weight[((t * steps + k) * width + j) * 4 + q]
                        for t in range(tap_count) for k in range(steps) for q in range(4)
                    )
                    for r in range(i * window, (i + 1) * window)
                ]
                y[y_offsets[i] + j] = min(max(rint(float32(max(sums)) * factor[j]), low), high) + zero

    where width = vectors * 16. All arguments but low and high (float32) are integers: addresses of x uint8,
    weight int8, bias int32, factor float32, y, and of int64 tables; offsets count bytes. to_float: y is
    float32, and neither rounded nor limited. Of weight, bias and factor all `width` columns are read.
    """

    @intrinsic
    def tile(typingctx, x, x_offsets, taps, tap_count, steps, weight, bias, factor, y, y_offsets, units,
             columns, low, high, zero):  # fmt: skip
        def codegen(context, builder, signature, args):
            _TileBuilder(builder, rows, vectors, window, to_float).emit(*args)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 12, types.float32, types.float32, types.intp), codegen

    return tile


class _TileBuilder:
    """Emits one micro-kernel at the builder's position. The methods read as the loop nest they write."""

    def __init__(self, builder: ir.IRBuilder, rows: int, vectors: int, window: int, to_float: bool) -> None:
        self.builder = builder
        self.rows, self.vectors, self.window, self.to_float = rows, vectors, window, to_float

    def emit(self, x, x_offsets, taps, tap_count, steps, weight, bias, factor, y, y_offsets, units, columns,
             low, high, zero):  # fmt: skip
        build = self.builder
        # Units past the edge repeat the last one: they read and write the same values at the same places.
        last = build.sub(units, _int(1))
        clamped = [self._minimum(_int(unit), last) for unit in range(self.rows // self.window)]
        x_rows = []
        for unit in clamped:
            first = build.mul(unit, _int(self.window))
            for i in range(self.window):
                offset = self._load(x_offsets, build.add(first, _int(i)), _INT)
                x_rows.append(build.add(x, offset))
        sums = [[cgutils.alloca_once(build, _SUMS) for _ in range(self.vectors)] for _ in x_rows]
        for j in range(self.vectors):
            start = self._load_vector(bias, j, _SUMS)
            for row in sums:
                build.store(start, row[j])

        weights = cgutils.alloca_once_value(build, weight)
        position = cgutils.alloca_once_value(build, _int(0))
        with self._loop(tap_count) as tap:
            build.store(self._load(taps, tap, _INT), position)
            with self._loop(steps):
                self._multiply_add(x_rows, position, weights, sums)

        results = self._results(sums, factor, low, high, zero)
        places = [build.add(y, self._load(y_offsets, unit, _INT)) for unit in clamped]
        whole = build.icmp_signed("==", columns, _int(self.vectors * LANES))
        with build.if_else(whole) as (all_columns, some_columns):
            with all_columns:
                for place, vectors in zip(places, results, strict=True):
                    for j, vector in enumerate(vectors):
                        build.store(vector, self._pointer(place, j, vector.type), align=1)
            with some_columns:
                masks = [self._mask(columns, j) for j in range(self.vectors)]
                for place, vectors in zip(places, results, strict=True):
                    for j, vector in enumerate(vectors):
                        self._store_masked(vector, self._pointer(place, j, vector.type), masks[j])

    def _multiply_add(self, x_rows, position, weights, sums):
        """Four k: sums[i][j] += x[i] * weight[j], then move on along both."""
        build = self.builder
        here, weight = build.load(position), build.load(weights)
        columns = [self._load_vector(weight, j, _BYTES) for j in range(self.vectors)]
        for i, row in enumerate(x_rows):
            quad = build.inttoptr(build.add(row, here), _INT32.as_pointer())
            factors = build.bitcast(self._splat(build.load(quad, align=1), _SUMS), _BYTES)
            for j in range(self.vectors):
                total = build.call(self._dot(), [build.load(sums[i][j]), factors, columns[j]])
                build.store(total, sums[i][j])
        build.store(build.add(here, _int(QUAD)), position)
        build.store(build.add(weight, _int(QUAD * LANES * self.vectors)), weights)

    def _results(self, sums, factor, low, high, zero):
        """Vectors to be stored, by unit: the maximum of its rows, times the factor, on the lattice."""
        build = self.builder
        factors = [self._load_vector(factor, j, _FLOATS) for j in range(self.vectors)]
        low, high = self._splat(low, _FLOATS), self._splat(high, _FLOATS)
        zeros = self._splat(build.trunc(zero, _INT32), _SUMS)
        results = []
        for first in range(0, self.rows, self.window):
            vectors = []
            for j in range(self.vectors):
                total = build.load(sums[first][j])
                for i in range(first + 1, first + self.window):
                    total = self._larger(total, build.load(sums[i][j]), build.icmp_signed)
                scaled = build.fmul(build.sitofp(total, _FLOATS), factors[j])
                if not self.to_float:
                    scaled = self._larger(scaled, low, build.fcmp_ordered)
                    scaled = build.select(build.fcmp_ordered("<", scaled, high), scaled, high)
                    steps = build.fptosi(build.call(self._rint(), [scaled]), _SUMS)
                    scaled = build.trunc(build.add(steps, zeros), _RESULT)
                vectors.append(scaled)
            results.append(vectors)
        return results

    def _dot(self):
        return self._function("x86.avx512.vpdpbusd.512", _SUMS, [_SUMS, _BYTES, _BYTES])

    def _rint(self):
        return self._function(f"rint.v{LANES}f32", _FLOATS, [_FLOATS])

    def _function(self, name, result, arguments):
        kind = ir.FunctionType(result, arguments)
        return cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.{name}")

    @contextmanager
    def _loop(self, count):
        with cgutils.for_range(self.builder, count) as loop:
            yield loop.index

    def _larger(self, a, b, compare):
        return self.builder.select(compare(">", a, b), a, b)

    def _minimum(self, a, b):
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def _load(self, table, index, kind):
        address = self.builder.add(table, self.builder.shl(index, _int(3)))
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()))

    def _pointer(self, address, j, kind):
        """Of vector j of that kind from an address on."""
        nbytes = kind.count * (1 if kind.element == _BYTE else 4)
        return self.builder.inttoptr(self.builder.add(address, _int(j * nbytes)), kind.as_pointer())

    def _load_vector(self, address, j, kind):
        return self.builder.load(self._pointer(address, j, kind), align=1)

    def _mask(self, columns, j):
        """Which lanes of vector j lie before `columns`."""
        lane = ir.VectorType(_INT, LANES)
        places = ir.Constant(lane, [j * LANES + i for i in range(LANES)])
        return self.builder.icmp_signed("<", places, self._splat(columns, lane))

    def _store_masked(self, vector, pointer, mask):
        kind = vector.type
        suffix = f"v{LANES}{'i8' if kind.element == _BYTE else 'f32'}.p0"
        arguments = [kind, kind.as_pointer(), _INT32, _MASK]
        function = self._function(f"masked.store.{suffix}", ir.VoidType(), arguments)
        self.builder.call(function, [vector, pointer, ir.Constant(_INT32, 1), mask])

    def _splat(self, scalar, kind):
        first = ir.Constant(_INT32, 0)
        undefined = ir.Constant(kind, ir.Undefined)
        one = self.builder.insert_element(undefined, scalar, first)
        return self.builder.shuffle_vector(one, undefined, ir.Constant(_SUMS, [0] * LANES))


def _int(value: int) -> ir.Constant:
    return ir.Constant(_INT, value)
