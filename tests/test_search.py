"""Hyper-parameter search: spaces, seeds, failures, several processes, and the table."""

import builtins
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minicnn
from minicnn import nn, optim
from minicnn.compress import Range, Table, Trial, search
from minicnn.compress.search import grid, random


def parabola(x, y=0.0, seed=0):
    return (x - 2) ** 2 + y


def draws(x, seed):
    return {"draw": minicnn.rand(1).item() + 0 * x, "seed": seed}


def fails_at_two(x, seed):
    if x == 2:
        raise ValueError("two | is too\nmany")
    return {"accuracy": x, "loss": -x}


def trains(lr, width, seed):
    """A small regression; lr is what article 003, item 2.2, says to choose first."""
    x = minicnn.randn(64, 3)
    y = x.sum(dim=1, keepdim=True).relu()
    model = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 1))
    optimizer = optim.SGD(model.parameters(), lr=lr)
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
    return {"loss": loss.item()}


def test_a_grid_is_every_combination():
    space = {"lr": Range(0.01, 1, log=True, points=3), "bits": [8, 4], "name": ("a",)}
    settings = grid(space)
    assert [(s["lr"], s["bits"]) for s in settings] == [
        (pytest.approx(lr), bits) for lr in (0.01, 0.1, 1) for bits in (8, 4)
    ]
    assert grid({"k": Range(1, 4, whole=True, points=9)}) == [{"k": k} for k in (1, 2, 3, 4)]
    assert grid({"k": {"low": 0, "high": 1, "points": 2}}) == [{"k": 0.0}, {"k": 1.0}]


@given(st.integers(0, 2**32), st.integers(1, 30))
def test_random_settings_lie_in_the_space_and_repeat(seed, n):
    space = {
        "lr": Range(1e-4, 1e-1, log=True),
        "p": Range(-1, 1),
        "k": Range(2, 5, whole=True),
        "c": ["a", "b"],
    }
    settings = random(space, n, seed)
    assert settings == random(space, n, seed)
    for s in settings:
        assert 1e-4 <= s["lr"] <= 1e-1
        assert -1 <= s["p"] <= 1
        assert s["k"] in (2, 3, 4, 5)
        assert isinstance(s["k"], int)
        assert s["c"] in "ab"


def test_random_settings_are_spread_evenly():
    settings = random({"lr": Range(1e-4, 1, log=True), "k": Range(1, 4, whole=True), "c": [1, 2]}, 4000, 1)
    exponents = np.log10([s["lr"] for s in settings])
    np.testing.assert_allclose(np.histogram(exponents, 4, (-4, 0))[0], 1000, atol=120)
    np.testing.assert_allclose(np.bincount([s["k"] for s in settings])[1:], 1000, atol=120)
    assert abs(sum(s["c"] == 1 for s in settings) - 2000) < 150


def test_the_best_setting_of_a_training_is_found():
    """Article 003, item 2.2: learning rate and width are chosen by trying, not by feeling."""
    table = search(trains, {"lr": [1e-4, 0.1, 1e4], "width": [8]}, seeds=(0, 1))
    assert len(table) == 6
    assert table.best("loss").setting["lr"] == 0.1
    assert [row["setting"]["lr"] for row in table.over_seeds()] == [1e-4, 0.1, 1e4]


def test_every_trial_starts_from_its_seed_and_the_generator_is_put_back():
    minicnn.manual_seed(5)
    before = minicnn.get_rng_state()
    table = search(draws, {"x": [1, 2]}, seeds=(3, 4))
    assert minicnn.get_rng_state() == before
    assert [t.seed for t in table] == [3, 4, 3, 4]
    assert table[0].results == table[2].results
    assert table[0].results["draw"] != table[1].results["draw"]
    minicnn.manual_seed(3)
    assert table[0].results["draw"] == minicnn.rand(1).item()


def test_random_search_tries_as_many_as_it_is_told():
    table = search(parabola, {"x": Range(0, 4), "y": Range(0, 1)}, n=40, seeds=(2,))
    assert [t.setting for t in table] == random({"x": Range(0, 4), "y": Range(0, 1)}, 40, 2)
    assert table.best(largest=False).results["result"] == min(t.results["result"] for t in table) < 0.5
    assert [t.setting for t in search(parabola, [{"x": 1}, {"x": 3}])] == [{"x": 1}, {"x": 3}]


def test_a_failing_trial_is_recorded_and_the_others_go_on():
    seen = []
    table = search(fails_at_two, {"x": [1, 2, 3]}, report=seen.append)
    assert seen == list(table)
    assert [t.error for t in table] == [None, "ValueError: two | is too\nmany", None]
    assert table.failed == [table[1]]
    assert table.best("accuracy").setting == {"x": 3}
    assert [t.setting["x"] for t in table.sort("accuracy")] == [3, 1, 2]
    assert [t.setting["x"] for t in table.sort("accuracy", largest=False)] == [1, 3, 2]
    assert [t.setting["x"] for t in table.sort("loss")] == [3, 1, 2]
    with pytest.raises(ValueError, match="no trial has a result; the first ended with ValueError: two"):
        search(fails_at_two, {"x": [2]}).best()
    with pytest.raises(KeyboardInterrupt):
        search(interrupts, {"x": [1]})


def interrupts(x, seed):
    raise KeyboardInterrupt


def test_several_processes_find_the_same_table():
    pytest.importorskip("joblib")
    space = {"lr": [0.01, 0.1], "width": [4]}
    alone, side_by_side = search(trains, space, seeds=(0, 1)), search(trains, space, seeds=(0, 1), jobs=2)
    for a, b in zip(alone, side_by_side, strict=True):
        assert (a.setting, a.seed, a.error) == (b.setting, b.seed, b.error)
        assert a.results == b.results
    failed = search(fails_at_two, {"x": [1, 2]}, jobs=2)
    assert [t.error is None for t in failed] == [True, False]


def test_without_joblib_trials_run_one_after_another_and_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def absent(name, *arguments, **options):
        if name == "joblib":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.warns(UserWarning, match=r"pip install 'minicnn\[search\]'"):
        table = search(parabola, {"x": [1, 2, 3]}, jobs=2)
    assert [t.results["result"] for t in table] == [1, 0, 1]


def test_means_and_deviations_over_seeds():
    trials = [Trial({"x": 1}, seed, {"a": value}, 1.0) for seed, value in enumerate((1.0, 2.0, 6.0))]
    trials += [Trial({"x": 2}, 0, {"a": 5.0}, 1.0), Trial({"x": 2}, 1, {}, 1.0, "E: e")]
    first, second = Table(trials).over_seeds()
    assert (first["setting"], first["trials"], first["mean"]) == ({"x": 1}, 3, {"a": 3.0})
    assert first["deviation"]["a"] == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert (second["trials"], second["mean"], second["deviation"]) == (1, {"a": 5.0}, {"a": 0.0})


def test_the_table_as_markdown_and_json():
    table = search(fails_at_two, {"x": [1, 2]})
    lines = table.to_markdown().splitlines()
    assert lines[0] == "| x | seed | accuracy | loss | seconds | error |"
    assert lines[1] == "| --- | --- | --- | --- | --- | --- |"
    assert lines[2] == "| 1 | 0 | 1 | -1 | 0.0 |  |"
    assert lines[3] == r"| 2 | 0 |  |  | 0.0 | ValueError: two \| is too many |"
    rows = json.loads(table.to_json())
    assert rows[0]["setting"] == {"x": 1}
    assert rows[0]["results"] == {"accuracy": 1.0, "loss": -1.0}
    assert rows[1]["error"].startswith("ValueError")
    odd = Table([Trial({"x": (1, object)}, 0, {"a": math.nan}, 0.1)])
    assert json.loads(odd.to_json())[0]["results"] == {"a": None}
    assert len(Table([])) == 0


def test_nan_is_worse_than_any_number():
    table = Table(
        [Trial({"x": i}, 0, {"a": value}, 0.1) for i, value in enumerate((math.nan, 1.0, -math.inf))]
    )
    assert [t.setting["x"] for t in table.sort("a")] == [1, 2, 0]
    assert table.best("a", largest=False).setting == {"x": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": {}}, "one or more names, got none"),
        ({"space": {"x": []}}, "x: expected a list of choices or a Range"),
        ({"space": {"x": "abc"}}, "x: expected a list of choices"),
        ({"space": {"x": {"low": 1, "hihg": 2}}}, "x: expected low, high, log, whole, points; .*hihg"),
        ({"space": {"x": Range(0, 1)}}, r"how many points"),
        ({"space": {"x": [1]}, "n": 0}, "n of at least 1, got 0"),
        ({"space": {"x": [1]}, "jobs": 0}, "jobs of at least 1, got 0"),
        ({"space": {"x": [1]}, "seeds": ()}, "seeds to be one or more integers"),
        ({"space": {"x": [1], "seed": [1]}}, "'seed' is not a part of the space"),
        ({"space": [{"x": 1}], "n": 3}, "without n"),
        ({"space": []}, "one or more settings"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        search(parabola, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 1), "low < high, got 2 and 1"),
        ((0, math.inf), "low < high"),
        ((0, 1, True), "above 0, got low=0"),
        ((0.5, 3, False, True), "whole ends"),
        ((0, 1, False, False, 1), "points of at least 2"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Range(*arguments)


def test_an_unknown_result_is_named():
    table = search(parabola, {"x": [1]})
    with pytest.raises(ValueError, match="no result 'los'; expected one of result"):
        table.sort("los")
