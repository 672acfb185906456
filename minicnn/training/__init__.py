"""Training: `fit`, `evaluate`, `predict`, and what belongs to them (callbacks, checkpoints, pictures).

Begin reading in `trainer.py`, go on in `run.py`. The command line in `minicnn.cli` is a thin layer over this.
"""

from minicnn.training.callbacks import Callback, EarlyStopping, MetricsLog
from minicnn.training.checkpoint import Checkpoint, CheckpointWarning, load_checkpoint
from minicnn.training.errors import CheckpointError, TrainingError, TrainingInterrupted
from minicnn.training.evaluate import evaluate, predict
from minicnn.training.metrics import Evaluation, History, confusion_matrix
from minicnn.training.run import Run
from minicnn.training.trainer import fit

__all__ = [
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "CheckpointWarning",
    "EarlyStopping",
    "Evaluation",
    "History",
    "MetricsLog",
    "Run",
    "TrainingError",
    "TrainingInterrupted",
    "confusion_matrix",
    "evaluate",
    "fit",
    "load_checkpoint",
    "predict",
]
