"""Mixed bits: few where they cost little accuracy, more where they cost much, under a budget of bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from minicnn.compress.fake_quantize import FakeQuantize
from minicnn.compress.placement import QUANTIZABLE
from minicnn.compress.select import Layers, select_layers
from minicnn.nn.transform import attach, attached, detach, raw


class MixedBits(NamedTuple):
    """Bits of every layer's weight, and what they were chosen by.

    bits: for `quantize(layers_bits=...)`. nbytes: of all weights with these, scales and biases not counted.
    scores: of the model with this one layer at so many bits and all others in float32. score: with none.
    """

    bits: dict[str, int]
    nbytes: int
    scores: dict[tuple[str, int], float]
    score: float


def mixed_bits(
    model: Any,
    evaluate: Callable[[Any], float],
    *,
    budget: int,
    choices: Sequence[int] = (8, 4, 2),
    layers: Layers = None,
    per_channel: bool = True,
) -> MixedBits:
    """Choose the bits of every weight so that all together take at most `budget` bytes.

    evaluate: the score of the model, more is better; it is called once for each layer and choice, with the
    weights of that layer alone on the lattice that errs least. Then, from the most bits on, the layer is
    lowered that loses least for each byte it saves, until the budget holds, and what is left of it raises
    those again that gain most. Drops are taken to add up. The model is left as it was. Raises ValueError if
    the budget is too small for the fewest bits, or the model is quantized.
    """
    if next(attached(model, "quantize"), None) is not None:
        raise ValueError(f"mixed_bits: {type(model).__name__} is quantized; expected one that is not yet")
    bits = sorted(set(choices), reverse=True)
    if not bits:
        raise ValueError("mixed_bits: expected at least one number of bits to choose from, got no choices")
    for count in bits:
        FakeQuantize(count)  # tells of one that is out of range
    chosen = select_layers(model, layers, kinds=QUANTIZABLE)
    sizes = {name: raw(layer, "weight").numel() for name, layer in chosen.items()}
    least = sum(_bytes(size, bits[-1]) for size in sizes.values())
    if least > budget:
        raise ValueError(
            f"mixed_bits: expected a budget of at least {least} bytes, what the fewest of {bits} bits take, "
            f"got {budget}"
        )
    score = float(evaluate(model))
    scores = {}
    for name, layer in chosen.items():
        for count in bits:
            weight = layer.weight
            quantizer = FakeQuantize(count, channels=len(weight) if per_channel else None)
            quantizer.observe(weight, least_error=True)
            attach(layer, "weight", quantizer)
            try:
                scores[name, count] = float(evaluate(model))
            finally:
                detach(layer, "weight", "quantize")
    picked = _pick(sizes, bits, scores, budget)
    return MixedBits(picked, _total(sizes, picked), scores, score)


def _pick(
    sizes: dict[str, int], bits: list[int], scores: dict[tuple[str, int], float], budget: int
) -> dict[str, int]:
    picked = dict.fromkeys(sizes, bits[0])
    while _total(sizes, picked) > budget:
        lower = [(name, count) for name, now in picked.items() for count in bits if count < now]
        name, count = min(lower, key=lambda move: _price(move, picked, sizes, scores))
        picked[name] = count
    while True:
        spare = budget - _total(sizes, picked)
        higher = [
            (name, count)
            for name, now in picked.items()
            for count in bits
            if now < count and _bytes(sizes[name], count) - _bytes(sizes[name], now) <= spare
            and scores[name, count] > scores[name, now]
        ]  # fmt: skip
        if not higher:
            return picked
        name, count = max(higher, key=lambda move: scores[move] - scores[move[0], picked[move[0]]])
        picked[name] = count


def _price(
    move: tuple[str, int], picked: dict[str, int], sizes: dict[str, int], scores: dict[tuple[str, int], float]
) -> float:
    """What a byte costs that is saved by giving a layer so many bits."""
    name, count = move
    saved = _bytes(sizes[name], picked[name]) - _bytes(sizes[name], count)
    return (scores[name, picked[name]] - scores[move]) / max(saved, 1)


def _bytes(size: int, bits: int) -> int:
    return -(-size * bits // 8)


def _total(sizes: dict[str, int], picked: dict[str, int]) -> int:
    return sum(_bytes(size, picked[name]) for name, size in sizes.items())
