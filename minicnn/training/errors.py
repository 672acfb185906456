"""What can end a training early. Bad input is a ValueError as everywhere; these are the others."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """Training cannot go on: the loss or the weights are no longer finite."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read, written, or belongs to another model or configuration."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C: the batch was finished and, where a checkpoint was asked for, the state saved."""
