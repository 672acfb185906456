"""What a student may learn from inside its teacher: features (FitNets) and where it looks (attention).

Both take the results of layers by forward hooks, while `fit` runs the student and `Distillation` the teacher.
A model with hooks runs uncompiled; `close` takes them away.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from minicnn import nn
from minicnn.nn import functional as F
from minicnn.nn.module import Module
from minicnn.tensor import Tensor
from minicnn.training.evaluate import inference


class _Taken:
    """The results of some layers in the last forward pass of a model."""

    def __init__(self, model: Module, names: list[str]) -> None:
        modules = {name: module for name, module in model.named_modules() if name}
        self.names = names
        self._results: dict[str, Tensor] = {}
        for name in names:
            if name not in modules:
                near = difflib.get_close_matches(name, modules, n=1, cutoff=0.3)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ValueError(
                    f"{type(model).__name__} has no layer {name!r}; {hint}its layers are {', '.join(modules)}"
                )
        self._handles = [modules[name].register_forward_hook(self._keeper(name)) for name in names]

    def _keeper(self, name: str) -> Any:
        def keep(module: Module, inputs: tuple, result: Tensor) -> None:
            self._results[name] = result

        return keep

    def take(self) -> list[Tensor]:
        """The results, which are then forgotten. Raises RuntimeError if the model has not run since."""
        if len(self._results) < len(set(self.names)):
            raise RuntimeError(
                "features: the model has not run since its features were last taken; hints and attention "
                "need the student and the teacher that they were made with, each run before the loss"
            )
        results = [self._results[name] for name in self.names]
        self._results.clear()
        return results

    def close(self) -> None:
        self._results.clear()
        for handle in self._handles:
            handle.remove()


class FeatureTerm:
    """Base class: a term of the loss that compares pairs of layers, {name in student: name in teacher}."""

    def __init__(self, student: Module, teacher: Module, layers: Mapping[str, str], weight: float) -> None:
        what = type(self).__name__
        if not layers:
            raise ValueError(
                f"{what}: expected pairs of layers, {{name in student: name in teacher}}, got none"
            )
        if not weight >= 0:
            raise ValueError(f"{what}: expected weight of at least 0, got {weight!r}")
        self.student, self.teacher, self.weight = student, teacher, weight
        self.regressors = nn.ModuleList()
        self._student = _Taken(student, list(layers))
        try:
            self._teacher = _Taken(teacher, list(layers.values()))
        except ValueError:
            self._student.close()
            raise

    def __call__(self) -> Tensor:
        """The term, from what both models have just computed."""
        pairs = zip(self._student.take(), self._teacher.take(), strict=True)
        terms = [self.compare(i, ours, theirs.detach()) for i, (ours, theirs) in enumerate(pairs)]
        return sum(terms[1:], terms[0]) * self.weight

    def compare(self, pair: int, ours: Tensor, theirs: Tensor) -> Tensor:
        """The difference of two features, a mean over the batch."""
        raise TypeError(f"{type(self).__name__} defines no compare")

    def close(self) -> None:
        """Take the hooks away: the models run compiled again."""
        self._student.close()
        self._teacher.close()


class Hints(FeatureTerm):
    """weight/2 mean((teacher - r(student))^2) over pairs of layers (FitNets: Romero et al. 2015, eq. 3).

    layers: {name in student: name in teacher}. sample: images (N, ...) to find the features' shapes with.
    r is a trained regressor where the widths differ (1x1 convolution, or dense), else nothing; if the
    pictures' sizes differ the larger is averaged down. Raises ValueError for unknown layers and features of
    another kind.
    """

    def __init__(
        self,
        student: Module,
        teacher: Module,
        layers: Mapping[str, str],
        sample: Tensor,
        *,
        weight: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, layers, weight)
        with inference(student), inference(teacher):
            student(sample)
            teacher(sample)
        try:
            for name, ours, theirs in zip(layers, self._student.take(), self._teacher.take(), strict=True):
                self.regressors.append(_regressor(name, ours, theirs))
        except ValueError:
            self.close()
            raise

    def compare(self, pair: int, ours: Tensor, theirs: Tensor) -> Tensor:
        ours, theirs = _same_size(self.regressors[pair](ours), theirs)
        return F.mse_loss(ours, theirs) / 2


class AttentionTransfer(FeatureTerm):
    """weight/2 mean((q(student) - q(teacher))^2), q the normalized map of mean squares over the channels.

    Zagoruyko and Komodakis 2017, eq. 2, with the square of the norm as in their code, whose gradient exists
    at 0 as well. layers: {name in student: name in teacher}, whose features are images; widths may differ,
    and of different sizes the larger is averaged down.
    """

    def __init__(
        self, student: Module, teacher: Module, layers: Mapping[str, str], *, weight: float = 1000.0
    ) -> None:
        super().__init__(student, teacher, layers, weight)

    def compare(self, pair: int, ours: Tensor, theirs: Tensor) -> Tensor:
        for features in (ours, theirs):
            if features.ndim != 4:
                raise ValueError(
                    f"AttentionTransfer: expected features (N, C, H, W), got {features.shape} from the pair "
                    f"{self._student.names[pair]!r}: {self._teacher.names[pair]!r}"
                )
        ours, theirs = _same_size(ours, theirs)
        return F.mse_loss(attention(ours), attention(theirs)) / 2


def attention(features: Tensor) -> Tensor:
    """Mean squares over the channels of (N, C, H, W), each image's scaled to length 1: (N, H W)."""
    energy = features.square().mean(dim=1).flatten(1)
    return energy / (energy.square().sum(dim=1, keepdim=True) + 1e-12).sqrt()


def _regressor(name: str, ours: Tensor, theirs: Tensor) -> Module:
    """From the student's width to the teacher's."""
    if ours.ndim != theirs.ndim or ours.ndim not in (2, 3, 4):
        raise ValueError(
            f"Hints: expected features of one kind, (N, C) or images, got {ours.shape} from the student's "
            f"{name!r} and {theirs.shape} from its teacher"
        )
    width, wanted = ours.shape[1], theirs.shape[1]
    if width == wanted:
        return nn.Identity()
    made: dict[int, Any] = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d}
    return made[ours.ndim](width, wanted, *(1,) * (ours.ndim > 2))


def _same_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the smaller of their heights and widths."""
    if a.ndim != 4 or a.shape[2:] == b.shape[2:]:
        return a, b
    size = tuple(min(x, y) for x, y in zip(a.shape[2:], b.shape[2:], strict=True))
    return F.adaptive_avg_pool2d(a, size), F.adaptive_avg_pool2d(b, size)
