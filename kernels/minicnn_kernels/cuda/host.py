"""What works in host memory whatever the device: one list, with a reason for each.

None of these is a step of training or inference. They run once for a layer or a file, need double precision,
or walk bit by bit. Whoever needs one moves its arrays openly; asked of this back end they say so.
"""

from __future__ import annotations

__all__ = ["HOST"]

_DOUBLE = "it needs double precision, once for a layer"
_COUNTS = "it searches a histogram of a few thousand counts"
_FILE = "it reads and writes files, bit after bit"

HOST = {
    "channel_gram": _DOUBLE,
    "choose_channels": _DOUBLE,
    "entropy_range": _COUNTS,
    "fit_channels": _DOUBLE,
    "huffman_decode": _FILE,
    "huffman_encode": _FILE,
    "huffman_lengths": _FILE,
    "lasso": _DOUBLE,
    "least_error_range": _COUNTS,
    "low_rank_factors": _DOUBLE,
    "pack_bits": _FILE,
    "percentile_range": _COUNTS,
    "random_normal": "it needs logarithms in double precision, where a model is made",
    "rank_of_energy": _DOUBLE,
    "tucker2_factors": _DOUBLE,
    "unpack_bits": _FILE,
    "widen": _COUNTS,
    "windows_at": _DOUBLE,
}
"""Kernels of the reference that stay on the host, and why."""
