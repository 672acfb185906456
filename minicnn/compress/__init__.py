"""Compression: what makes a model smaller while it stays trainable.

Everything here is a transform (`minicnn.nn.transform`) on parameters or activations, or decides which ones a
model gets. Raw weights are kept, optimizers and `minicnn.compile` do not notice.
"""

from __future__ import annotations

from minicnn.compress.bias_correction import correct_bias
from minicnn.compress.binary import Binarize, ClipWeights, Ternarize, binarize
from minicnn.compress.distill import CachedTeacher, Distillation
from minicnn.compress.equalize import equalize
from minicnn.compress.factors import FactorReport, FactorRow
from minicnn.compress.fake_quantize import FakeQuantize
from minicnn.compress.features import AttentionTransfer, Hints
from minicnn.compress.fold import fold_batch_norm
from minicnn.compress.lasso import lasso_reconstruction
from minicnn.compress.lottery import Lottery, Rewind, Ticket, lottery_ticket
from minicnn.compress.low_rank import LowRank, low_rank
from minicnn.compress.mask import Mask, masks, remove_masks, set_mask, set_masks, sparsities, sparsity
from minicnn.compress.mixed_bits import MixedBits, mixed_bits
from minicnn.compress.model_file import load_trained, save_trained
from minicnn.compress.observers import OBSERVERS, Observer
from minicnn.compress.proximal import Proximal
from minicnn.compress.prune import attach_masks, layers_of, prune, prune_below
from minicnn.compress.quantize import freeze_quantizers, quantize, remove_quantizers
from minicnn.compress.recipe import Recipe, load_recipe
from minicnn.compress.report import measure, pareto, pick
from minicnn.compress.residual import LowRankResidual
from minicnn.compress.run import run_recipe
from minicnn.compress.schedule import PolynomialPruning, iterative_pruning
from minicnn.compress.search import Range, search
from minicnn.compress.select import select_layers
from minicnn.compress.sensitivity import Sensitivity, sensitivity
from minicnn.compress.share import Codebook, share
from minicnn.compress.surgery import Surgery
from minicnn.compress.transfer import (
    FeatureDataset,
    MatchReport,
    cached_features,
    freeze,
    load_matching,
    low_rank_residual,
    replace_head,
    unfreeze,
)
from minicnn.compress.trials import Table, Trial
from minicnn.compress.tucker import Tucker2

__all__ = [
    "OBSERVERS",
    "AttentionTransfer",
    "Binarize",
    "CachedTeacher",
    "ClipWeights",
    "Codebook",
    "Distillation",
    "FactorReport",
    "FactorRow",
    "FakeQuantize",
    "FeatureDataset",
    "Hints",
    "Lottery",
    "LowRank",
    "LowRankResidual",
    "Mask",
    "MatchReport",
    "MixedBits",
    "Observer",
    "PolynomialPruning",
    "Proximal",
    "Range",
    "Recipe",
    "Rewind",
    "Sensitivity",
    "Surgery",
    "Table",
    "Ternarize",
    "Ticket",
    "Trial",
    "Tucker2",
    "attach_masks",
    "binarize",
    "cached_features",
    "correct_bias",
    "equalize",
    "fold_batch_norm",
    "freeze",
    "freeze_quantizers",
    "iterative_pruning",
    "lasso_reconstruction",
    "layers_of",
    "load_matching",
    "load_recipe",
    "load_trained",
    "lottery_ticket",
    "low_rank",
    "low_rank_residual",
    "masks",
    "measure",
    "mixed_bits",
    "pareto",
    "pick",
    "prune",
    "prune_below",
    "quantize",
    "remove_masks",
    "remove_quantizers",
    "replace_head",
    "run_recipe",
    "save_trained",
    "search",
    "select_layers",
    "sensitivity",
    "set_mask",
    "set_masks",
    "share",
    "sparsities",
    "sparsity",
    "unfreeze",
]
