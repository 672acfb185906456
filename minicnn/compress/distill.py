"""Distillation: a student learns from what a teacher answers (Hinton et al. 2015), or sees on the way.

`Distillation` is a loss for `fit`, which hands it the images. What it may add from inside the networks, hints
and attention, is in `features.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

import minicnn
import minicnn_kernels as kernels
from minicnn import nn
from minicnn.compress.features import AttentionTransfer, FeatureTerm, Hints
from minicnn.nn.module import Module
from minicnn.nn.parameter import Parameter
from minicnn.tensor import Tensor, as_tensor
from minicnn.training.evaluate import inference

Teacher = Callable[[Tensor], Any]


class Distillation:
    """alpha T^2 KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) hard(student, targets).

    teacher: a model, or any function of the images (a tensor (N, ...), which NumPy reads as an array) that
    gives logits (N, C), a tensor or an array; or several, whose softened probabilities are averaged. A model
    runs in eval mode, its mode is put back; nothing of a teacher is recorded on the tape.
    temperature: T > 0; T^2 keeps the sizes of both gradients alike when T changes. alpha: in [0, 1].
    hard: the loss on targets. hints, attention: further terms, of this very teacher and the student.

    With hints, give the optimizer `parameters()` as well: the regressors learn along. Raises ValueError for
    options out of range, TypeError for a teacher that can't be called.
    """

    needs_images = True  # `fit` and `evaluate` call it with (outputs, targets, images)

    def __init__(
        self,
        teacher: Teacher | Sequence[Teacher],
        temperature: float = 4.0,
        alpha: float = 0.9,
        hints: Hints | None = None,
        attention: AttentionTransfer | None = None,
        *,
        hard: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    ) -> None:
        teachers: list[Any] = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
        for one in teachers:
            if not callable(one):
                raise TypeError(
                    f"Distillation: expected teachers that can be called, got {type(one).__name__}"
                )
        if not teachers:
            raise ValueError("Distillation: expected one teacher or more, got none")
        if not temperature > 0:
            raise ValueError(f"Distillation: expected temperature > 0, got {temperature!r}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"Distillation: expected alpha in [0, 1], got {alpha!r}")
        self.terms: list[FeatureTerm] = [term for term in (hints, attention) if term is not None]
        for term in self.terms:
            if not any(term.teacher is one for one in teachers):
                raise ValueError(
                    f"Distillation: {type(term).__name__} was made with another teacher; features are taken "
                    f"while the teacher itself answers"
                )
        self.teachers = [minicnn.compile(one) if isinstance(one, Module) else one for one in teachers]
        self.temperature, self.alpha, self.hard = float(temperature), float(alpha), hard

    def __call__(self, outputs: Tensor, targets: Any, images: Tensor) -> Tensor:
        """The loss, a mean over the batch. outputs: the student's logits (N, C); targets (N,)."""
        terms = []
        if self.alpha or self.terms:
            soft = self.soft_targets(images, outputs)
            log_p = (outputs / self.temperature).log_softmax(dim=1)
            divergence = nn.functional.kl_div(log_p, soft, reduction="batchmean")
            terms.append(divergence * (self.alpha * self.temperature**2))
        if self.alpha < 1:
            terms.append(self.hard(outputs, targets) * (1 - self.alpha))
        terms.extend(term() for term in self.terms)
        return sum(terms[1:], terms[0])

    def soft_targets(self, images: Tensor, outputs: Tensor) -> Tensor:
        """The teachers' softened probabilities, of the shape and type of `outputs`, without a gradient."""
        with minicnn.no_grad():
            answers = [self._probabilities(teacher, images, outputs) for teacher in self.teachers]
            return sum(answers[1:], answers[0]) / len(answers)

    def _probabilities(self, teacher: Teacher, images: Tensor, outputs: Tensor) -> Tensor:
        logits = answer(teacher, images)
        if logits.shape != outputs.shape:
            raise ValueError(
                f"Distillation: the teacher gave {logits.shape} where the student gives {outputs.shape}; "
                f"both answer with logits (N, C) of the same classes"
            )
        return (logits.to(outputs) / self.temperature).softmax(dim=1)

    def to(self, device: str) -> Distillation:
        """Move teachers and regressors; `fit` does it with the student."""
        for part in (*self.teachers, *(term.regressors for term in self.terms)):
            if hasattr(part, "to"):
                part.to(device)
        return self

    def parameters(self) -> Iterator[Parameter]:
        """What is trained beside the student: the regressors of hints."""
        return (parameter for term in self.terms for parameter in term.regressors.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        """The regressors, for checkpoints of `fit`."""
        return {
            f"{type(term).__name__}.{name}": value
            for term in self.terms
            for name, value in term.regressors.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for term in self.terms:
            prefix = f"{type(term).__name__}."
            term.regressors.load_state_dict(
                {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            )


class CachedTeacher:
    """A teacher that answers images it has seen from memory: they run through it once, not once an epoch.

    batches: yields images or (images, targets), as training will show them: a loader without augmentation.
    Images are recognized by their bytes. Any others go to the teacher, the whole batch they are in.
    Raises ValueError if there are no images.
    """

    def __init__(self, teacher: Teacher, batches: Iterable[Any]) -> None:
        self.teacher = minicnn.compile(teacher) if isinstance(teacher, Module) else teacher
        self._rows: dict[bytes, int] = {}
        answers, count = [], 0
        for batch in batches:
            images = as_tensor(batch[0] if isinstance(batch, (tuple, list)) else batch)
            answers.append(answer(self.teacher, images))
            for key in _keys(images):
                self._rows[key] = count
                count += 1
        if not answers:
            raise ValueError("CachedTeacher: the batches hold no images")
        self._answers = minicnn.cat(answers)

    def to(self, device: str) -> CachedTeacher:
        """Move the teacher and its answers."""
        if hasattr(self.teacher, "to"):
            self.teacher.to(device)
        self._answers = self._answers.to(device)
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, C)."""
        rows = [self._rows.get(key) for key in _keys(images)]
        if None in rows:
            return answer(self.teacher, images)
        return self._answers[np.asarray(rows)]


def answer(teacher: Teacher, images: Tensor) -> Tensor:
    """What a teacher gives for images, as a tensor; a model answers in eval mode, and nothing is recorded."""
    if hasattr(teacher, "modules"):
        with inference(teacher):
            return teacher(images)
    with minicnn.no_grad():
        logits = teacher(images)
    return logits.detach() if isinstance(logits, Tensor) else as_tensor(np.asarray(logits))


def _keys(images: Tensor) -> list[bytes]:
    """16 bytes that stand for each image."""
    array = kernels.to_host(images.data)
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in array]
