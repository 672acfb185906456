"""Optimizers, schedules of the learning rate, gradient clipping and constraints on weights.

Names, arguments, defaults and results are PyTorch's; what is added: `l1`, `parameter_groups` (decay of
weights only) and the constraints. Begin reading in `optimizer.py`.
"""

from __future__ import annotations

from minicnn.nn.utils import clip_grad_norm_, clip_grad_value_
from minicnn.optim import lr_scheduler
from minicnn.optim.adam import Adam, AdamW
from minicnn.optim.constraints import clip_weights_, max_norm_
from minicnn.optim.optimizer import Optimizer, parameter_groups
from minicnn.optim.rmsprop import RMSprop
from minicnn.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_weights_",
    "lr_scheduler",
    "max_norm_",
    "parameter_groups",
]
