"""The two ceilings of the roofline: multiply-adds that touch no memory, and memory that is only streamed.

Williams, Waterman and Patterson 2009: a kernel that does `intensity` floating-point operations for each byte
it moves cannot run faster than min(peak, intensity x bandwidth). `bench/roofline.py` times these kernels.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.cpu.lanes import LANES

# Independent sums: two units with a latency of 4 or 5 cycles need 10 in flight, and 16 registers hold 12.
CHAINS = 12
TASKS = 64
_CHUNK = 1 << 16  # floats of a triad that one task streams


@intrinsic
def _multiply_add(typingctx, steps, factor, addend):
    """The total of CHAINS vectors of sums, each `steps` times sum = sum * factor + addend, in registers."""

    def codegen(context, builder, signature, args):
        steps, factor, addend = args
        vector = ir.VectorType(ir.FloatType(), LANES)
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{LANES}f32"
        )
        factor, addend = _splat(builder, factor, vector), _splat(builder, addend, vector)
        # Equal starts would let the optimizer keep one chain of the twelve.
        starts = [ir.Constant(vector, [float(chain + 1)] * LANES) for chain in range(CHAINS)]
        sums = [cgutils.alloca_once_value(builder, start) for start in starts]
        with cgutils.for_range(builder, steps):
            for place in sums:
                builder.store(builder.call(fma, [builder.load(place), factor, addend]), place)
        total = builder.load(sums[0])
        for place in sums[1:]:
            total = builder.fadd(total, builder.load(place))
        result = builder.extract_element(total, ir.Constant(ir.IntType(32), 0))
        for lane in range(1, LANES):
            part = builder.extract_element(total, ir.Constant(ir.IntType(32), lane))
            result = builder.fadd(result, part)
        return result

    return types.float32(types.intp, types.float32, types.float32), codegen


def _splat(builder, scalar, vector):
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, undefined, lanes)


def multiply_add_flops(steps: int) -> int:
    """Floating-point operations of `multiply_add` with `steps`."""
    return 2 * CHAINS * LANES * steps * TASKS


@kernel
def _one_task(steps, factor, addend):
    return _multiply_add(steps, factor, addend)


@kernel(parallel=True)
def multiply_add(steps, factor, addend, totals):
    """Multiply-adds in registers alone, on all threads. totals: (TASKS,), so that the work is not dropped."""
    for task in prange(TASKS):
        totals[task] = _one_task(steps, factor, addend)


@kernel(parallel=True)
def triad(a, b, c, factor):
    """a = b + factor * c (McCalpin's STREAM): two streams read, one written, on all threads."""
    for task in prange((a.size + _CHUNK - 1) // _CHUNK):
        first = np.int64(task) * _CHUNK
        out, left, right = a[first : first + _CHUNK], b[first : first + _CHUNK], c[first : first + _CHUNK]
        for i in range(out.size):
            out[i] = left[i] + factor * right[i]
