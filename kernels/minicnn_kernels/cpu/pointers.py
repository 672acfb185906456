"""Memory by address: an array over what lies there.

Kernels pass addresses and sizes as integers, so that one compilation serves every shape and layout. The cast
of an integer to a pointer is all that Numba can't spell; here it stands alone.
"""

from __future__ import annotations

from numba import carray, types
from numba.extending import intrinsic

from minicnn_kernels.cpu.compiler import kernel

FLOAT_BYTES, INT_BYTES = 4, 8


def _pointer_to(dtype):
    @intrinsic
    def pointer(typingctx, address):
        pointer_type = types.CPointer(dtype)

        def codegen(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(pointer_type))

        return pointer_type(types.intp), codegen

    return pointer


_float_pointer = _pointer_to(types.float32)
_int_pointer = _pointer_to(types.int64)
_byte_pointer = _pointer_to(types.uint8)


@kernel
def floats(address, count):
    """`count` float32 at an address, as an array: LLVM vectorizes loops over arrays."""
    return carray(_float_pointer(address), (count,))


@kernel
def integers(address, count):
    """`count` int64 at an address, as an array."""
    return carray(_int_pointer(address), (count,))


@kernel
def octets(address, count):
    """`count` uint8 at an address, as an array."""
    return carray(_byte_pointer(address), (count,))


@kernel
def load_int(address):
    """The int64 at an address."""
    return integers(address, 1)[0]
