"""Observers: the ranges they take from distributions whose best range is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import minicnn
import minicnn_kernels as kernels
from minicnn.compress import OBSERVERS, FakeQuantize
from minicnn.compress.observers import (
    Entropy,
    Histogram,
    LeastError,
    MinMax,
    Moving,
    Percentile,
    make_observer,
)


def seen(observer, *batches):
    for batch in batches:
        observer.see(minicnn.tensor(np.asarray(batch, np.float32)))
    return observer


def signed(bits):
    return FakeQuantize(bits)


@pytest.mark.parametrize("make", OBSERVERS.values(), ids=OBSERVERS)
def test_nothing_seen_and_zeros_seen_give_an_empty_range(make):
    assert make().range(signed(8)) == (0, 0)
    assert seen(make(), np.zeros(5)).range(signed(8)) == (0, 0)


@pytest.mark.parametrize("make", OBSERVERS.values(), ids=OBSERVERS)
def test_ranges_hold_zero_and_lie_within_what_was_seen(make, rng):
    for values in (rng.uniform(2, 5, 1000), rng.uniform(-5, -2, 1000), rng.standard_normal(1000)):
        low, high = seen(make(), values).range(FakeQuantize(8, signed=False, symmetric=False))
        assert np.float32(min(values.min(), 0)) <= low <= 0 <= high <= np.float32(max(values.max(), 0))


@pytest.mark.parametrize("make", OBSERVERS.values(), ids=OBSERVERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(make, bad):
    with pytest.raises(ValueError, match=r"activation of shape \(2,\) is infinite or no number"):
        seen(make(), [1.0, bad])


def test_minmax_is_the_range_of_all_batches():
    assert seen(MinMax(), [1.0, -3.0], [7.0], [2.0]).range(signed(8)) == (-3, 7)


def test_moving_averages_begin_with_the_first_batch():
    low, high = seen(Moving(0.25), [-1.0, 4.0], [-3.0, 8.0], [0.0]).range(signed(8))
    assert low == pytest.approx((-1 - 0.25 * 2) * 0.75)
    assert high == pytest.approx((4 + 0.25 * 4) * 0.75)


@example([[1.0], [1.5]])
@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=9), min_size=1, max_size=6))
def test_a_histogram_does_not_depend_on_the_order_in_which_values_come(batches):
    one, other = Histogram(), Histogram()
    seen(one, *batches)
    seen(other, *reversed(batches))
    assert one.width == other.width
    np.testing.assert_array_equal(one.counts, other.counts)
    values = np.concatenate([np.float32(batch) for batch in batches])
    assert one.counts.sum() == values.size
    k = kernels.backend("reference")
    np.testing.assert_array_equal(one.counts, k.histogram(values, one.width, one.bins))
    np.testing.assert_array_equal(k.widen(one.counts), k.histogram(values, 2 * one.width, one.bins))


def test_a_percentile_cuts_both_tails(rng):
    values = rng.standard_normal(200_000)
    values[0] = 1e4
    observer = seen(Percentile(99), *np.split(values, 4))
    low, high = observer.range(signed(8))
    assert observer.width == 8  # so that 1e4 has a bin; finer ones are had without it
    observer = seen(Percentile(99), values[1:])
    low, high = observer.range(signed(8))
    assert low == pytest.approx(
        -2.576, abs=2 * observer.width + 0.02
    )  # the normal distribution's 0.5 percent
    assert high == pytest.approx(2.576, abs=2 * observer.width + 0.02)
    assert seen(Percentile(100), [-1.0, 3.0]).range(signed(8)) == (-1, 3)


@pytest.mark.parametrize(
    ("bits", "limit"), [(2, 1.22), (3, 2.05), (4, 2.57), (5, 3.05)], ids=lambda value: str(value)
)
def test_the_range_that_errs_least_on_a_normal_distribution(rng, bits, limit):
    """The best uniform quantizers with 2^b - 1 levels, 0 among them (Max 1960 has neighbouring counts)."""
    low, high = seen(LeastError(), rng.standard_normal(400_000)).range(signed(bits))
    assert max(-low, high) == pytest.approx(limit, rel=0.06)


def test_the_range_that_errs_least_is_better_than_the_extremes(rng):
    values = np.concatenate([rng.laplace(0, 1, 100_000), [40.0]]).astype(np.float32)
    x = minicnn.tensor(values)
    errors = {}
    for name in OBSERVERS:
        quantizer = signed(4).eval()
        quantizer.set_range(*seen(make_observer(name), values).range(quantizer))
        errors[name] = float(np.square((quantizer(x) - x).numpy()).mean())
    assert errors["mse"] == min(errors.values())
    assert errors["mse"] < errors["minmax"] / 10


def test_entropy_keeps_a_uniform_distribution_and_cuts_a_tail(rng):
    _, high = seen(Entropy(), rng.uniform(-1, 1, 200_000)).range(signed(8))
    assert high > 0.95
    tail = np.concatenate([rng.standard_normal(200_000), [60.0]])
    _, high = seen(Entropy(), tail).range(signed(8))
    assert 3 < high < 20
    rectified = np.maximum(rng.standard_normal(200_000), 0)
    low, high = seen(Entropy(), rectified).range(FakeQuantize(8, signed=False))
    assert low == 0
    assert high > 2.5


def test_entropy_keeps_the_bright_side_of_images_with_a_dark_background(rng):
    """Normalized, most pixels are one negative number; counted by magnitude it would hide what is cut off."""
    images = np.where(rng.random(100_000) < 0.6, -0.81, rng.uniform(-0.81, 2.02, 100_000))
    low, high = seen(Entropy(), images).range(FakeQuantize(8, signed=False, symmetric=False))
    assert low == pytest.approx(-0.81, abs=0.01)
    assert high > 1.9


def test_least_error_of_weights_is_searched_channel_by_channel(rng):
    w = rng.standard_normal((3, 20_000)).astype(np.float32)
    w *= np.float32([[1], [0.1], [0]])
    k = kernels.of(w)
    low, high = k.least_error_values(w, 0, -7, 7, True, False)
    np.testing.assert_allclose(np.maximum(-low, high)[:2], [2.57, 0.257], rtol=0.06)
    assert low[2] == high[2] == 0
    one = k.least_error_values(w[0], None, -7, 7, True, False)
    np.testing.assert_allclose([one[0], one[1]], [low[0], high[0]], rtol=1e-6)


def test_observers_of_ones_own_can_be_given():
    assert isinstance(make_observer(lambda: Percentile(99.0)), Percentile)
    with pytest.raises(ValueError, match="unknown observer 'klk': did you mean 'kl'"):
        make_observer("klk")


@pytest.mark.parametrize(
    ("make", "message"), [(lambda: Percentile(0), "percent in"), (lambda: Moving(2), "momentum")]
)
def test_options_out_of_range_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()
