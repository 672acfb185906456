"""Arrays in few bytes: equal to the bit, no longer than their forms allow, and damage is told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from minicnn.deploy.storage import StorageError, Stored, decode, encode

rng = np.random.default_rng(0)


def same(a, b):
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    assert a.tobytes() == np.ascontiguousarray(b).tobytes()


DTYPES = st.sampled_from([np.float32, np.float64, np.int8, np.uint8, np.int32, np.int64, np.bool_])


@settings(max_examples=150)
@given(
    arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)), st.booleans()
)
def test_what_goes_in_comes_out(array, huffman):
    same(decode(encode(array, huffman=huffman)), array)


@settings(max_examples=50)
@given(st.integers(0, 2000), st.integers(1, 40), st.floats(0, 1), st.booleans(), st.integers(0, 99))
def test_sparse_and_shared_weights_come_back(size, values, density, huffman, seed):
    draws = np.random.default_rng(seed)
    weights = draws.standard_normal(values).astype(np.float32)[draws.integers(0, values, size)]
    weights[draws.random(size) > density] = 0
    same(decode(encode(weights, huffman=huffman)), weights)


def test_signs_of_zero_and_payloads_of_nan_survive():
    array = np.array([0.0, -0.0, np.nan, 1.0] * 50, np.float32)
    array.view(np.uint32)[2] = 0x7FC00123
    same(decode(encode(array)), array)


def test_random_floats_stay_raw():
    array = rng.standard_normal((30, 20)).astype(np.float32)
    stored = encode(array)
    assert stored.form["form"] == "raw"
    assert stored.nbytes == array.nbytes


def test_a_pruned_and_shared_layer_shrinks_as_deep_compression_says():
    weights = rng.standard_normal(32).astype(np.float32)[rng.integers(0, 32, (300, 784))]
    weights[rng.random(weights.shape) > 0.08] = 0
    stored = encode(weights)
    assert stored.form["form"] == "sparse"
    shares = np.array([0.92, 0.08])
    mask_bits = -(shares * np.log2(shares)).sum()
    ideal = weights.size * (mask_bits + 0.08 * 5) / 8
    assert ideal < stored.nbytes < 1.1 * ideal + 200
    same(decode(stored), weights)
    fixed = encode(weights, huffman=False)
    assert stored.nbytes < fixed.nbytes < weights.nbytes / 10


def test_pruned_floats_of_many_values_take_their_own_bytes_and_the_way_to_them():
    weights = rng.standard_normal((300, 400)).astype(np.float32)
    weights[rng.random(weights.shape) > 0.1] = 0
    stored = encode(weights)
    assert stored.form["form"] == "nonzero"
    assert stored.nbytes < np.count_nonzero(weights) * (4 + 6 / 8)
    same(decode(stored), weights)


def test_four_bits_take_half_a_byte():
    stored = encode(rng.integers(-7, 8, (64, 64)).astype(np.int8), huffman=False)
    assert stored.nbytes == 64 * 64 // 2 + 15


def test_dtypes_that_no_file_holds_are_refused():
    with pytest.raises(StorageError, match="complex"):
        encode(np.zeros(3, np.complex64))


SPARSE = encode(np.where(rng.random(2000) < 0.03, rng.integers(1, 9, 2000), 0).astype(np.float32))

PRUNED = encode(np.where(rng.random(2000) < 0.03, rng.standard_normal(2000), 0).astype(np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [10**9, 10]}, "larger than any model"),
        ({"shape": [3]}, "of an array of 3"),
        ({"shape": [-1]}, "whole number"),
        ({"dtype": "object"}, "unknown dtype"),
        ({"form": "zip"}, "unknown form"),
        ({"palette": 3}, "palette of 3"),
        ({"zero": True}, "whole number"),
        ({"gap": {"bits": 40, "count": 1}}, "expected"),
        ({"index": {"count": 10**9, "bits": 1}}, "numbers in"),
        ({"index": {}}, "KeyError"),
        ({"index": None}, "TypeError"),
    ],
)
def test_a_wrong_form_is_told(change, message):
    assert SPARSE.form["form"] == "sparse"
    with pytest.raises(StorageError, match=message):
        decode(Stored(SPARSE.form | change, SPARSE.blobs))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"shape": [3]}, "of an array of 3"), ({"gap": {"bits": 3, "count": 9}}, "expected")],
)
def test_a_wrong_form_of_pruned_floats_is_told(change, message):
    assert PRUNED.form["form"] == "nonzero"
    with pytest.raises(StorageError, match=message):
        decode(Stored(PRUNED.form | change, PRUNED.blobs))


@pytest.mark.parametrize("stored", [SPARSE, PRUNED], ids=["sparse", "nonzero"])
@settings(max_examples=300)
@given(st.data())
def test_damaged_bytes_give_an_array_or_an_error(stored, data):
    blobs = [bytearray(blob) for blob in stored.blobs]
    for _ in range(data.draw(st.integers(1, 3))):
        blob = blobs[data.draw(st.integers(0, len(blobs) - 1))]
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        array = decode(Stored(stored.form, tuple(map(bytes, blobs))))
    except StorageError:
        return
    assert array.shape == (2000,)
