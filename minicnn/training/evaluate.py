"""A model on data without training it: `evaluate` for numbers, `predict` for answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import minicnn
import minicnn_kernels as kernels
from minicnn import nn
from minicnn.data.on_device import on_device
from minicnn.tensor import Tensor, as_tensor
from minicnn.training.metrics import Evaluation, Tally, confusion_matrix, count_correct, is_classification


@contextmanager
def inference(model: Any) -> Iterator[None]:
    """Within the block the model is in eval mode and nothing is recorded; its mode is put back after.

    What has no modes, such as a function, is left as it is.
    """
    training = []
    if hasattr(model, "modules"):
        training = [(module, module.training) for module in model.modules()]
        model.eval()
    try:
        with minicnn.no_grad():
            yield
    finally:
        for module, mode in training:
            module.training = mode


def device_of(model: Any) -> str:
    """Where the parameters of a model are; "cpu" for what has none, such as a function."""
    parameters = model.parameters() if hasattr(model, "parameters") else iter(())
    return next((parameter.device for parameter in parameters), "cpu")


def loss_of(loss: Callable[..., Any], outputs: Any, targets: Any, images: Any) -> Any:
    """loss(outputs, targets), with the images as well for a loss that says `needs_images` (distillation)."""
    if getattr(loss, "needs_images", False):
        return loss(outputs, targets, images)
    return loss(outputs, targets)


def evaluate(model: Any, loader: Any, *, loss: Callable[..., Any] | None = None) -> Evaluation:
    """Loss, accuracy and confusion matrix of `model` over `loader`, which yields (images, targets).

    loss(outputs, targets): a mean over the batch; default cross-entropy. Accuracy and confusion need
    outputs (N, C) and class numbers (N,). It runs where the model is: `model.to("cuda")` moves it, batches
    follow by themselves. Raises ValueError if the loader yields nothing.
    """
    loss = loss or nn.functional.cross_entropy
    device = device_of(model)
    tally, truth, answers, classes = Tally(device), [], [], 0
    with inference(model):
        for images, targets in on_device(loader, device):
            outputs = model(images)
            value = loss_of(loss, outputs, targets, images)
            if tally.is_full:
                tally.read()
            tally.add(value, len(images), count_correct(outputs, targets))
            if is_classification(outputs, targets):
                classes = outputs.shape[1]
                truth.append(targets)
                answers.append(outputs.argmax(dim=1))
    tally.read()
    means = tally.means
    if not means.images:
        raise ValueError("evaluate: the loader yields no images; is its data set empty?")
    confusion = confusion_matrix(_on_host(truth), _on_host(answers), classes) if truth else None
    return Evaluation(means.images, means.loss, means.accuracy, confusion)


def predict(model: Any, images: Any, *, batch_size: int = 256, classes: bool = False) -> np.ndarray:
    """Probabilities (N, C) of softmax for `images`, or with `classes` the most probable class (N,), int64.

    images: array or tensor (N, ...), preprocessed as for training; or an iterable of batches, either of
    images or of (images, targets). It runs where the model is. Raises ValueError if there are none.
    """
    answers = []
    batches = on_device(((batch,) for batch in _batches(images, batch_size)), device_of(model))
    with inference(model):
        for (batch,) in batches:
            outputs = model(batch)
            answers.append(outputs.argmax(dim=1) if classes else outputs.softmax(dim=1))
    if not answers:
        raise ValueError("predict: expected at least one image, got none")
    return _on_host(answers)


def _on_host(tensors: list[Tensor]) -> np.ndarray:
    """All rows as one NumPy array; a device is waited for here, and not while it answers."""
    return np.concatenate([kernels.to_host(tensor.data) for tensor in tensors])


def _batches(images: Any, batch_size: int) -> Iterable[Tensor]:
    if isinstance(images, (np.ndarray, Tensor)):
        tensor = as_tensor(images)
        return (tensor[i : i + batch_size] for i in range(0, len(tensor), batch_size))
    return (as_tensor(batch[0] if isinstance(batch, (tuple, list)) else batch) for batch in images)
