"""Winograd's transforms as vector code: small constant matrices times squares of vectors of channels.

`winograd.py` says what they are for. Each is emitted as straight-line LLVM IR, in which zeros and ones of a
matrix cost nothing; the names below end in the edge of the tile of outputs, 2 or 4.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minicnn_kernels.cpu.blocks import LANES
from minicnn_kernels.cpu.microkernel import FLOAT_BYTES

_VECTOR = ir.VectorType(ir.FloatType(), LANES)


def make_transform(matrix, *, at_edges: bool = False, added: bool = False):
    """target = matrix @ source @ matrix^T for a square of vectors, as a Numba intrinsic:

    transform(source, source_row, source_column, target, target_row, target_column, relu)

    source and target are addresses of float32, the rest distances of rows and columns in floats. Each element
    of the squares is a vector of LANES floats (channels). relu: 1 if negative results shall become 0, NaN
    staying NaN. added: the result is added to what stands in target, after that.

    at_edges: the square reaches beyond an image, and in place of relu stand
    zeros, first_row, end_row, first_column, end_column: a vector of zeros at the address `zeros` is read
    instead of the elements outside these rows and columns.
    """
    matrix = np.asarray(matrix, np.float64)

    if at_edges:

        @intrinsic
        def transform(typingctx, source, source_row, source_column, target, target_row, target_column,
                      zeros, first_row, end_row, first_column, end_column):  # fmt: skip
            def codegen(context, builder, signature, args):
                _Transform(builder, matrix).emit(*args[:6], inside=args[6:])
                return context.get_dummy_value()

            return types.void(*[types.intp] * 11), codegen

    else:

        @intrinsic
        def transform(typingctx, source, source_row, source_column, target, target_row, target_column, relu):
            def codegen(context, builder, signature, args):
                _Transform(builder, matrix).emit(*args[:6], relu=args[6], added=added)
                return context.get_dummy_value()

            return types.void(*[types.intp] * 7), codegen

    return transform


class _Transform:
    """Emits one transform at the builder's position."""

    def __init__(self, builder: ir.IRBuilder, matrix: np.ndarray) -> None:
        self.builder, self.matrix = builder, matrix

    def emit(self, source, source_row, source_column, target, target_row, target_column,
             *, relu=None, inside=None, added=False):  # fmt: skip
        build, size = self.builder, self.matrix.shape[1]
        addresses = [
            [self._place(source, source_row, source_column, i, j) for j in range(size)] for i in range(size)
        ]
        if inside is not None:
            addresses = self._zeros_outside(addresses, *inside)
        square = [[build.load(self._pointer(cell), align=FLOAT_BYTES) for cell in row] for row in addresses]
        lowest = self._constant(-np.inf)
        if relu is not None:
            lowest = build.select(build.trunc(relu, ir.IntType(1)), self._constant(0), lowest)
        columns = [
            [self._combine(row, column) for row in self.matrix] for column in zip(*square, strict=True)
        ]
        for i, row in enumerate(zip(*columns, strict=True)):
            for j, coefficients in enumerate(self.matrix):
                value = self._combine(coefficients, row)
                if relu is not None:
                    value = build.select(build.fcmp_ordered("<", value, lowest), lowest, value)
                place = self._pointer(self._place(target, target_row, target_column, i, j))
                if added:
                    value = build.fadd(value, build.load(place, align=FLOAT_BYTES))
                build.store(value, place, align=FLOAT_BYTES)

    def _zeros_outside(self, addresses, zeros, first_row, end_row, first_column, end_column):
        build, size = self.builder, len(addresses)

        def within(i, first, end):
            return build.and_(
                build.icmp_signed("<=", first, first.type(i)), build.icmp_signed("<", end.type(i), end)
            )

        rows = [within(i, first_row, end_row) for i in range(size)]
        columns = [within(j, first_column, end_column) for j in range(size)]
        return [
            [build.select(build.and_(rows[i], columns[j]), addresses[i][j], zeros) for j in range(size)]
            for i in range(size)
        ]

    def _place(self, start, row, column, i, j):
        build = self.builder
        floats = build.add(build.mul(row, row.type(i)), build.mul(column, column.type(j)))
        return build.add(start, build.mul(floats, row.type(FLOAT_BYTES)))

    def _pointer(self, address):
        return self.builder.inttoptr(address, _VECTOR.as_pointer())

    def _combine(self, coefficients, vectors):
        """The sum of coefficient * vector; it starts with a term that needs no negation."""
        build = self.builder
        terms = [pair for pair in zip(coefficients, vectors, strict=True) if pair[0] != 0]
        terms.sort(key=lambda pair: pair[0] != 1)
        (factor, total), *terms = terms
        if factor != 1:
            total = build.fmul(total, self._constant(factor))
        for factor, term in terms:
            if factor == 1:
                total = build.fadd(total, term)
            elif factor == -1:
                total = build.fsub(total, term)
            else:
                product = build.fmul(term, self._constant(factor), flags=("contract",))
                total = build.fadd(product, total, flags=("contract",))
        return total

    def _constant(self, value):
        return ir.Constant(_VECTOR, [float(np.float32(value))] * LANES)


# B^T, G and A^T of Lavin and Gray's section 4.1 (outputs 2 x 2) and 4.3 (4 x 4).
_INPUT_2 = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]
_WEIGHT_2 = [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]
_OUTPUT_2 = [[1, 1, 1, 0], [0, 1, -1, -1]]
_INPUT_4 = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_WEIGHT_4 = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_OUTPUT_4 = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]

input_2, input_2_at_edges = make_transform(_INPUT_2), make_transform(_INPUT_2, at_edges=True)
input_4, input_4_at_edges = make_transform(_INPUT_4), make_transform(_INPUT_4, at_edges=True)
weight_2, weight_4 = make_transform(_WEIGHT_2), make_transform(_WEIGHT_4)
output_2, output_2_added = make_transform(_OUTPUT_2), make_transform(_OUTPUT_2, added=True)
output_4, output_4_added = make_transform(_OUTPUT_4), make_transform(_OUTPUT_4, added=True)
# The transposes, for gradients: a tile's gradient dY becomes A dY A^T, the weight's is G^T (...) G.
_GRAD_2, _WEIGHT_GRAD_2 = np.array(_OUTPUT_2).T, np.array(_WEIGHT_2).T
grad_2, grad_2_at_edges = make_transform(_GRAD_2), make_transform(_GRAD_2, at_edges=True)
weight_grad_2 = make_transform(_WEIGHT_GRAD_2)
