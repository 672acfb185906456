"""The frame of a `.mcnn` file: a header in JSON and arrays, each part with its length and checksum.

    8 bytes   89 4D 43 4E 4E 0D 0A 0A: not text, and spoilt by a transfer that changes line ends
    uint32    version of the format
    uint32    bytes of the header, compressed by zlib
    uint32    CRC-32 of the header as it stands
    header    JSON: {"meta": anything plain, "arrays": {name: form}, "blobs": [[bytes, CRC-32], ...]}
    blobs     one after the other, in the order of the arrays

Numbers are little-endian. How an array becomes a form and blobs is in `storage.py`, what meta says in the
files that use this one. Nothing in a file is code, and no more memory is taken than limits allow.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minicnn.deploy.storage import MOST_ELEMENTS, StorageError, Stored, decode, encode
from minicnn.serialization import replacing

MAGIC = b"\x89MCNN\r\n\n"
VERSION = 1
_START = struct.Struct("<III")
_LARGEST_HEADER = 1 << 26  # decompressed
_PROBLEMS = (ValueError, TypeError, KeyError, AttributeError, StopIteration, RecursionError)
_BLOBS = {"raw": 1, "dense": 2, "sparse": 3, "nonzero": 2}


class FileError(ValueError):
    """A file is no intact `.mcnn` file; the message says why and what to do."""


def write(
    path: str | os.PathLike[str], meta: Any, arrays: Mapping[str, np.ndarray], *, huffman: bool = True
) -> int:
    """Write a file, at once or not at all, and return its size in bytes.

    meta: dicts, lists, strings, numbers, None. huffman: whether arrays may be Huffman-coded.
    """
    data = to_bytes(meta, arrays, huffman=huffman)
    with replacing(path) as file:
        file.write(data)
    return len(data)


def read(path: str | os.PathLike[str]) -> tuple[Any, dict[str, np.ndarray]]:
    """(meta, arrays) of a file. Raises FileError if it is not intact, OSError if it can't be opened."""
    return from_bytes(Path(path).read_bytes(), os.fspath(path))


def to_bytes(meta: Any, arrays: Mapping[str, np.ndarray], *, huffman: bool = True) -> bytes:
    """The bytes of a file."""
    stored = {name: encode(np.asarray(array), huffman=huffman) for name, array in arrays.items()}
    blobs = [blob for entry in stored.values() for blob in entry.blobs]
    header = {
        "meta": meta,
        "arrays": {name: entry.form for name, entry in stored.items()},
        "blobs": [[len(blob), zlib.crc32(blob)] for blob in blobs],
    }
    text = zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)
    return b"".join([MAGIC, _START.pack(VERSION, len(text), zlib.crc32(text)), text, *blobs])


def from_bytes(data: bytes, name: str = "data") -> tuple[Any, dict[str, np.ndarray]]:
    """(meta, arrays) of the bytes of a file. Raises FileError if they are not intact."""
    try:
        meta, stored = _parts(data)
        arrays: dict[str, np.ndarray] = {}
        elements = 0
        for key, entry in stored.items():
            arrays[key] = decode(entry)
            elements += arrays[key].size
            if elements > MOST_ELEMENTS:
                raise FileError(f"its arrays have more than {MOST_ELEMENTS} elements")
        return meta, arrays
    except _PROBLEMS as problem:
        raise _told(name, problem) from problem


def stored_parts(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Stored]]:
    """(meta, the arrays as they lie in a file). Raises FileError if it is not intact."""
    try:
        return _parts(Path(path).read_bytes())
    except _PROBLEMS as problem:
        raise _told(os.fspath(path), problem) from problem


def _told(name: str, problem: Exception) -> FileError:
    """What is wrong with the file `name`, in words."""
    reason = str(problem)
    if not isinstance(problem, (FileError, StorageError)):
        reason = f"its header makes no sense: {type(problem).__name__} {problem}"
    return FileError(
        f"{name} is no intact .mcnn file: {reason}; expected one that `minicnn deploy` wrote, copy it anew"
    )


def _parts(data: bytes) -> tuple[Any, dict[str, Stored]]:
    header, position = _header(data)
    stored = {}
    lengths = iter(header["blobs"])
    for key, form in header["arrays"].items():
        blobs = []
        for _ in range(_BLOBS[form["form"]]):
            length, checksum = next(lengths)
            blob = data[position : position + length]
            if length < 0 or len(blob) != length:
                raise FileError(f"it ends inside of '{key}'")
            if zlib.crc32(blob) != checksum:
                raise FileError(f"'{key}' has another checksum than it was written with")
            blobs.append(blob)
            position += length
        stored[key] = Stored(form, tuple(blobs))
    if position != len(data) or next(lengths, None) is not None:
        raise FileError(f"its parts take {position} bytes, but it has {len(data)}")
    return header["meta"], stored


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header, and where the blobs begin."""
    first = len(MAGIC) + _START.size
    if data[: len(MAGIC)] != MAGIC:
        raise FileError("it does not begin like one")
    if len(data) < first:
        raise FileError("it ends before the header")
    version, length, checksum = _START.unpack_from(data, len(MAGIC))
    if version != VERSION:
        raise FileError(f"it has version {version} of the format, and this minicnn reads version {VERSION}")
    text = data[first : first + length]
    if len(text) != length or zlib.crc32(text) != checksum:
        raise FileError("its header is damaged or cut off")
    try:
        unpacking = zlib.decompressobj()
        plain = unpacking.decompress(text, _LARGEST_HEADER)
    except zlib.error as problem:
        raise FileError(f"its header cannot be unpacked ({problem})") from problem
    if unpacking.unconsumed_tail or not unpacking.eof:
        raise FileError(f"its header is cut off, or longer than {_LARGEST_HEADER} bytes")
    header = json.loads(plain)
    if not isinstance(header, dict) or not isinstance(header["arrays"], dict):
        raise FileError("its header is no table of arrays")
    return header, first + length
