"""Schedules of the learning rate, equal to PyTorch's step by step.

A schedule is a formula of the step number, so that resuming needs that number and nothing else; only
`ReduceLROnPlateau` depends on what it has seen. Call `step()` after each epoch (`OneCycleLR`: each batch).
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from minicnn.optim.optimizer import Optimizer


class LRScheduler:
    """Base class: subclasses define `factor(step)` or, where that is not enough, `rate(step, base)`.

    last_epoch: the step number, 0 after construction. base_lrs: the rates that the groups began with.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__}: expected an optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.step()

    def factor(self, step: int) -> float:
        """What the base rate is multiplied by at `step`."""
        raise TypeError(f"{type(self).__name__} defines neither factor nor rate")

    def rate(self, step: int, base: float) -> float:
        """The learning rate at `step` of a group that began with `base`."""
        return base * self.factor(step)

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next step, or to step `epoch`. Groups that the optimizer got meanwhile join in."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:
            self.base_lrs.append(group.setdefault("initial_lr", group["lr"]))
        self._apply()

    def _apply(self) -> None:
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self.rate(self.last_epoch, base)

    def get_last_lr(self) -> list[float]:
        """The learning rate in force, per group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed schedule needs."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.last_epoch = state_dict["last_epoch"]
        self.base_lrs = list(state_dict["base_lrs"])
        self._apply()


class LambdaLR(LRScheduler):
    """base * lr_lambda(step); a function, or one for each group. Functions are not saved.

    A group that comes later follows the last of them.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        count = len(optimizer.param_groups)
        self.lr_lambdas = [lr_lambda] * count if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != count:
            raise ValueError(f"LambdaLR: expected {count} functions, got {len(self.lr_lambdas)}")
        super().__init__(optimizer, last_epoch)

    def _apply(self) -> None:
        self.lr_lambdas += self.lr_lambdas[-1:] * (len(self.base_lrs) - len(self.lr_lambdas))
        groups = zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True)
        for group, base, function in groups:
            group["lr"] = base * function(self.last_epoch)


class StepLR(LRScheduler):
    """Multiplied by gamma every `step_size` steps."""

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.step_size, self.gamma = _positive("StepLR", "step_size", step_size), gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        return self.gamma ** (step // self.step_size)


class MultiStepLR(LRScheduler):
    """Multiplied by gamma at each of the milestones."""

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones, self.gamma = Counter(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        return self.gamma ** bisect.bisect_right(sorted(self.milestones.elements()), step)


class ExponentialLR(LRScheduler):
    """base * gamma^step."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        return self.gamma**step


class LinearLR(LRScheduler):
    """A factor going from start_factor to end_factor in total_iters steps: a warm-up."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1:
            raise ValueError(f"LinearLR: start_factor must be in (0, 1], got {start_factor!r}")
        if not 0 <= end_factor <= 1:
            raise ValueError(f"LinearLR: end_factor must be in [0, 1], got {end_factor!r}")
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = _positive("LinearLR", "total_iters", total_iters)
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        done = min(step, self.total_iters) / self.total_iters
        return self.start_factor + (self.end_factor - self.start_factor) * done


class CosineAnnealingLR(LRScheduler):
    """eta_min + (base - eta_min) (1 + cos(pi step / T_max)) / 2 (Loshchilov and Hutter 2017)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max, self.eta_min = _positive("CosineAnnealingLR", "T_max", T_max), eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float) -> float:
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * step / self.T_max)) / 2


class CosineAnnealingWarmRestarts(LRScheduler):
    """Cosine annealing that restarts after T_0 steps, then after T_mult times as many (the same paper)."""

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_0 = _positive("CosineAnnealingWarmRestarts", "T_0", T_0)
        self.T_mult = _positive("CosineAnnealingWarmRestarts", "T_mult", T_mult)
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, base: float) -> float:
        period = self.T_0
        if self.T_mult == 1:
            step %= period
        while step >= period:
            step -= period
            period *= self.T_mult
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * step / period)) / 2


class OneCycleLR(LRScheduler):
    """Up from max_lr / div_factor to max_lr, then far down, once (Smith and Topin 2018). Step per batch.

    total_steps, or epochs and steps_per_epoch. pct_start: the share of the way up. anneal_strategy: 'cos' or
    'linear'. final_div_factor: what the first rate is divided by at the end. three_phase: down symmetrically,
    then to the end. With cycle_momentum the momentum (beta1 of Adam) moves the opposite way.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: give total_steps, or epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        self.total_steps = _positive("OneCycleLR", "total_steps", total_steps)
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start must be in [0, 1], got {pct_start!r}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"OneCycleLR: anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}"
            )
        groups = optimizer.param_groups
        peaks = _per_group("OneCycleLR", "max_lr", max_lr, optimizer)
        self.anneal = _cosine if anneal_strategy == "cos" else _linear
        self.peaks, self.div_factor, self.final_div_factor = peaks, div_factor, final_div_factor
        self.base_momentum, self.max_momentum = base_momentum, max_momentum
        self.cycle_momentum = cycle_momentum
        up = float(pct_start * self.total_steps) - 1
        last = float(self.total_steps - 1)
        # Where each phase ends; it leads from one of (first, peak, final) to another.
        if three_phase:
            self.phases = [(up, 0, 1), (2 * up, 1, 0), (last, 0, 2)]
        else:
            self.phases = [(up, 0, 1), (last, 1, 2)]
        if last_epoch == -1:
            for group, peak in zip(groups, peaks, strict=True):
                group["initial_lr"] = peak / div_factor
        super().__init__(optimizer, last_epoch)

    def _between(self, step: int, values: tuple[float, float, float]) -> float:
        begin = 0.0
        for end, start, stop in self.phases[:-1]:
            if step <= end:
                return self.anneal(values[start], values[stop], (step - begin) / (end - begin))
            begin = end
        end, start, stop = self.phases[-1]
        return self.anneal(values[start], values[stop], (step - begin) / (end - begin))

    def _apply(self) -> None:
        step = self.last_epoch
        if step > self.total_steps:
            raise ValueError(
                f"OneCycleLR: step {step} lies behind the last one, total_steps={self.total_steps}; "
                f"is it stepped more often than once per batch?"
            )
        for group, base, peak in zip(self.optimizer.param_groups, self.base_lrs, self.peaks, strict=True):
            group["lr"] = self._between(step, (base, peak, base / self.final_div_factor))
            if self.cycle_momentum:
                high, low = self.max_momentum, self.base_momentum
                momentum = self._between(step, (high, low, high))
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum


class SequentialLR(LRScheduler):
    """One schedule after the other; schedule i + 1 begins, at its own step 0, at milestones[i]."""

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        if not schedulers or len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: expected one milestone less than schedules, got {len(milestones)} for "
                f"{len(schedulers)}"
            )
        if any(schedule.optimizer is not optimizer for schedule in schedulers):
            raise ValueError("SequentialLR: every schedule must belong to the same optimizer")
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        super().__init__(optimizer, last_epoch)

    def _apply(self) -> None:
        index = bisect.bisect_right(self.milestones, self.last_epoch)
        begin = self.milestones[index - 1] if index else 0
        self.schedulers[index].step(self.last_epoch - begin)


class ReduceLROnPlateau:
    """Multiplied by `factor` when a measure has not improved for more than `patience` steps.

    mode: 'min' (a loss) or 'max' (an accuracy). threshold: the least change that counts, relative ('rel') or
    absolute ('abs'). cooldown: steps of rest after a reduction. min_lr: a number, or one per group.
    eps: reductions smaller than this are left out. Call step(measure).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0,
        eps: float = 1e-8,
    ) -> None:
        if not 0 <= factor < 1:
            raise ValueError(f"ReduceLROnPlateau: factor must be in [0, 1), got {factor!r}")
        if mode not in ("min", "max"):
            raise ValueError(f"ReduceLROnPlateau: mode must be 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(
                f"ReduceLROnPlateau: threshold_mode must be 'rel' or 'abs', got {threshold_mode!r}"
            )
        self.min_lrs = _per_group("ReduceLROnPlateau", "min_lr", min_lr, optimizer)
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.eps = cooldown, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = self.last_epoch = 0

    def is_better(self, measure: float) -> bool:
        """Whether `measure` improves on the best so far by more than the threshold."""
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "abs":
            return sign * measure > sign * self.best + self.threshold
        return sign * measure > sign * self.best * (1 + sign * self.threshold)

    def step(self, metrics: Any) -> None:
        """Take in the measure of one epoch."""
        measure = float(metrics)
        self.last_epoch += 1
        if self.is_better(measure):
            self.best, self.num_bad_epochs = measure, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group, least in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
                reduced = max(group["lr"] * self.factor, least)
                if group["lr"] - reduced > self.eps:
                    group["lr"] = reduced
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def get_last_lr(self) -> list[float]:
        """The learning rate in force, per group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed schedule needs; the rates themselves are in the optimizer's state."""
        names = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        for name in self.state_dict():
            setattr(self, name, state_dict[name])


def _per_group(schedule: str, name: str, value: float | Sequence[float], optimizer: Optimizer) -> list[float]:
    """One value for each parameter group."""
    count = len(optimizer.param_groups)
    values = [value] * count if isinstance(value, (int, float)) else list(value)
    if len(values) != count:
        raise ValueError(f"{schedule}: expected {count} values of {name}, got {len(values)}")
    return values


def _linear(start: float, end: float, done: float) -> float:
    return start + (end - start) * done


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


def _positive(schedule: str, name: str, value: int) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{schedule}: {name} must be an integer of at least 1, got {value!r}")
    return value
