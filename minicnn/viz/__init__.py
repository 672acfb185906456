"""Pictures of networks, data and kernels. Needs matplotlib: pip install 'minicnn[plot]'.

Every function returns a matplotlib Figure, which a notebook shows by itself and `savefig` writes to a file;
figure= draws into a given (sub)figure instead. What a picture shows can be had as numbers, too:
`activations`, `dead_shares`, `saliency_maps`, `landscape`, `unbeaten`.
"""

from __future__ import annotations

from minicnn.viz.classification import confusion, curves, images, saliency, saliency_maps
from minicnn.viz.compression import pareto, quantization_grid, sensitivity, unbeaten, weight_histograms
from minicnn.viz.convolution import im2col
from minicnn.viz.diagram import graph
from minicnn.viz.landscape import Landscape, landscape, loss_landscape
from minicnn.viz.network import (
    activations,
    dead_shares,
    dead_units,
    feature_maps,
    filters,
    gradient_norms,
)
from minicnn.viz.speed import ladder, roofline

__all__ = [
    "Landscape",
    "activations",
    "confusion",
    "curves",
    "dead_shares",
    "dead_units",
    "feature_maps",
    "filters",
    "gradient_norms",
    "graph",
    "im2col",
    "images",
    "ladder",
    "landscape",
    "loss_landscape",
    "pareto",
    "quantization_grid",
    "roofline",
    "saliency",
    "saliency_maps",
    "sensitivity",
    "unbeaten",
    "weight_histograms",
]
