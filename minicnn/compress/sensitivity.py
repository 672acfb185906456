"""sensitivity: what each layer's pruning costs, measured, and the rates that may be picked from that."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from minicnn.compress.prune import checked_rate, layers_of, prune
from minicnn.compress.select import Layers
from minicnn.compress.units import Units, parse_unit
from minicnn.nn.module import Module


class Row(NamedTuple):
    """One layer pruned alone. sparsity: the zeros of its weight. drop: baseline - value."""

    layer: str
    rate: float
    sparsity: float
    value: float
    drop: float


class Sensitivity(NamedTuple):
    """baseline: the value of the model as it is. rows: layer by layer, rates rising."""

    baseline: float
    rows: list[Row]

    def pick(self, max_drop: float) -> dict[str, float]:
        """For each layer the highest rate up to which the value never fell by more than `max_drop`, or 0."""
        picked: dict[str, float] = {}
        spoilt: set[str] = set()
        for row in self.rows:
            picked.setdefault(row.layer, 0.0)
            if row.drop > max_drop:
                spoilt.add(row.layer)
            elif row.layer not in spoilt:
                picked[row.layer] = row.rate
        return picked

    def __str__(self) -> str:
        width = max(len("layer"), *(len(row.layer) for row in self.rows))
        lines = [f"{'layer':{width}}   rate  sparsity   value     drop"]
        lines.append(f"{'none':{width}}{self.baseline:25.4f}")
        for layer, rate, sparsity, value, drop in self.rows:
            lines.append(f"{layer:{width}}{rate:7.2f}{sparsity:10.4f}{value:8.4f}{drop:+9.4f}")
        return "\n".join(lines)


def sensitivity(
    model: Module,
    evaluate: Callable[[Module], float],
    *,
    rates: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
    layers: Layers = None,
    **options: Any,
) -> Sensitivity:
    """Prune one layer at a time at each of `rates`, and evaluate(model), where higher is better.

    It is copies of the model that are pruned and evaluated, so nothing of its own changes, whatever happens.
    layers and options are those of `prune` (Han et al. 2015, figure 6; Li et al. 2017, figure 2). Rates that
    would leave nothing of a layer are left out.
    """
    rates = sorted(checked_rate(rate, "sensitivity") for rate in rates)
    unit = options.get("unit", "weight")
    chosen = layers_of(model, layers, unit=unit, score=options.get("score", "l1"))
    baseline = float(evaluate(copy.deepcopy(model)))
    rows = []
    for name, layer in chosen.items():
        units = Units.of(layer, parse_unit(unit)[0]).count
        for rate in (rate for rate in rates if round(rate * units) < units):
            trial = copy.deepcopy(model)
            sparsity = prune(trial, rate, layers=[name], **options)[name]
            value = float(evaluate(trial))
            rows.append(Row(name, rate, sparsity, value, baseline - value))
    return Sensitivity(baseline, rows)
