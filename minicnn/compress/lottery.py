"""Lottery tickets: prune a trained model, take the rest back to where it began, and train that again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from minicnn.compress.mask import masks, set_mask, sparsity
from minicnn.compress.prune import Rate, checked_rate, prune
from minicnn.nn.module import Module
from minicnn.nn.transform import attached
from minicnn.training.callbacks import Callback
from minicnn.training.run import Run


class Rewind(Callback):
    """Keeps the first training as it was after `epoch` epochs, and lets every later one begin from there.

    All that a checkpoint holds is taken back: weights, optimizer, schedule, place in the data, random
    numbers. Only masks stay as they are.
    """

    def __init__(self, epoch: int = 0) -> None:
        if epoch < 0:
            raise ValueError(f"Rewind: epoch must be at least 0, got {epoch}")
        self.epoch = epoch
        self.state: dict[str, Any] | None = None

    def on_start(self, run: Run) -> None:
        if self.state is None:
            self.on_epoch(run)
            return
        own = run.model.state_dict()
        keeps = {f"{found.name}_transforms.mask.keep" for found in attached(run.model, "mask")}
        model = {name: own[name] if name in keeps else self.state["model"][name] for name in own}
        run.load_state_dict({**self.state, "model": model})
        for found in attached(run.model, "mask"):
            set_mask(found.module, found.place, found.transform.keep.data, hard=found.transform.hard)

    def on_epoch(self, run: Run) -> None:
        if self.state is None and run.epoch == self.epoch:
            self.state = copy.deepcopy(run.state_dict())


class Ticket(NamedTuple):
    """One training. sparsity: zeros of all weights. masks: as `minicnn.compress.masks` gives them."""

    round: int
    sparsity: float
    masks: dict[str, Any]
    result: Any


class Lottery(NamedTuple):
    """The model after its last training, and the tickets, the dense training first."""

    model: Module
    tickets: list[Ticket]


def lottery_ticket(
    build: Callable[[], Module],
    train: Callable[[Module, list[Callback]], Any],
    *,
    rounds: int,
    rate: Rate = 0.2,
    rewind_epoch: int = 0,
    **options: Any,
) -> Lottery:
    """Iterative magnitude pruning with rewinding (Frankle and Carbin 2019; Frankle et al. 2020).

    The model of `build` is trained; then in each of `rounds` the share `rate` of the weights that are left is
    pruned, the rest goes back, to the bit, to what it was after `rewind_epoch` epochs, and is trained as
    before, over the same batches. train(model, callbacks) gives its callbacks to `fit` and returns what the
    ticket shall hold, an accuracy for example. rate: also {layer: rate}. options: those of `prune`.
    """
    for one in rate.values() if isinstance(rate, Mapping) else [rate]:
        checked_rate(one, "lottery_ticket")
    model, rewind, tickets = build(), Rewind(rewind_epoch), []
    for i in range(rounds + 1):
        if i > 0:
            prune(model, _after(rate, i), **options)
        result = train(model, [rewind])
        if rewind.state is None:
            raise ValueError(
                f"lottery_ticket: train did not give its callbacks to fit, or trained for fewer than "
                f"{rewind_epoch} epochs: there is nothing to rewind to"
            )
        tickets.append(Ticket(i, sparsity(model), masks(model), result))
    return Lottery(model, tickets)


def _after(rate: Rate, rounds: int) -> Rate:
    """The share that is gone when `rate` of what was left went in each round."""
    if isinstance(rate, Mapping):
        return {name: 1 - (1 - one) ** rounds for name, one in rate.items()}
    return 1 - (1 - rate) ** rounds
