"""The idx file format, in which MNIST and its kin are published.

`read_idx` turns one file, gzipped or plain, into an array, and trusts nothing in it: every number of
the header is held against the bytes that are there before memory is asked for. The datasets built
from such files are in `datasets.py`.

Format (Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", 1998): two zero
bytes, one byte for the element type, one for the number of dimensions, each dimension as big-endian
uint32, then the elements in C order, big-endian.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterable
from importlib.resources.abc import Traversable
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_NDIM = 8  # the format allows 255, NumPy 64; nobody publishes more than 4
_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_MAX_RATIO = 1032  # a deflate stream expands no further (zlib, "Maximum Expansion Factor")
_CHUNK = 1 << 20


class IdxError(ValueError):
    """A file is not the idx file it should be; the message says what, where, and what to do."""


def read_idx(path: str | os.PathLike[str] | Traversable, *, ndim: int | None = None) -> np.ndarray:
    """The array in an idx file, gzipped or plain (told apart by content, not by name).

    ndim: how many dimensions it must have. Returns an array in native byte order.
    Memory: the array and a small buffer, whatever the header claims.
    Raises IdxError for a foreign, truncated, overlong or corrupt file, OSError if it cannot be opened.
    """
    source: Any = Path(path) if isinstance(path, (str, os.PathLike)) else path
    with source.open("rb") as file:
        compressed = file.read(2) == _GZIP_MAGIC
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if not compressed:
            return _read_array(file, size, ndim, source)
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _read_array(unpacked, size * _DEFLATE_MAX_RATIO, ndim, source)
        except (EOFError, OSError, zlib.error) as error:
            raise IdxError(
                f"{source}: not a complete gzip file ({error}). Is the download finished? Fetch it again"
            ) from error


def _read_array(file: BufferedIOBase, available: int, ndim: int | None, source: Any) -> np.ndarray:
    """The array in `file`, which holds at most `available` bytes."""
    dtype, shape = _read_header(file, ndim, source)
    header = 4 + 4 * len(shape)
    expected = math.prod(shape) * dtype.itemsize
    if header + expected > available:
        raise IdxError(
            f"{source}: the header promises {expected:,} bytes of {_describe(shape, dtype)}, but at most "
            f"{max(available - header, 0):,} can be in the file: it is truncated or its header is damaged"
        )

    # NumPy's memory becomes real only as it is written, so a gzip file that lies costs no more than it holds.
    array = np.empty(shape, dtype)
    target = array.reshape(-1).view(np.uint8).data
    filled = 0
    while filled < expected:
        count = file.readinto(target[filled : filled + _CHUNK])
        if not count:
            raise IdxError(
                f"{source}: truncated: the header promises {expected:,} bytes of "
                f"{_describe(shape, dtype)}, the file ends after {filled:,}. Fetch it again"
            )
        filled += count
    if file.read(1):  # for gzip this also compares the checksum
        raise IdxError(
            f"{source}: more bytes follow the {expected:,} of {_describe(shape, dtype)} that the header "
            f"promises: the header is damaged, or several files were joined"
        )
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_header(file: BufferedIOBase, ndim: int | None, source: Any) -> tuple[np.dtype, tuple[int, ...]]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES:
        raise IdxError(
            f"{source}: not an idx file: expected it to begin with 00 00, an element type "
            f"(08, 09 or 0b to 0e) and the number of dimensions, got {magic.hex(' ') or 'an empty file'}"
        )
    dimensions = magic[3]
    if not 1 <= dimensions <= _MAX_NDIM or ndim not in (None, dimensions):
        wanted = f"1 to {_MAX_NDIM}" if ndim is None else ndim
        raise IdxError(
            f"{source}: expected {wanted} dimensions, the header says {dimensions}. "
            f"Images have 3 (idx3), labels 1 (idx1): are two files mixed up?"
        )
    raw = file.read(4 * dimensions)
    if len(raw) < 4 * dimensions:
        raise IdxError(f"{source}: truncated inside its header, after {4 + len(raw)} bytes. Fetch it again")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4"))
    if 0 in shape:
        raise IdxError(f"{source}: holds no elements: the header gives the shape {shape}")
    return np.dtype(_DTYPES[magic[2]]), shape


def _describe(shape: Iterable[int], dtype: np.dtype) -> str:
    return f"{' x '.join(map(str, shape))} {dtype.newbyteorder('=')}"
