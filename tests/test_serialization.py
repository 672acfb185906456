"""State files: what comes back, what is refused, and what survives a failing disk."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn import serialization
from minicnn.serialization import load, load_safetensors, save, save_safetensors
from minicnn.tensor import Tensor, tensor

STATE = {
    "model": {"conv.weight": tensor(np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2))},
    "optimizer": {"state": {0: {"step": 3, "buffer": np.float64([1, math.nan])}}, "betas": (0.9, 0.999)},
    "random": {"seed": 2**70, "offset": -1},
    "none": None,
    "flags": [True, False, np.bool_(True), np.float32(0.1)],
    "numbers": [math.inf, -math.inf, -0.0, 5e-324, 0.1],
    "text": "naïve \ud800 'quoted' \0",
    "empty": [{}, [], (), np.zeros((0, 3), np.int8), np.int64(7)],
}


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        assert [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    elif isinstance(a, (Tensor, np.ndarray, np.generic)):
        left, right = np.asarray(a), np.asarray(b)
        assert (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
    elif isinstance(a, float):
        # A number keeps its bits; which of the many NaN it was is not kept.
        assert struct.pack("<d", a) == struct.pack("<d", b) or (math.isnan(a) and math.isnan(b))
    else:
        assert a == b


def test_state_comes_back_equal_bit_for_bit_and_in_type(tmp_path):
    save(STATE, tmp_path / "state.npz")
    assert_same(STATE, load(tmp_path / "state.npz"))


def test_loaded_arrays_can_be_written_to(tmp_path):
    save(np.ones(3), tmp_path / "state")
    load(tmp_path / "state")[0] = 2


def test_channels_last_memory_is_saved_by_value(tmp_path):
    view = np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2).transpose(3, 2, 0, 1)
    save(view, tmp_path / "state")
    np.testing.assert_array_equal(load(tmp_path / "state"), view)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
keys = st.text() | st.integers() | st.none()
arrays = st.builds(
    lambda shape, dtype, seed: np.random.default_rng(seed).integers(0, 2, shape).astype(dtype),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from(["float32", "float64", "int8", "int64", "bool", "uint8"]),
    st.integers(0, 9),
)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        scalars | arrays | arrays.map(Tensor),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(keys, inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
        ),
        max_leaves=8,
    )
)
def test_any_nested_state_comes_back(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("state") / "file"
    save(state, path)
    assert_same(state, load(path))


@pytest.mark.parametrize(
    ("state", "where"),
    [
        ({"a": [1, {2}]}, r"state\['a'\]\[1\] is a set"),
        ({"f": print}, r"state\['f'\] is a builtin_function_or_method"),
        (np.array([None]), "state has dtype object"),
        (np.array(["x"]), "state has dtype <U1"),
        ({(1, 2): 3}, r"state has the key \(1, 2\)"),
        ({np.int64(1): 3}, "state has the key"),
    ],
)
def test_what_can_not_be_saved_is_named_with_its_place(tmp_path, state, where):
    with pytest.raises(TypeError, match=where):
        save(state, tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    save({"a": np.arange(10), "b": 1}, whole)
    content = whole.read_bytes()
    for length in range(0, len(content), 7):
        cut.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut is no intact state file .* copy it anew"):
            load(cut)


def test_a_changed_byte_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "state"
    state = {"a": np.arange(6, dtype=np.float32), "b": [1, "x"]}
    save(state, path)
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        try:
            loaded = load(path)
        except ValueError:
            continue
        assert_same(state, loaded)  # time stamps and the like


def write_npz(path, structure, **arrays):
    text = np.frombuffer(json.dumps(structure).encode(), np.uint8)
    np.savez(path, structure=text, **arrays)


@pytest.mark.parametrize(
    "structure",
    [
        [],
        {"format": "another"},
        {"format": "minicnn.state.1"},
        {"format": "minicnn.state.1", "state": {"array": "7"}},
        {"format": "minicnn.state.1", "state": [{"array": "a"}, {"array": "a"}]},
        {"format": "minicnn.state.1", "state": {"array": ["a"]}},
        {"format": "minicnn.state.1", "state": {"dict": 3}},
        {"format": "minicnn.state.1", "state": {"dict": [[[], 3]]}},
        {"format": "minicnn.state.1", "state": {"unknown": "a"}},
        {"format": "minicnn.state.1", "state": {"array": "a", "tensor": "a"}},
    ],
)
def test_a_structure_that_makes_no_sense_is_refused(tmp_path, structure):
    write_npz(tmp_path / "state.npz", structure, a=np.ones(2))
    with pytest.raises(ValueError, match="no intact state file"):
        load(tmp_path / "state.npz")


def test_pickled_entries_are_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    path = tmp_path / "state.npz"
    state = {"format": "minicnn.state.1", "state": {"array": "a"}}
    write_npz(path, state, a=np.array([Trap()], object))
    with pytest.raises(ValueError, match="no intact state file"):
        load(path)
    assert not (tmp_path / "trapped").exists()


def test_an_entry_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    path = tmp_path / "state.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("structure.npy", bytes(10_000_000))
    with pytest.raises(ValueError, match="larger than the file"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY", bytes(1000), b"PK\x05\x06" + bytes(18)])
def test_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "state"
    path.write_bytes(content)
    for read in (load, load_safetensors):
        with pytest.raises(ValueError, match=r"state .*copy it anew"):
            read(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    for read in (load, load_safetensors):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "nothing")


# -- a failing disk -------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "state"
    save({"a": 1}, path)
    program = (
        "import resource, sys\n"
        "import numpy as np\n"
        "from minicnn import serialization\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        f"    serialization.{{function}}({{{{'a': np.zeros(1_000_000)}}}}, {str(path)!r})\n"
        "except OSError as error:\n"
        "    sys.exit(str(error))\n"
    )
    for function in ("save", "save_safetensors"):
        run = subprocess.run(
            [sys.executable, "-c", program.format(function=function)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert run.returncode == 1
        assert f"cannot write {path}" in run.stderr
        assert "what was there is untouched" in run.stderr
        assert "Traceback" not in run.stderr
        assert load(path) == {"a": 1}
        assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot write .*nowhere.*choose a folder that exists"):
        save({}, tmp_path / "nowhere" / "state")


def test_an_error_in_the_middle_keeps_the_old_file(tmp_path):
    path = tmp_path / "state"
    path.write_bytes(b"old")

    def write_half():
        with serialization.replacing(path) as file:
            file.write(b"new")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_bytes_are_on_the_disk_before_they_get_the_name(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("fsync"))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("replace"), replace(*paths)))
    save({"a": 1}, tmp_path / "state")
    assert events == ["fsync", "replace", "fsync"]


# -- safetensors ----------------------------------------------------------------------------------

TENSORS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2).transpose(3, 2, 0, 1),
    "count": np.array(7, np.int64),
    "none": np.zeros((0, 3), np.float64),
    "mask": np.array([True, False, True]),
    "small": np.array([-1, 2], np.int8),
    "pixels": np.array([[255]], np.uint8),
    "i16": np.array([-300], np.int16),
    "i32": np.array([1 << 30], np.int32),
}


def test_safetensors_come_back(tmp_path):
    save_safetensors({**TENSORS, "tensor": tensor([1.0])}, tmp_path / "t")
    loaded = load_safetensors(tmp_path / "t")
    assert list(loaded) == [*TENSORS, "tensor"]
    for name, array in TENSORS.items():
        assert_same(np.ascontiguousarray(array).reshape(array.shape), loaded[name].numpy())


def test_the_safetensors_package_reads_our_files_and_we_read_its(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    save_safetensors(TENSORS, tmp_path / "ours")
    dense = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in TENSORS.items()}
    package.save_file(dense, tmp_path / "theirs", metadata={"format": "np"})
    theirs, ours = package.load_file(tmp_path / "ours"), load_safetensors(tmp_path / "theirs")
    assert set(theirs) == set(ours) == set(TENSORS)
    for name, array in dense.items():
        assert_same(array, theirs[name])
        assert_same(array, ours[name].numpy())


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({"a": np.ones(2, np.complex64)}, "complex64"),
        ({"a": np.ones(2, np.float16)}, "float16"),
        ({"__metadata__": np.ones(2)}, "__metadata__"),
        ({1: np.ones(2)}, "1 is float64"),
    ],
)
def test_what_safetensors_can_not_hold_is_refused(tmp_path, tensors, problem):
    with pytest.raises(TypeError, match=problem):
        save_safetensors(tensors, tmp_path / "t")


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ({"a": entry(offsets=(0, 4))}, "can't fill 4 bytes"),
        ({"a": entry(offsets=(4, 12))}, "begins at byte 4"),
        ({"a": entry(shape=(1 << 62, 4), offsets=(0, 1 << 66))}, "the file has 8"),
        ({"a": entry(shape=(-2,), offsets=(0, -8))}, "integers >= 0"),
        ({"a": entry(shape=(2.0,))}, "integers >= 0"),
        ({"a": entry(shape=(True, 2))}, "integers >= 0"),
        ({"a": entry(), "b": entry()}, "begins at byte 0 of the data, expected 8"),
        ({"a": entry(shape=(1,), offsets=(0, 4))}, "need 4 bytes, the file has 8"),
        ({"a": entry(dtype="BF16", shape=(4,))}, "'BF16', expected one of"),
        ({"a": {"dtype": "F32"}}, "shape"),
        ({"a": 3}, "can't be read"),
        ([], "no JSON object"),
        (3, "no JSON object"),
    ],
)
def test_an_inconsistent_safetensors_header_is_refused(tmp_path, header, problem):
    text = json.dumps(header).encode()
    (tmp_path / "t").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(ValueError, match=problem):
        load_safetensors(tmp_path / "t")


def test_a_repeated_name_and_a_header_longer_than_the_file_are_refused(tmp_path):
    text = b'{"a":1,"a":2}'
    (tmp_path / "t").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(ValueError, match="twice"):
        load_safetensors(tmp_path / "t")
    (tmp_path / "t").write_bytes(struct.pack("<Q", 1 << 60) + text)
    with pytest.raises(ValueError, match="claims"):
        load_safetensors(tmp_path / "t")


def test_a_safetensors_file_cut_short_anywhere_is_refused(tmp_path):
    save_safetensors(TENSORS, tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for length in range(0, len(content), 5):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(ValueError, match="cut can't be read"):
            load_safetensors(tmp_path / "cut")
