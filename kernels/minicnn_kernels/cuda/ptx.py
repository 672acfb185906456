"""Device functions from the text of one PTX instruction, and loads that Numba has no words for.

The door to Numba's code generator, which the simulator has not: only `instructions.py` imports this, and only
where kernels are compiled. There each function here has its name, its meaning and its counterpart in Python.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import sigutils
from numba.cuda import cgutils  # type: ignore[attr-defined]  # numba-cuda has it, its ancestor not
from numba.cuda.extending import intrinsic

__all__ = ["address", "instruction", "load", "load4", "shared_address", "store", "store4", "words"]

_REGISTER_CLASS = {types.int32: "r", types.uint32: "r", types.int64: "l", types.float32: "f"}
_SHARED = 3  # LLVM's number of the address space
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


def instruction(text: str, signature: str, *, stays: bool, touches_memory: bool) -> Any:
    """A device function that is `text`, where $0 is the first result; arguments follow the results.

    signature: Numba's, of int32, uint32, int64 and float32; a UniTuple for several results. stays: it is not
    moved into a branch, nor dropped; a whole warp has to meet there. touches_memory: nor is it moved across
    loads and stores.
    """
    argument_types, result_type = sigutils.normalize_signature(signature)
    results = _parts(result_type)
    constraints = [f"={_REGISTER_CLASS[part]}" for part in results]
    constraints += [_REGISTER_CLASS[part] for part in argument_types]
    constraints += ["~{memory}"] if touches_memory else []

    def typed(typingctx: Any, *arguments: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            parts = [context.get_value_type(part) for part in results]
            gives = (
                ir.VoidType() if not parts else parts[0] if len(parts) == 1 else ir.LiteralStructType(parts)
            )
            function = ir.FunctionType(gives, [context.get_value_type(part) for part in argument_types])
            assembly = ir.InlineAsm(
                function, text, ",".join(constraints), side_effect=stays or touches_memory
            )
            result = builder.call(assembly, values)
            if not parts:
                return context.get_dummy_value()
            if len(parts) == 1:
                return result
            return context.make_tuple(
                builder, signature.return_type, [builder.extract_value(result, i) for i in range(len(parts))]
            )

        return result_type(*argument_types), generate

    # Numba wants to see as many arguments as there are.
    names = ["typingctx", *(f"argument{i}" for i in range(len(argument_types)))]
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    setattr(typed, "__signature__", inspect.Signature(parameters))  # noqa: B010  (no attribute that mypy knows)
    return intrinsic(typed)


def _parts(result_type: Any) -> tuple[Any, ...]:
    if result_type == types.void:
        return ()
    return tuple(result_type) if isinstance(result_type, types.UniTuple) else (result_type,)


def _element(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """The pointer to element values[1] of array values[0]."""
    array = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=values[0])
    return builder.gep(array.data, [values[1]])


def _index_type(index: Any) -> Any:
    return types.int32 if index == types.int32 else types.int64


def _indexed(result: Callable[[Any], Any], generate: Callable) -> Any:
    """A device function of (array, index); result: its type for that of an element."""

    def typed(typingctx: Any, array: Any, index: Any) -> Any:
        return result(array.dtype)(array, _index_type(index)), generate

    return intrinsic(typed)


def _load(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    return builder.load(_element(context, builder, signature, values))


def _vector_load(element: Any) -> Callable:
    """Code that reads 16 bytes at once and gives their four parts of type `element` (None: the array's)."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        part = element or context.get_value_type(signature.args[0].dtype)
        vector = ir.VectorType(part, 4)
        pointer = builder.bitcast(_element(context, builder, signature, values), vector.as_pointer())
        loaded = builder.load(pointer, align=16)
        parts = [builder.extract_element(loaded, ir.Constant(_INT32, i)) for i in range(4)]
        return context.make_tuple(builder, signature.return_type, parts)

    return generate


def _address(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    return builder.ptrtoint(_element(context, builder, signature, values), _INT64)


def _shared_address(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    pointer = _element(context, builder, signature, values)
    shared = builder.addrspacecast(pointer, ir.PointerType(pointer.type.pointee, _SHARED))
    return builder.ptrtoint(shared, _INT32)


load: Any = _indexed(lambda dtype: dtype, _load)
load4: Any = _indexed(lambda dtype: types.UniTuple(dtype, 4), _vector_load(None))
words: Any = _indexed(lambda dtype: types.UniTuple(types.int32, 4), _vector_load(_INT32))
address: Any = _indexed(lambda dtype: types.int64, _address)
shared_address: Any = _indexed(lambda dtype: types.int32, _shared_address)


def _store(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Write an element."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], _element(context, builder, signature, values))
        return context.get_dummy_value()

    return types.void(array, _index_type(index), array.dtype), generate


def _store4(typingctx: Any, array: Any, index: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Write four elements at once."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = ir.VectorType(context.get_value_type(signature.args[0].dtype), 4)
        pointer = builder.bitcast(_element(context, builder, signature, values[:2]), vector.as_pointer())
        packed = ir.Constant(vector, ir.Undefined)
        for i, value in enumerate(values[2:]):
            packed = builder.insert_element(packed, value, ir.Constant(_INT32, i))
        builder.store(packed, pointer, align=16)
        return context.get_dummy_value()

    return types.void(array, _index_type(index), *[array.dtype] * 4), generate


store: Any = intrinsic(_store)
store4: Any = intrinsic(_store4)
