"""Huffman decoding, one symbol after the other as it must be, compiled; the rest is the reference's."""

from __future__ import annotations

import numpy as np

from minicnn_kernels.cpu.compiler import kernel
from minicnn_kernels.reference.coding import LONGEST, decoding_table

__all__ = ["huffman_decode"]


def huffman_decode(data, lengths, count):
    """The `count` symbols of `huffman_encode`, uint16.

    Raises ValueError for lengths that are no code, and for bytes that end too soon or hold an unknown word.
    """
    table = decoding_table(lengths, count)
    symbols = np.empty(count, np.uint16)
    done = _decode(np.ascontiguousarray(data), *table, symbols)
    if done < count:
        raise ValueError(f"huffman_decode: the data ends or is damaged at symbol {done} of {count}")
    return symbols


@kernel
def _decode(data, symbol_of, length_of, symbols):
    """Fill `symbols`; how many could be had. `window` holds the next bits, the first of them highest."""
    window, filled, position = 0, 0, 0
    for i in range(symbols.size):
        while filled < LONGEST:  # past the end come zeros
            byte = data[position >> 3] if position < 8 * data.size else 0
            window = (window << 1) | ((byte >> (position & 7)) & 1)
            filled += 1
            position += 1
        length = length_of[window]
        if length == 0 or position - filled + length > 8 * data.size:
            return i
        symbols[i] = symbol_of[window]
        filled -= length
        window &= (1 << filled) - 1
    return symbols.size
