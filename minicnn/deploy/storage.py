"""Arrays in as few bytes as they allow: `encode` tries every form and keeps the shortest, `decode` reads it.

Forms: raw; or a palette of the distinct values and an index into it per element. Values or indices are
written for every element, or only for those that are not 0, with the number of zeros before each (Han et al.
2016, section 2); and every stream of whole numbers at a fixed width or in a Huffman code. What comes back is
equal to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np

import minicnn_kernels as kernels

MOST_ELEMENTS = 1 << 28  # of one array: what a damaged file may ask memory for
_LARGEST_PALETTE = 4096
_DTYPES = ("float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "int64", "bool")
_GAP_BITS = range(2, 9)


class StorageError(ValueError):
    """Stored bytes do not describe an array."""


@dataclass(frozen=True)
class Stored:
    """An array as it lies in a file: how to read it, in plain values, and its bytes."""

    form: dict[str, Any]
    blobs: tuple[bytes, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the blobs. The form is written beside them, see `container.py`."""
        return sum(map(len, self.blobs))


class _Stream(NamedTuple):
    """A row of whole numbers as bytes, and how to read them."""

    form: dict[str, Any]
    blob: bytes


def encode(array: np.ndarray, *, huffman: bool = True) -> Stored:
    """`array` in the shortest form. huffman: whether Huffman codes may be used.

    Raises StorageError for a dtype that files do not hold.
    """
    if array.dtype.name not in _DTYPES:
        raise StorageError(f"expected an array of {', '.join(_DTYPES)}, got {array.dtype}")
    head = {"shape": list(array.shape), "dtype": array.dtype.name}
    flat = np.ascontiguousarray(array).reshape(-1)
    form: dict[str, Any]
    raw = Stored(head | {"form": "raw"}, (_little(flat).tobytes(),))
    bits = flat.view(f"u{flat.dtype.itemsize}")  # distinct to the bit: -0 is not 0, and NaN equals itself
    candidates = [raw]
    places = np.flatnonzero(bits)
    if 0 < places.size < flat.size:
        for gap_bits in _GAP_BITS:
            gap, spelled = _spelled(flat, places, gap_bits, huffman)
            form = {"form": "nonzero", "gap": gap.form}
            candidates.append(Stored(head | form, (_little(spelled).tobytes(), gap.blob)))
    palette, indices = np.unique(bits, return_inverse=True)
    if 0 < palette.size <= min(_LARGEST_PALETTE, flat.size):
        table, size = _little(palette.view(flat.dtype)).tobytes(), palette.size
        index = _stream(indices, size, huffman)
        form = {"form": "dense", "palette": size, "index": index.form}
        candidates.append(Stored(head | form, (table, index.blob)))
        if 0 < places.size < flat.size:  # then 0 is the first of the palette, for bits are sorted as numbers
            for gap_bits in _GAP_BITS:
                gap, spelled = _spelled(indices, places, gap_bits, huffman)
                index = _stream(spelled, size, huffman)
                form = {"form": "sparse", "palette": size, "zero": 0, "gap": gap.form, "index": index.form}
                candidates.append(Stored(head | form, (table, gap.blob, index.blob)))
    return min(candidates, key=lambda stored: stored.nbytes + len(repr(stored.form)))


def _spelled(
    flat: np.ndarray, places: np.ndarray, gap_bits: int, huffman: bool
) -> tuple[_Stream, np.ndarray]:
    """The number of zeros before each element at `places`, and the elements.

    A gap too long for a number of `gap_bits` is filled with zeros that are spelled out.
    """
    gaps = np.diff(places, prepend=-1) - 1
    longest = 2**gap_bits - 1
    skipped = gaps // (longest + 1)  # zeros spelled out before each element
    total = int(skipped.sum()) + places.size
    spelled_gaps, spelled = np.full(total, longest), np.zeros(total, flat.dtype)
    ends = np.cumsum(skipped + 1) - 1
    spelled_gaps[ends] = gaps % (longest + 1)
    spelled[ends] = flat[places]
    return _stream(spelled_gaps, longest + 1, huffman), spelled


def _stream(numbers: np.ndarray, size: int, huffman: bool) -> _Stream:
    """Whole numbers below `size`, packed at a fixed width or in a Huffman code, whichever is shorter."""
    k = kernels.backend("reference")
    width = max(1, (size - 1).bit_length())
    packed = _Stream({"bits": width, "count": numbers.size}, k.pack_bits(numbers, width).tobytes())
    if not huffman:
        return packed
    lengths = k.huffman_lengths(np.bincount(numbers, minlength=size))
    code = k.pack_bits(lengths, 4).tobytes() + k.huffman_encode(numbers, lengths).tobytes()
    coded = _Stream({"words": size, "count": numbers.size}, code)
    return coded if len(coded.blob) < len(packed.blob) else packed


def decode(stored: Stored) -> np.ndarray:
    """The array. Raises StorageError if form and bytes do not fit each other, whatever they hold."""
    try:
        return _decode(stored.form, stored.blobs)
    except StorageError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as problem:
        raise StorageError(f"stored array: {type(problem).__name__}: {problem}") from problem


def _decode(form: dict[str, Any], blobs: tuple[bytes, ...]) -> np.ndarray:
    shape = tuple(_whole(size, "a size") for size in form["shape"])
    if form["dtype"] not in _DTYPES:
        raise StorageError(f"stored array: unknown dtype {form['dtype']!r}")
    dtype = np.dtype(form["dtype"])
    count = prod(shape)
    if count > MOST_ELEMENTS or len(shape) > 8:
        raise StorageError(f"stored array: shape {shape} is larger than any model's")
    if form["form"] == "raw":
        (data,) = blobs
        if len(data) != count * dtype.itemsize:
            raise StorageError(f"stored array: {shape} {dtype} in {len(data)} bytes")
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
    if form["form"] == "nonzero":
        data, gap = blobs
        spelled = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)
        array = np.zeros(count, dtype)
        array[_places(form["gap"], gap, spelled.size, count)] = spelled
        return array.reshape(shape)
    size = _whole(form["palette"], "palette")
    palette = np.frombuffer(blobs[0], dtype.newbyteorder("<")).astype(dtype)
    if palette.size != size or not 0 < size <= _LARGEST_PALETTE:
        raise StorageError(f"stored array: a palette of {size} values in {len(blobs[0])} bytes")
    if form["form"] == "dense":
        (_, index) = blobs
        indices = _numbers(form["index"], index, size, exactly=count)
    elif form["form"] == "sparse":
        (_, gap, index) = blobs
        spelled = _numbers(form["index"], index, size)
        places = _places(form["gap"], gap, spelled.size, count)
        zero = _whole(form["zero"], "zero")
        indices = np.full(count, min(zero, palette.size), np.uint16)
        indices[places] = spelled
    else:
        raise StorageError(f"stored array: unknown form {form['form']!r}")
    return palette[indices].reshape(shape)


def _places(form: dict[str, Any], blob: bytes, exactly: int, count: int) -> np.ndarray:
    """Where the `exactly` elements stand that are written, in an array of `count`."""
    gaps = _numbers(form, blob, 2 ** max(_GAP_BITS), exactly=exactly)
    places = np.cumsum(gaps.astype(np.int64) + 1) - 1
    if places.size and places[-1] >= count:
        raise StorageError(f"stored array: element {places[-1]} of an array of {count}")
    return places


def _numbers(form: dict[str, Any], blob: bytes, below: int, exactly: int | None = None) -> np.ndarray:
    """What `_stream` wrote. exactly: how many there must be."""
    count = _whole(form["count"], "count")
    if count > 8 * len(blob) or (exactly is not None and count != exactly):
        raise StorageError(f"stored array: {count} numbers in {len(blob)} bytes, expected {exactly}")
    data, k = np.frombuffer(blob, np.uint8), kernels.backend("cpu")
    if "words" in form:
        words = _whole(form["words"], "words")
        head = -(-words // 2)
        if words > _LARGEST_PALETTE or head > data.size:
            raise StorageError(f"stored array: a code of {words} words in {len(blob)} bytes")
        lengths = k.unpack_bits(data[:head], 4, words).astype(np.uint8)
        numbers = k.huffman_decode(data[head:], lengths, count)
    else:
        bits = _whole(form["bits"], "bits")
        if not 1 <= bits <= 16:
            raise StorageError(f"stored array: numbers of {bits} bits")
        numbers = k.unpack_bits(data, bits, count)
    if numbers.size and int(numbers.max()) >= below:
        raise StorageError(f"stored array: the number {int(numbers.max())} where {below - 1} is the last")
    return numbers


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise StorageError(f"stored array: {what} is {value!r}, expected a whole number")
    return value


def _little(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
