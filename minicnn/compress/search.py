"""Hyper-parameter search: settings from a space, one training for each, and a table of what came out.

A space is a dict of names with lists of choices, or a `Range`. Trials are independent and seeded, so they may
run in any order and in several processes: the table is the same.
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import minicnn
from minicnn.compress.trials import Table, Trial
from minicnn.random import Generator

Setting = dict[str, Any]
Space = Mapping[str, Any]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    log: evenly by ratio instead of by difference. whole: whole numbers. points: how many a grid takes, spread
    from end to end; drawing at random needs none. Raises ValueError for ends that make no range.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    points: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"Range: expected low < high, got {self.low!r} and {self.high!r}")
        if self.log and self.low <= 0:
            raise ValueError(f"Range: a log scale begins above 0, got low={self.low!r}")
        if self.whole and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise ValueError(f"Range: expected whole ends, got {self.low!r} and {self.high!r}")
        if self.points is not None and self.points < 2:
            raise ValueError(f"Range: expected points of at least 2, got {self.points!r}")

    def at(self, share: float) -> float:
        """The number at `share` in [0, 1] of the way; the nearest whole one."""
        value = self._between(self.low, self.high, share)
        return round(value) if self.whole else value

    def draw(self, share: float) -> float:
        """As `at`, but of whole numbers all are equally likely, the two ends as well."""
        if not self.whole:
            return self.at(share)
        value = round(self._between(self.low - 0.5, self.high + 0.5, share))
        return int(min(max(value, self.low), self.high))

    def _between(self, low: float, high: float, share: float) -> float:
        value = low * (high / low) ** share if self.log else low + (high - low) * share
        return float(min(max(value, low), high))

    def grid(self) -> list[float]:
        """`points` numbers from end to end, each once."""
        if self.points is None:
            raise ValueError(f"grid: how many points of {self}? give Range(..., points=)")
        return list(dict.fromkeys(self.at(i / (self.points - 1)) for i in range(self.points)))


def grid(space: Space) -> list[Setting]:
    """All combinations, the last name changing fastest. Raises ValueError for a space that makes no sense."""
    axes = _checked(space)
    choices = [axis.grid() if isinstance(axis, Range) else axis for axis in axes.values()]
    return [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*choices)]


def random(space: Space, n: int, seed: int = 0) -> list[Setting]:
    """`n` settings drawn independently; the same for the same seed. Raises as `grid`, and for n below 1."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"random: expected n of at least 1, got {n!r}")
    axes = _checked(space)
    shares = Generator(seed).uniform((n, len(axes)), dtype=minicnn.float64).tolist()
    return [
        {
            name: axis.draw(share) if isinstance(axis, Range) else axis[int(share * len(axis))]
            for (name, axis), share in zip(axes.items(), row, strict=True)
        }
        for row in shares
    ]


def search(
    train: Callable[..., Any],
    space: Space | Sequence[Setting],
    *,
    n: int | None = None,
    jobs: int = 1,
    seeds: Iterable[int] = (0,),
    report: Callable[[Trial], None] | None = None,
) -> Table:
    """Call train(**setting, seed=seed) for every setting and seed; gives a Table of the results.

    train: gives a number, or a dict of named numbers; minicnn's generator starts from `seed` in each trial.
    space: a space, of which all combinations are tried, or with `n` so many drawn at random (from the first
    seed); or a list of settings. An exception in a trial is recorded in its row, and the search goes on.
    jobs: processes side by side, through joblib (the extra 'search'; in one process without it), which then
    share the cores; `train` must be picklable, as functions of a module are. report: called in this process
    with every trial that ends.

    Raises ValueError for spaces, n, jobs and seeds that make no sense.
    """
    seeds = list(seeds)
    if not seeds or any(isinstance(seed, bool) or not isinstance(seed, int) for seed in seeds):
        raise ValueError(f"search: expected seeds to be one or more integers, got {seeds!r}")
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise ValueError(f"search: expected jobs of at least 1, got {jobs!r}")
    if isinstance(space, Mapping):
        settings = grid(space) if n is None else random(space, n, seeds[0])
    else:
        settings = list(space)
        if n is not None or not settings:
            raise ValueError("search: expected a space with n, or a list of one or more settings without n")
    if any("seed" in setting for setting in settings):
        raise ValueError("search: 'seed' is not a part of the space; give seeds=")
    work = [(setting, seed) for setting in settings for seed in seeds]
    found: dict[int, Trial] = {}
    for number, trial in _run(train, work, jobs):
        found[number] = trial
        if report is not None:
            report(trial)
    return Table([found[number] for number in range(len(work))])


def _run(
    train: Callable[..., Any], work: list[tuple[Setting, int]], jobs: int
) -> Iterator[tuple[int, Trial]]:
    """Numbered trials as they end."""
    if jobs > 1:
        try:
            import joblib
        except ImportError:
            warnings.warn(
                "search: jobs > 1 needs joblib (pip install 'minicnn[search]'); trials run one after another",
                stacklevel=3,
            )
        else:
            # Its workers start with a share of the cores: it sets Numba's and BLAS's variables for them.
            parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
            yield from parallel(joblib.delayed(_trial)(i, train, *one) for i, one in enumerate(work))
            return
    for i, one in enumerate(work):
        yield _trial(i, train, *one)


def _trial(number: int, train: Callable[..., Any], setting: Setting, seed: int) -> tuple[int, Trial]:
    """One training; the generator of this process is put back after it."""
    before, began = minicnn.get_rng_state(), time.perf_counter()
    minicnn.manual_seed(seed)
    results: dict[str, float] = {}
    error = None
    try:
        outcome = train(**setting, seed=seed)
        named = outcome if isinstance(outcome, Mapping) else {"result": outcome}
        results = {str(name): float(value) for name, value in named.items()}
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    finally:
        minicnn.set_rng_state(before)
    return number, Trial(dict(setting), seed, results, time.perf_counter() - began, error)


def _checked(space: Space) -> dict[str, list[Any] | Range]:
    """Choices as lists, and ranges, which may also be written {"low": ..., "high": ...}."""
    if not space:
        raise ValueError("search: expected a space with one or more names, got none")
    axes: dict[str, list[Any] | Range] = {}
    for name, axis in space.items():
        if isinstance(axis, Mapping):
            try:
                axis = Range(**axis)
            except TypeError as problem:
                raise ValueError(
                    f"search: {name}: expected low, high, log, whole, points; {problem}"
                ) from None
        elif not isinstance(axis, Range):
            if isinstance(axis, str) or not isinstance(axis, Sequence) or not len(axis):
                raise ValueError(f"search: {name}: expected a list of choices or a Range, got {axis!r}")
            axis = list(axis)
        axes[name] = axis
    return axes
