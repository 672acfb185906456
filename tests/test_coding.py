"""Bits and Huffman codes: what goes in comes out, as short as theory says; damage is told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minicnn_kernels as kernels

BACKENDS = [kernels.backend(name) for name in kernels.available_backends()]
every_backend = pytest.mark.parametrize("k", BACKENDS, ids=kernels.available_backends())
reference = kernels.backend("reference")


@given(st.integers(1, 16), st.data())
def test_packed_numbers_come_back(bits, data):
    values = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40)), np.uint16)
    packed = reference.pack_bits(values, bits)
    assert packed.size == -(-values.size * bits // 8)
    np.testing.assert_array_equal(reference.unpack_bits(packed, bits, values.size), values)


def test_too_few_bytes_are_told():
    with pytest.raises(ValueError, match="9 numbers of 4 bits do not fit into 4 bytes"):
        reference.unpack_bits(np.zeros(4, np.uint8), 4, 9)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 300), max_size=200))
def test_symbols_come_back(symbols):
    symbols = np.array(symbols, np.int64)
    lengths = reference.huffman_lengths(np.bincount(symbols, minlength=301))
    data = reference.huffman_encode(symbols, lengths)
    for k in BACKENDS:
        np.testing.assert_array_equal(k.huffman_decode(data, lengths, symbols.size), symbols)


def test_the_code_is_as_short_as_shannon_allows():
    symbols = np.minimum(np.random.default_rng(0).geometric(0.3, 20_000), 40)
    counts = np.bincount(symbols)
    shares = counts[counts > 0] / symbols.size
    entropy = -(shares * np.log2(shares)).sum()
    bits = 8 * reference.huffman_encode(symbols, reference.huffman_lengths(counts)).size / symbols.size
    assert entropy <= bits < entropy + 0.1


def test_words_are_never_longer_than_15_bits():
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])  # the counts whose tree is deepest
    lengths = reference.huffman_lengths(np.array(fibonacci))
    assert lengths.max() == 15
    assert (0.5 ** lengths.astype(float)).sum() <= 1
    symbols = np.arange(40)
    data = reference.huffman_encode(symbols, lengths)
    np.testing.assert_array_equal(reference.huffman_decode(data, lengths, 40), symbols)


def test_a_single_symbol_has_one_bit():
    lengths = reference.huffman_lengths(np.array([0, 7, 0]))
    assert lengths.tolist() == [0, 1, 0]
    assert reference.huffman_encode(np.ones(7, int), lengths).size == 1


def test_a_symbol_without_a_word_is_told():
    with pytest.raises(ValueError, match="has no code word"):
        reference.huffman_encode(np.array([0, 1]), np.array([1, 0], np.uint8))


@every_backend
def test_damage_is_told(k):
    lengths = reference.huffman_lengths(np.array([5, 3, 2]))
    data = reference.huffman_encode(np.array([0, 1, 2, 0]), lengths)
    with pytest.raises(ValueError, match="ends or is damaged at symbol"):
        k.huffman_decode(data, lengths, 400)
    with pytest.raises(ValueError, match="no Huffman code"):
        k.huffman_decode(data, np.array([1, 1, 1], np.uint8), 4)
    with pytest.raises(ValueError, match="no Huffman code"):
        k.huffman_decode(data, np.array([16, 1], np.uint8), 4)
    with pytest.raises(ValueError, match="no Huffman code"):
        k.huffman_decode(data, np.zeros(3, np.uint8), 4)
    with pytest.raises(ValueError, match="at symbol 0 of 4"):
        k.huffman_decode(np.array([255], np.uint8), np.array([2], np.uint8), 4)


@every_backend
@settings(max_examples=200)
@given(
    data=st.binary(max_size=30), lengths=st.lists(st.integers(0, 16), max_size=8), count=st.integers(0, 50)
)
def test_any_bytes_are_decoded_or_refused(k, data, lengths, count):
    try:
        symbols = k.huffman_decode(np.frombuffer(data, np.uint8), np.array(lengths, np.uint8), count)
    except ValueError:
        return
    assert symbols.size == count
    assert (symbols < max(len(lengths), 1)).all()
