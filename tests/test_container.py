"""The frame of .mcnn files: whole, or refused with a reason; never a crash, a hang or a wrong answer."""

from __future__ import annotations

import json
import random
import struct
import zlib

import numpy as np
import pytest

from minicnn.deploy import container
from minicnn.deploy.container import FileError, from_bytes, read, to_bytes, write

rng = np.random.default_rng(0)
META = {"format": "test", "classes": ["a", "ö"], "nested": {"x": [1, 2.5, None]}}
ARRAYS = {
    "weight": np.where(rng.random((40, 50)) < 0.05, rng.integers(1, 9, (40, 50)), 0).astype(np.float32),
    "bias": rng.standard_normal(40).astype(np.float32),
    "scale": np.array(0.5, np.float32),
    "codes": rng.integers(-7, 8, (20, 20)).astype(np.int8),
}
DATA = to_bytes(META, ARRAYS)


def with_header(header):
    """A file whose checksums are right and whose header is this one."""
    text = zlib.compress(json.dumps(header).encode())
    return container.MAGIC + struct.pack("<III", container.VERSION, len(text), zlib.crc32(text)) + text


def test_what_is_written_is_read(tmp_path):
    size = write(tmp_path / "a.mcnn", META, ARRAYS)
    assert (tmp_path / "a.mcnn").stat().st_size == size == len(DATA)
    meta, arrays = read(tmp_path / "a.mcnn")
    assert meta == META
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def test_without_huffman_codes_the_same_comes_back():
    meta, arrays = from_bytes(to_bytes(META, ARRAYS, huffman=False))
    np.testing.assert_array_equal(arrays["weight"], ARRAYS["weight"])
    assert meta == META


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.mcnn"
    write(path, META, ARRAYS)
    with pytest.raises(ValueError, match="complex"):
        write(path, META, {"x": np.zeros(2, complex)})
    assert path.read_bytes() == DATA
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not begin like one"),
        (DATA[:10], "ends before the header"),
        (DATA[:60], "header is damaged or cut off"),
        (DATA[:-1], "ends inside of 'codes'"),
        (DATA + b"x", "its parts take"),
        (DATA.replace(b"\r\n", b"\n"), "does not begin like one"),
        (DATA[:8] + b"\x07" + DATA[9:], "version 7"),
        (DATA[:-5] + b"\0" + DATA[-4:], "'codes' has another checksum"),
        (with_header([]), "no table of arrays"),
        (with_header({}), "KeyError"),
        (with_header({"arrays": {"a": {"form": "raw"}}, "blobs": [], "meta": 0}), "StopIteration"),
        (with_header({"arrays": {"a": {"form": "raw"}}, "blobs": [[-1, 0]], "meta": 0}), "ends inside"),
        (with_header({"arrays": {"a": 3}, "blobs": [], "meta": 0}), "TypeError"),
        (with_header({"arrays": {"a": {"form": "raw", "shape": [9**9], "dtype": "int64"}},
                      "blobs": [[0, 0]], "meta": 0}), "larger than any model"),
    ],
)  # fmt: skip
def test_damage_is_told_with_a_reason(data, reason):
    with pytest.raises(FileError, match=reason):
        from_bytes(data)


def test_a_header_that_unpacks_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(container, "_LARGEST_HEADER", 1000)
    with pytest.raises(FileError, match="longer than 1000 bytes"):
        from_bytes(with_header({"arrays": {}, "blobs": [], "meta": "x" * 5000}))


def mutated(draws):
    """DATA with a few bytes changed, dropped or doubled; half of the time every checksum is made right."""
    header, position = container._header(DATA)
    parts = [bytearray(json.dumps(header["meta"]).encode()), bytearray(json.dumps(header["arrays"]).encode())]
    for length, _ in header["blobs"]:
        parts.append(bytearray(DATA[position : position + length]))
        position += length
    whole = draws.random() < 0.5
    target = bytearray(DATA) if whole else draws.choice(parts)
    for _ in range(draws.randint(1, 4)):
        at = draws.randrange(max(len(target), 1))
        match draws.randrange(4):
            case 0:
                target[at : at + 1] = bytes([draws.randrange(256)])
            case 1:
                del target[at : at + draws.randint(1, 9)]
            case 2:
                target[at:at] = target[max(0, at - 5) : at]
            case 3:
                target[at : at + 1] = draws.choice([b"9", b"-", b"[", b'"', b"1e9", b"null"])
    if whole:
        return bytes(target)
    blobs = [[len(blob), zlib.crc32(blob)] for blob in parts[2:]]
    text = (
        b'{"meta":' + parts[0] + b',"arrays":' + parts[1] + b',"blobs":' + json.dumps(blobs).encode() + b"}"
    )
    text = zlib.compress(text, 1)
    start = container.MAGIC + struct.pack("<III", container.VERSION, len(text), zlib.crc32(text))
    return b"".join([start, text, *parts[2:]])


def fuzz(count, seed):
    draws = random.Random(seed)
    refused = 0
    for _ in range(count):
        try:
            from_bytes(mutated(draws))
        except FileError:
            refused += 1
    return refused


def test_two_thousand_mutated_files_are_read_or_refused():
    assert fuzz(2_000, seed=0) > 1_000


@pytest.mark.slow
def test_a_hundred_thousand_mutated_files_are_read_or_refused():
    assert fuzz(100_000, seed=1) > 50_000
