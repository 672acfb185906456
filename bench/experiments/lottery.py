"""Lottery tickets in LeNet-300-100 on MNIST (Frankle and Carbin 2019), beside random new weights.

Their result: tickets train as well as the dense network down to 3.6% of its weights, and better and faster in
between; the same masks over new random weights do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import minicnn
from bench.experiments.record import Record, across
from bench.experiments.rows import Options
from bench.record import markdown
from minicnn import data, models, optim
from minicnn.compress import lottery_ticket, set_masks
from minicnn.training.options import load_images

TITLE = "MNIST: lottery tickets in LeNet-300-100"
_ROUNDS = 15  # 0.8 ** 15 = 3.5% of the weights are left


def run(record: Record, options: Options) -> str:
    """Run the seeds that are missing; gives the table."""
    for seed in range(options.seeds):
        if record.get("ticket", seed) is None:
            began = time.perf_counter()
            tickets, controls = _search(seed, options)
            seconds = round(time.perf_counter() - began, 1)
            record.add("random", seed, {"rounds": controls})
            record.add("ticket", seed, {"rounds": tickets, "seconds": seconds})
            print(f"seed {seed}: {seconds:.0f} s", flush=True)
    return _table(record)


def _search(seed: int, options: Options) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """For every round what the ticket reached, and the same mask over new weights: accuracy, share left."""
    epochs, rounds = (1, 2) if options.quick else (options.epochs or 6, _ROUNDS)
    images = load_images(
        {
            "data": options.data,
            "limit": 400 if options.quick else None,
            "validation_fraction": options.held_out,
            "seed": seed,
        }
    )

    def build() -> Any:
        return models.create("lenet-300-100")

    def train(model: Any, callbacks: list[Any]) -> float:
        # Adam, rate and batch as in the paper (its table 2), without decay or augmentation.
        loader = data.DataLoader(images.train, 60, shuffle=True, seed=seed)
        optimizer = optim.Adam(model.parameters(), lr=1.2e-3)
        minicnn.fit(model, loader, optimizer=optimizer, epochs=epochs, callbacks=callbacks, progress=False)
        return minicnn.evaluate(minicnn.compile(model), data.DataLoader(images.watched, 250)).accuracy

    minicnn.manual_seed(seed)
    tickets = lottery_ticket(build, train, rounds=rounds, rate=0.2).tickets
    controls = []
    for ticket in tickets[1:]:
        model = build()  # the random state has moved on: these are other weights
        set_masks(model, ticket.masks)
        controls.append({"left": 1 - ticket.sparsity, "accuracy": train(model, [])})
    return [{"left": 1 - t.sparsity, "accuracy": t.result} for t in tickets], controls


def _table(record: Record) -> str:
    tickets, controls = record.rows.get("ticket", {}), record.rows.get("random", {})
    lines = []
    for number in range(min((len(one["rounds"]) for one in tickets.values()), default=0)):
        left, _ = across(tickets, _percent(number, "left"))
        mean, deviation = across(tickets, _percent(number, "accuracy"))
        control = ""
        if number:
            other, spread = across(controls, _percent(number - 1, "accuracy"))
            control = f"{other:.2f} ± {spread:.2f}"
        lines.append([f"{left:.1f}%", f"{mean:.2f} ± {deviation:.2f}", control, f"{len(tickets)}"])
    return markdown(["weights left", "ticket, %", "same mask, new weights, %", "seeds"], lines)


def _percent(number: int, key: str) -> Callable[[dict[str, Any]], float]:
    return lambda one: 100 * one["rounds"][number][key]
