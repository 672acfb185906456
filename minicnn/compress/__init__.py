"""Compression: what makes a model smaller while it stays trainable.

Everything here is a transform (`minicnn.nn.transform`) on parameters or activations, or decides which ones a
model gets. Raw weights are kept, optimizers and `minicnn.compile` do not notice.
"""

from __future__ import annotations

from minicnn.compress.fake_quantize import FakeQuantize
from minicnn.compress.mask import Mask, set_mask
from minicnn.compress.select import select_layers

__all__ = ["FakeQuantize", "Mask", "select_layers", "set_mask"]
