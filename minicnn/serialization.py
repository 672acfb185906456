"""State files: nested dicts and lists of tensors, arrays, numbers and strings, in one npz without pickle.

`save` replaces a file at once or not at all; `load` reads only numbers and JSON, whatever a file holds.
The second half is the safetensors format: a flat dict of tensors that other frameworks read, too.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import minicnn_kernels as kernels
from minicnn.tensor import Tensor

_FORMAT = "minicnn.state.1"


def save(state: Any, path: str | os.PathLike) -> None:
    """Write `state` to `path`; whoever reads the path at any moment sees the old file or the new one.

    state: dicts (keys: strings, numbers, None), lists, tuples, tensors, arrays, numbers, strings, None.
    Raises TypeError naming the place of anything else, and OSError if the file can't be written; then the old
    file is as it was.
    """
    arrays: list[np.ndarray] = []
    structure = json.dumps({"format": _FORMAT, "state": _encoded(state, arrays, "state")}).encode()
    entries: dict[str, Any] = {"structure": np.frombuffer(structure, np.uint8)}
    entries |= {str(i): array for i, array in enumerate(arrays)}
    with replacing(path) as file:
        np.savez(file, **entries)  # each with a CRC-32


def load(path: str | os.PathLike) -> Any:
    """What `save` wrote, equal bit for bit and in type.

    Raises ValueError for a file that is truncated, changed or not from `save`, OSError if it can't be opened.
    """
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                if sum(info.file_size for info in entries.values()) > os.fstat(file.fileno()).st_size:
                    raise ValueError("its entries claim to be larger than the file")
                if "structure" not in entries:
                    raise ValueError("it has no entry 'structure'")
                structure = json.loads(_read_array(archive, entries, "structure").tobytes())
                if structure["format"] != _FORMAT:
                    raise ValueError(f"its format is {structure['format']!r}, not {_FORMAT!r}")
                return _decoded(structure["state"], archive, entries)
        except MemoryError:
            raise
        except Exception as problem:  # damage makes the readers of zip, npy and JSON raise a dozen kinds
            raise ValueError(
                f"load: {os.fspath(path)} is no intact state file ({problem}); expected one that "
                f"minicnn.save wrote: copy it anew, or take an earlier one"
            ) from problem


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends, and vanishes if the block raises.

    Its bytes reach the disk (fsync) before it takes the place: a crash leaves the old or the new file, whole.
    Raises OSError naming the path and what to do if it can't be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as problem:
        raise OSError(
            problem.errno,
            f"cannot write {path} ({problem.strerror or problem}); what was there is untouched: "
            f"free some space, or choose a folder that exists and is writable",
        ) from problem


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut. Windows opens no folders and needs no such call."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# -- structure as JSON ----------------------------------------------------------------------------
# Numbers, strings, None and lists stand for themselves (Python's JSON keeps NaN, infinity, -0.0 and every
# bit of a float). All else is a dict with one entry: {"dict": pairs}, {"tuple": entries}, or, with the name
# of an entry of the npz, {"array": name}, {"tensor": name}, {"scalar": name}.


def _encoded(value: Any, arrays: list[np.ndarray], place: str) -> Any:
    kind = _array_kind(value)
    if kind:
        array = kernels.to_host(value.data if kind == "tensor" else value)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"save: {place} has dtype {array.dtype}; expected numbers")
        arrays.append(array)
        return {kind: str(len(arrays) - 1)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        for key in value:
            if _array_kind(key) or not (key is None or isinstance(key, (bool, int, float, str))):
                raise TypeError(
                    f"save: {place} has the key {key!r}; expected a string, a Python number or None"
                )
        return {"dict": [[k, _encoded(v, arrays, f"{place}[{k!r}]")] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        entries = [_encoded(entry, arrays, f"{place}[{i}]") for i, entry in enumerate(value)]
        return entries if isinstance(value, list) else {"tuple": entries}
    raise TypeError(
        f"save: {place} is a {type(value).__name__}; expected dicts, lists, tuples, tensors, arrays, "
        f"numbers, strings or None"
    )


def _array_kind(value: Any) -> str | None:
    if isinstance(value, Tensor):
        return "tensor"
    if isinstance(value, np.generic):  # before Python's numbers: np.float64 is a float, too
        return "scalar"
    return "array" if isinstance(value, (np.ndarray, kernels.DeviceArray)) else None


def _decoded(value: Any, archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> Any:
    if isinstance(value, list):
        return [_decoded(entry, archive, entries) for entry in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "dict":
        return {key: _decoded(entry, archive, entries) for key, entry in content}
    if kind == "tuple":
        return tuple(_decoded(entry, archive, entries) for entry in content)
    array = _read_array(archive, entries, content)
    if kind == "array":
        return array
    if kind == "scalar":
        return array[()]
    if kind == "tensor":
        return Tensor(array)
    raise ValueError(f"its structure has an unknown kind {kind!r}")


def _read_array(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], name: str) -> np.ndarray:
    """Entry `name`, once: a second mention in the structure is an error, so memory is bounded by the file."""
    content = archive.read(entries.pop(name))  # checks the CRC-32
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.kind not in "fiub":
        raise ValueError(f"its entry {name!r} has dtype {dtype}")
    flat = np.frombuffer(content, dtype, offset=stream.tell())
    return flat.astype(dtype.newbyteorder("=")).reshape(shape, order="F" if fortran_order else "C")


# -- safetensors ----------------------------------------------------------------------------------
# 8 bytes: the header's length, little endian. The header: JSON {name: {"dtype", "shape", "data_offsets"}},
# padded with spaces. The data: C-ordered, little endian, one tensor after the other without gaps.

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype.newbyteorder("="): name for name, dtype in _DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # the limit of the format's own implementation


def save_safetensors(tensors: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write a flat dict of tensors or arrays, for example a state_dict, in the safetensors format.

    Atomic as `save` is. Raises TypeError for names that are no strings, and dtypes that the format has not.
    """
    header: dict[str, Any] = {}
    arrays = []
    begin = 0
    for name, value in tensors.items():
        array = kernels.to_host(value.data if isinstance(value, Tensor) else value)
        if not isinstance(name, str) or name == "__metadata__" or array.dtype not in _NAMES:
            raise TypeError(
                f"save_safetensors: {name!r} is {array.dtype}; expected a string, not '__metadata__', "
                f"and a dtype of {', '.join(map(str, _NAMES))}"
            )
        end = begin + array.nbytes
        dtype = _NAMES[array.dtype]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, end]}
        arrays.append(array.astype(_DTYPES[dtype], copy=False))
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for array in arrays:
            file.write(array.tobytes())


def load_safetensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; its metadata is not read.

    Raises ValueError for a file that is truncated, inconsistent, or holds dtypes that the engine has not.
    """
    with open(path, "rb") as file:
        try:
            size = os.fstat(file.fileno()).st_size - 8
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _LONGEST_HEADER):
                raise ValueError(f"its header claims {length} bytes, the file has {size} for it")
            header = json.loads(file.read(length), object_pairs_hook=_without_repetition)
            if not isinstance(header, dict):
                raise ValueError("its header is no JSON object")
            header.pop("__metadata__", None)
            layout = sorted(
                (_checked_entry(name, entry) for name, entry in header.items()), key=lambda e: e[1:3]
            )
            position = 0
            for name, begin, end, _, _ in layout:
                if begin != position:
                    raise ValueError(f"{name!r} begins at byte {begin} of the data, expected {position}")
                position = end
            if position != size - length:
                raise ValueError(f"its tensors need {position} bytes, the file has {size - length}")
            arrays = {
                name: np.fromfile(file, dtype, math.prod(shape)).reshape(shape)
                for name, _, _, dtype, shape in layout
            }
            return {
                name: Tensor(arrays[name].astype(arrays[name].dtype.newbyteorder("="), copy=False))
                for name in header
            }
        except MemoryError:
            raise
        except Exception as problem:  # as in `load`
            raise ValueError(
                f"load_safetensors: {os.fspath(path)} can't be read ({problem}); expected an intact "
                f"safetensors file: copy it anew, or convert it to F32"
            ) from problem


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name appears twice in its header")
    return result


def _checked_entry(name: str, entry: dict[str, Any]) -> tuple[str, int, int, np.dtype, tuple[int, ...]]:
    """(name, begin, end, dtype, shape) of one header entry, consistent in itself."""
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"{name!r} has dtype {entry['dtype']!r}, expected one of {', '.join(_DTYPES)}")
    dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (*shape, begin, end)):
        raise ValueError(
            f"{name!r} has the shape {list(shape)} and offsets {begin}, {end}: expected integers >= 0"
        )
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"{name!r} of shape {list(shape)} and {entry['dtype']} can't fill {end - begin} bytes"
        )
    return name, begin, end, dtype, shape
