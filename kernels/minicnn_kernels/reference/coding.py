"""Whole numbers in few bits: packing at a fixed width, and canonical Huffman codes.

Bits fill bytes from the least significant one on. A Huffman code is known by the lengths of its code words
(0: the symbol does not occur); words of equal length are given out in the order of the symbols, so lengths
are all that a file has to hold (as in RFC 1951, section 3.2.2).
"""

from __future__ import annotations

import heapq

import numpy as np

__all__ = ["huffman_decode", "huffman_encode", "huffman_lengths", "pack_bits", "unpack_bits"]

LONGEST = 15  # bits of a code word: a decoder's table of all words has 32768 entries


def pack_bits(values, bits):
    """Numbers from 0 to 2^bits - 1 (1-d) at `bits` bits each, 1 to 16, as bytes (uint8)."""
    width = np.arange(bits, dtype=np.uint32)
    return np.packbits((values.astype(np.uint32)[:, None] >> width) & 1, bitorder="little")


def unpack_bits(data, bits, count):
    """The `count` numbers of `pack_bits`, uint16. Raises ValueError if there are too few bytes."""
    if data.size * 8 < count * bits:
        raise ValueError(f"unpack_bits: {count} numbers of {bits} bits do not fit into {data.size} bytes")
    ones = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    return (ones.astype(np.uint32) << np.arange(bits, dtype=np.uint32)).sum(axis=1).astype(np.uint16)


def huffman_lengths(counts):
    """Bits of each symbol's code word, uint8, for symbols that occur `counts` times; 0 where that is 0.

    Huffman 1952. Words are at most 15 bits long: if they were not, counts are halved, upwards, and the code
    is made anew, which costs less than a hundredth of a bit per symbol.
    """
    counts = np.asarray(counts, np.int64)
    lengths = np.zeros(counts.size, np.uint8)
    symbols = np.flatnonzero(counts)
    if symbols.size == 1:
        lengths[symbols] = 1
    while symbols.size > 1:
        lengths[symbols] = _depths(counts[symbols])
        if lengths.max() <= LONGEST:
            break
        counts = (counts + 1) // 2
    return lengths


def _depths(counts):
    """Depth of each leaf in Huffman's tree."""
    parents = np.zeros(2 * counts.size - 1, np.int64)
    queue = [(int(count), leaf) for leaf, count in enumerate(counts)]
    heapq.heapify(queue)
    for node in range(counts.size, parents.size):
        (light, a), (heavy, b) = heapq.heappop(queue), heapq.heappop(queue)
        parents[a] = parents[b] = node
        heapq.heappush(queue, (light + heavy, node))
    depths = np.zeros(parents.size, np.int64)
    for node in range(parents.size - 2, -1, -1):  # parents come after their children
        depths[node] = depths[parents[node]] + 1
    return depths[: counts.size]


def huffman_encode(symbols, lengths):
    """Symbols (1-d, whole numbers below lengths.size) as bytes. Raises ValueError for one without a word."""
    length = lengths[symbols].astype(np.int64)
    if symbols.size and length.min() == 0:
        raise ValueError("huffman_encode: a symbol has no code word; lengths belong to other symbols")
    words = _words(lengths)[symbols]
    starts = np.cumsum(length) - length
    ones = np.zeros(int(length.sum()), np.uint8)
    for bit in range(int(length.max(initial=0))):  # the first bit of a word is its highest
        there = length > bit
        ones[starts[there] + bit] = (words[there] >> (length[there] - 1 - bit)) & 1
    return np.packbits(ones, bitorder="little")


def huffman_decode(data, lengths, count):
    """The `count` symbols of `huffman_encode`, uint16.

    Raises ValueError for lengths that are no code, and for bytes that end too soon or hold an unknown word.
    """
    symbol_of, length_of = decoding_table(lengths, count)
    ones = np.unpackbits(data, bitorder="little")
    weights = 1 << np.arange(LONGEST - 1, -1, -1)
    ones = np.concatenate([ones, np.zeros(LONGEST, np.uint8)])
    symbols, position = np.empty(count, np.uint16), 0
    for i in range(count):
        word = int(ones[position : position + LONGEST] @ weights)
        symbols[i] = symbol_of[word]
        position += int(length_of[word])
        if length_of[word] == 0 or position > data.size * 8:
            raise ValueError(f"huffman_decode: the data ends or is damaged at symbol {i} of {count}")
    return symbols


def decoding_table(lengths, count):
    """For each 15 bits that may come next: the symbol that they begin with, and its length (0: none)."""
    space = (lengths > 0) / 2.0 ** lengths.astype(np.float64)
    if lengths.size == 0 or lengths.max() > LONGEST or space.sum() > 1 or (count and not lengths.any()):
        raise ValueError("huffman_decode: the lengths of the code words are no Huffman code")
    words = _words(lengths)
    symbol_of = np.zeros(1 << LONGEST, np.uint16)
    length_of = np.zeros(1 << LONGEST, np.uint8)
    for symbol in np.flatnonzero(lengths):
        free = LONGEST - int(lengths[symbol])
        first = int(words[symbol]) << free
        symbol_of[first : first + (1 << free)] = symbol
        length_of[first : first + (1 << free)] = lengths[symbol]
    return symbol_of, length_of


def _words(lengths):
    """The canonical code words, int64."""
    words = np.zeros(lengths.size, np.int64)
    order = np.lexsort((np.arange(lengths.size), lengths))
    word, before = 0, 0
    for symbol in order[lengths[order] > 0]:
        word <<= int(lengths[symbol]) - before
        words[symbol], before = word, int(lengths[symbol])
        word += 1
    return words
