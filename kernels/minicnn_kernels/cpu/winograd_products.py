"""Matrix products between Winograd's transforms: register tiles whose operands lie at constant distances.

Transformed tiles are kept as (position, chunk of LANES channels, tile, LANES), products as (position, tile,
panel's width). So within a chunk every distance is known when the code is compiled: a register tile needs one
address for A, one for B and one for C, where the general one of `microkernel.py` needs one for each row.
With 16 channels, that is 16 turns of the inner loop, its start took as long as its work.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minicnn_kernels.cpu.blocks import LANES, NARROW, WIDE
from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.microkernel import FLOAT_BYTES

_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_INT = ir.IntType(64)

# Rows of register tiles of WIDE and NARROW columns, by lanes. Tiles of images: as many sums as registers
# hold. Channels, in the weight's gradient: they must divide a chunk.
_TILES = {16: (8, 16), 8: (6, 12), 4: (3, 6)}
_CHANNELS = {16: (8, 16), 8: (4, 8), 4: (2, 4)}
WIDE_TILES, NARROW_TILES = _TILES[LANES]
WIDE_CHANNELS, NARROW_CHANNELS = _CHANNELS[LANES]


def _make_product(rows: int, width: int, *, row: int, step: int, accumulate: bool):
    """C = init + A B for `rows` x `width` floats, as a Numba intrinsic:

    product(a, chunk, run, depth, b, init, c)

        for i in range(rows):
            for j in range(width):
                c[i * width + j] = init[j] + sum(
                    a[k // run * chunk + k % run * step + i * row] * b[k * width + j] for k in range(depth)
                )

    a, b, init, c are addresses of float32. With `accumulate` c itself is in the place of init.
    """

    @intrinsic
    def product(typingctx, a, chunk, run, depth, b, init, c):
        def codegen(context, builder, signature, args):
            _emit(builder, rows, width // LANES, row, step, accumulate, *args)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7), codegen

    return product


def _emit(build, rows, vectors, row, step, accumulate, a, chunk, run, depth, b, init, c):
    fma = cgutils.get_or_insert_function(
        build.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32"
    )
    width = vectors * LANES
    cells = [(i, j) for i in range(rows) for j in range(vectors)]

    def pointer(address, floats, kind=_VECTOR):
        return build.inttoptr(build.add(address, _int(FLOAT_BYTES * floats)), kind.as_pointer())

    sums = {}
    for i, j in cells:
        source = pointer(c, i * width + j * LANES) if accumulate else pointer(init, j * LANES)
        sums[i, j] = cgutils.alloca_once(build, _VECTOR)
        build.store(build.load(source, align=FLOAT_BYTES), sums[i, j])
    chunk_start, b_position = cgutils.alloca_once_value(build, a), cgutils.alloca_once_value(build, b)
    a_position = cgutils.alloca_once_value(build, a)
    left = cgutils.alloca_once_value(build, depth)
    chunks = build.sdiv(build.sub(build.add(depth, run), _int(1)), run)
    with cgutils.for_range(build, chunks):
        build.store(build.load(chunk_start), a_position)
        count = build.select(build.icmp_signed("<", build.load(left), run), build.load(left), run)
        build.store(build.sub(build.load(left), count), left)
        with cgutils.for_range(build, count):
            here, there = build.load(a_position), build.load(b_position)
            b_vectors = [build.load(pointer(there, j * LANES), align=FLOAT_BYTES) for j in range(vectors)]
            for i in range(rows):
                number = _splat(build, build.load(pointer(here, i * row, ir.FloatType()), align=FLOAT_BYTES))
                for j in range(vectors):
                    build.store(build.call(fma, [number, b_vectors[j], build.load(sums[i, j])]), sums[i, j])
            build.store(build.add(here, _int(FLOAT_BYTES * step)), a_position)
            build.store(build.add(there, _int(FLOAT_BYTES * width)), b_position)
        build.store(build.add(build.load(chunk_start), build.mul(chunk, _int(FLOAT_BYTES))), chunk_start)
    for i, j in cells:
        build.store(build.load(sums[i, j]), pointer(c, i * width + j * LANES), align=FLOAT_BYTES)


def _splat(build, number):
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    one = build.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return build.shuffle_vector(
        one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    )


def _int(value: int) -> ir.Constant:
    return ir.Constant(_INT, value)


_wide_tiles = _make_product(WIDE_TILES, WIDE, row=LANES, step=1, accumulate=False)
_narrow_tiles = _make_product(NARROW_TILES, NARROW, row=LANES, step=1, accumulate=False)
_wide_channels = _make_product(WIDE_CHANNELS, WIDE, row=1, step=LANES, accumulate=True)
_narrow_channels = _make_product(NARROW_CHANNELS, NARROW, row=1, step=LANES, accumulate=True)


@kernel
def multiply_tiles(v, chunk, tiles, channels, weight, wide, init, products):
    """products (tiles, width) = init + V weight, at one position.

    V: chunks of (tiles, LANES), `chunk` floats apart; weight (channels, width); init (width,). wide: the
    width is WIDE, else NARROW. Whole register tiles are read and written: there must be room for their rows.
    """
    if wide:
        for i in range(0, tiles, WIDE_TILES):
            place = products + FLOAT_BYTES * i * WIDE
            _wide_tiles(v + FLOAT_BYTES * i * LANES, chunk, LANES, channels, weight, init, place)
    else:
        for i in range(0, tiles, NARROW_TILES):
            place = products + FLOAT_BYTES * i * NARROW
            _narrow_tiles(v + FLOAT_BYTES * i * LANES, chunk, LANES, channels, weight, init, place)


@kernel
def add_tiles(v, chunk, tiles, channels, grad, wide, sums):
    """sums (channels, width) += V^T grad, at one position: grad (tiles, width), the rest as above."""
    for first in range(0, channels, LANES):
        here = v + FLOAT_BYTES * (first // LANES) * chunk
        stop = min(LANES, channels - first)
        if wide:
            for i in range(0, stop, WIDE_CHANNELS):
                place = sums + FLOAT_BYTES * (first + i) * WIDE
                _wide_channels(here + FLOAT_BYTES * i, 0, tiles, tiles, grad, 0, place)
        else:
            for i in range(0, stop, NARROW_CHANNELS):
                place = sums + FLOAT_BYTES * (first + i) * NARROW
                _narrow_channels(here + FLOAT_BYTES * i, 0, tiles, tiles, grad, 0, place)
