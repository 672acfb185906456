"""prune: which weights, filters or channels of a model become zero, by rate, by threshold or by pattern.

What being pruned means is in `mask.py`, how units are ranked in `scores.py`; schedules, regrowth and lottery
tickets are in the files called so. Everything is computed before the first mask is set: after an error the
model is as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import minicnn_kernels as kernels
from minicnn.compress.mask import Mask, set_mask, sparsities
from minicnn.compress.scores import norm_beside, unit_scores
from minicnn.compress.select import TRANSPOSED, Layers, select_layers
from minicnn.compress.units import Units, parse_unit
from minicnn.nn.module import Module
from minicnn.nn.transform import attach, find, raw

Rate = float | Mapping[str, float]


def prune(
    model: Module,
    rate: Rate | None = None,
    *,
    score: str = "l1",
    unit: str = "weight",
    scope: str = "layer",
    layers: Layers = None,
    data: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    hard: bool = True,
    seed: int = 0,
) -> dict[str, float]:
    """Mask exactly round(rate * units) units of each layer, those of the lowest score; gives `sparsities`.

    rate: in [0, 1), or {layer or pattern: rate}. Rate 0 attaches masks that prune nothing, for example to
    load a pruned state into.
    score: "l1" (mean abs(w)), "l2" (mean w^2), "taylor" (the change of `loss`, by default cross-entropy, on
    `data`, batches of (images, targets)), "random" (from `seed`) or "bn_scale" (of the batch norm next to the
    layer). Of equal scores the first by position goes.
    unit: "weight"; "filter" (output channel; biases stay); "channel" (input channel); or "n:m", "2:4" say: of
    m neighbouring input channels n weights stay, which is a rate of its own.
    scope: "layer", or "global": one ranking of all units, of which round(rate * all units) go.
    layers: names or patterns, by default all convolutions and dense layers; but not the last one's filters,
    which are the classes, nor the first one's channels, which are the image's, nor for "bn_scale" those
    without such a norm, nor for n:m those whose input channels do not divide by m.
    hard: what is pruned stays so, and a later call may only add to it. hard=False ranks what is behind the
    masks anew, so that weights return.

    Raises ValueError if a rate, layer or option makes no sense, or if a layer would lose everything.
    """
    unit, pattern = parse_unit(unit)
    if scope not in ("layer", "global"):
        raise ValueError(f"prune: expected scope 'layer' or 'global', got {scope!r}")
    rates, chosen = _rates_and_layers(model, rate, layers, unit, scope, score, pattern)
    ranked = _ranked(model, chosen, score, unit, data=data, loss=loss, hard=hard, seed=seed)
    if pattern is not None:
        keeps = {
            name: kernels.of(s).keep_n_of_m(
                kernels.of(s).reshape(s, raw(chosen[name], "weight").shape), *pattern
            )
            for name, s in ranked.items()
        }
    else:
        choose = _each if scope == "layer" else _together
        keeps = _keeps(chosen, choose(ranked, rates, unit), unit)
    return _set_masks(model, chosen, keeps, hard)


def prune_below(
    model: Module,
    threshold: float,
    *,
    score: str = "l1",
    unit: str = "weight",
    layers: Layers = None,
    data: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    hard: bool = True,
) -> dict[str, float]:
    """Mask what scores at most `threshold`: with the defaults every weight with abs(w) <= threshold.

    So threshold 0 holds the zeros that a model has. Arguments, result and errors are those of `prune`.
    """
    if not _is_number(threshold) or not threshold >= 0:
        raise ValueError(f"prune_below: threshold must be a number of at least 0, got {threshold!r}")
    unit, pattern = parse_unit(unit)
    if pattern is not None:
        raise ValueError("prune_below: n:m is a rate, not a threshold; use prune")
    chosen = layers_of(model, layers, unit=unit, score=score)
    ranked = _ranked(model, chosen, score, unit, data=data, loss=loss, hard=hard, seed=0)
    pruned = {name: kernels.of(scores).le(scores, threshold) for name, scores in ranked.items()}
    for name, flags in pruned.items():
        if kernels.of(flags).count_nonzero(flags) == flags.size:
            raise ValueError(f"prune_below: threshold {threshold} would prune all of layer {name!r}")
    return _set_masks(model, chosen, _keeps(chosen, pruned, unit), hard)


def layers_of(
    model: Module, layers: Layers = None, *, unit: str = "weight", score: str = "l1"
) -> dict[str, Module]:
    """The layers that `prune` works on with these options, by name."""
    unit, pattern = parse_unit(unit)
    if pattern is not None:
        return _n_of_m_layers(model, layers, pattern[1])
    chosen = select_layers(model, layers)
    if layers is None and unit != "weight" and len(chosen) > 1:
        names = list(chosen)
        del chosen[names[-1] if unit == "filter" else names[0]]
        if score == "bn_scale":
            chosen = {
                name: layer for name, layer in chosen.items() if norm_beside(model, layer, unit)
            } or chosen
    return chosen


def attach_masks(model: Module, layers: Layers = None, *, hard: bool = True, **options: str) -> None:
    """Give `layers_of(model, layers, **options)` masks that prune nothing yet; masks that are there stay."""
    for layer in layers_of(model, layers, **options).values():
        if find(layer, "weight", "mask") is None:
            attach(layer, "weight", Mask(raw(layer, "weight"), hard=hard))


# -- which layers, at which rate ------------------------------------------------------------------


def _rates_and_layers(
    model: Module,
    rate: Any,
    layers: Layers,
    unit: str,
    scope: str,
    score: str,
    pattern: tuple[int, int] | None,
) -> tuple[dict[str, float], dict[str, Module]]:
    if pattern is not None:
        n, m = pattern
        implied = 1 - n / m
        given = rate.values() if isinstance(rate, Mapping) else () if rate is None else (rate,)
        if not all(_is_number(r) and math.isclose(r, implied) for r in given):
            raise ValueError(f"prune: {n}:{m} is a rate of {implied}; leave rate out, got {rate!r}")
        chosen = _n_of_m_layers(model, list(rate) if isinstance(rate, Mapping) else layers, m)
        return dict.fromkeys(chosen, implied), chosen
    if isinstance(rate, Mapping):
        if layers is not None or scope == "global":
            raise ValueError("prune: rates by layer exclude layers= and scope='global'")
        rates = {
            name: checked_rate(r) for pattern, r in rate.items() for name in select_layers(model, pattern)
        }
        if not rates:
            raise ValueError("prune: rate is an empty dict; expected {layer: rate}")
        chosen = select_layers(model, rates)
    else:
        chosen = layers_of(model, layers, unit=unit, score=score)
        rates = dict.fromkeys(chosen, checked_rate(rate))
    return rates, chosen


def _n_of_m_layers(model: Module, layers: Layers, m: int) -> dict[str, Module]:
    """Those whose input channels divide by m; if they are named, all of them must."""
    chosen = select_layers(model, layers)
    fitting = {
        name: layer
        for name, layer in chosen.items()
        if raw(layer, "weight").shape[1] % m == 0 and not isinstance(layer, TRANSPOSED)
    }
    other = next((name for name in chosen if name not in fitting), None)
    if other is not None and (layers is not None or not fitting):
        raise ValueError(
            f"prune: layer {other!r} has a weight of shape {raw(chosen[other], 'weight').shape}; "
            f"n:{m} needs input channels (dimension 1) that divide by {m}"
        )
    return fitting


def checked_rate(rate: Any, what: str = "prune") -> float:
    """`rate` itself. Raises ValueError that names `what` unless it is a number in [0, 1)."""
    if not _is_number(rate) or not 0 <= rate < 1:
        raise ValueError(f"{what}: rate must be a number in [0, 1), got {rate!r}")
    return float(rate)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


# -- which units ----------------------------------------------------------------------------------


def _ranked(
    model: Module, chosen: dict[str, Module], score: str, unit: str, *, hard: bool, **options: Any
) -> dict[str, Any]:
    """Scores by layer (units,); with `hard`, -1 for a unit that is pruned already."""
    scores = unit_scores(score, model, chosen, unit, masked=hard, **options)
    if hard:
        for name, layer in chosen.items():
            mask = find(layer, "weight", "mask")
            if mask is not None:
                k = kernels.of(scores[name])
                kept = Units.of(layer, unit).sums(mask.keep.data)
                scores[name] = k.where(k.eq(kept, 0), -1.0, scores[name])
    return scores


def _each(scores: dict[str, Any], rates: dict[str, float], unit: str) -> dict[str, Any]:
    """Per layer the flags (units,) of the round(rate * units) lowest."""
    return {name: _lowest(s, rates[name], f"layer {name!r}", unit) for name, s in scores.items()}


def _together(scores: dict[str, Any], rates: dict[str, float], unit: str) -> dict[str, Any]:
    """The same, ranked in one row."""
    row = list(scores.values())
    k = kernels.of(*row)
    flags = _lowest(k.cat(row, 0), next(iter(rates.values())), "the model", unit)
    pruned, start = {}, 0
    for name, own in scores.items():
        pruned[name] = k.getitem(flags, slice(start, start + own.size))
        start += own.size
        if k.count_nonzero(pruned[name]) == own.size:
            raise ValueError(
                f"prune: layer {name!r} would lose everything at this global rate; choose a lower one, "
                f"scope='layer', or leave the layer out of layers="
            )
    return pruned


def _lowest(scores: Any, rate: float, where: str, unit: str) -> Any:
    k = kernels.of(scores)
    count, already = round(rate * scores.size), k.count_nonzero(k.lt(scores, 0))
    if count == scores.size:
        raise ValueError(
            f"prune: rate {rate} would prune all {scores.size} {unit}s of {where}; choose a lower one"
        )
    if already > count:
        raise ValueError(
            f"prune: {where} has {already} of {scores.size} {unit}s pruned already, and rate {rate} is "
            f"{count}; choose a higher one, hard=False, or remove_masks first"
        )
    return k.smallest(scores, count)


def _keeps(chosen: dict[str, Module], pruned: dict[str, Any], unit: str) -> dict[str, Any]:
    """What stays, a bool per weight."""
    return {
        name: kernels.of(flags).logical_not(Units.of(chosen[name], unit).spread(flags))
        for name, flags in pruned.items()
    }


def _set_masks(
    model: Module, chosen: dict[str, Module], keeps: dict[str, Any], hard: bool
) -> dict[str, float]:
    for name, layer in chosen.items():
        mask, keep = find(layer, "weight", "mask"), keeps[name]
        if hard and mask is not None:
            keep = kernels.of(keep).logical_and(keep, mask.keep.data)
        set_mask(layer, "weight", keep, hard=hard)
    return sparsities(model, chosen)
