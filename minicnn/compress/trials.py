"""The table of a search: one row for each trial; sorted, averaged over seeds, as Markdown and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

SMALL_IS_GOOD = ("loss", "error", "seconds", "bytes", "parameters", "macs")


@dataclass(frozen=True)
class Trial:
    """One training: its setting and seed, named results, or the error that ended it."""

    setting: dict[str, Any]
    seed: int
    results: dict[str, float]
    seconds: float
    error: str | None = None


class Table:
    """Trials in order. `by` is the name of a result; by default the first one of the first that succeeded."""

    def __init__(self, trials: list[Trial]) -> None:
        self.trials = list(trials)

    def __len__(self) -> int:
        return len(self.trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials)

    def __getitem__(self, index: int) -> Trial:
        return self.trials[index]

    @property
    def failed(self) -> list[Trial]:
        """Trials that ended with an error."""
        return [trial for trial in self.trials if trial.error is not None]

    def sort(self, by: str | None = None, *, largest: bool | None = None) -> Table:
        """A table from best to worst, ties in their order; failures and NaN last.

        largest: whether large is good; by default unless the name ends in loss, error, seconds, bytes,
        parameters or macs. Raises ValueError for an unknown name.
        """
        name = self._name(by)
        sign = -1.0 if _large_is_good(name, largest) else 1.0

        def rank(trial: Trial) -> tuple[bool, float]:
            value = sign * _value(trial, name)
            return (True, 0.0) if math.isnan(value) else (False, value)

        return Table(sorted(self.trials, key=rank))

    def best(self, by: str | None = None, *, largest: bool | None = None) -> Trial:
        """The best trial, as `sort` has it. Raises ValueError if all failed."""
        name = self._name(by)
        first = self.sort(name, largest=largest).trials[0]
        if math.isnan(_value(first, name)):
            raise ValueError(f"best: no trial has a {name}; the first ended with {self.trials[0].error}")
        return first

    def over_seeds(self) -> list[dict[str, Any]]:
        """For every setting {"setting", "trials": that succeeded, "mean", "deviation": by result}.

        The deviation is that of a sample (n - 1), 0 for a single trial.
        """
        rows = []
        for key in dict.fromkeys(_key(trial) for trial in self.trials):
            same = [trial for trial in self.trials if _key(trial) == key]
            good = [trial.results for trial in same if trial.error is None]
            columns = {
                name: [one[name] for one in good if name in one]
                for name in dict.fromkeys(n for g in good for n in g)
            }
            means = {name: math.fsum(values) / len(values) for name, values in columns.items()}
            deviations = {
                name: math.sqrt(math.fsum((x - means[name]) ** 2 for x in values) / max(len(values) - 1, 1))
                for name, values in columns.items()
            }
            rows.append(
                {"setting": same[0].setting, "trials": len(good), "mean": means, "deviation": deviations}
            )
        return rows

    def to_markdown(self) -> str:
        """One line for each trial: setting, seed, results, seconds, error."""
        settings = list(dict.fromkeys(name for trial in self.trials for name in trial.setting))
        results = list(dict.fromkeys(name for trial in self.trials for name in trial.results))
        header = [*settings, "seed", *results, "seconds"] + ["error"] * bool(self.failed)
        lines = [header, ["---"] * len(header)]
        for trial in self.trials:
            cells = [_cell(trial.setting.get(name, "")) for name in settings]
            cells += [str(trial.seed), *(_cell(trial.results.get(name, "")) for name in results)]
            cells += [f"{trial.seconds:.1f}"] + [_cell(trial.error or "")] * bool(self.failed)
            lines.append(cells)
        return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)

    def to_json(self) -> str:
        """The trials as a JSON list. Numbers that are not finite are null: JSON has none."""
        return json.dumps([_plain(asdict(trial)) for trial in self.trials], indent=2)

    def _name(self, by: str | None) -> str:
        known = list(dict.fromkeys(name for trial in self.trials for name in trial.results))
        if not known:
            error = f"; the first ended with {self.trials[0].error}" if self.trials else ""
            raise ValueError(f"table: no trial has a result{error}")
        if by is not None and by not in known:
            raise ValueError(f"table: no result {by!r}; expected one of {', '.join(known)}")
        return known[0] if by is None else by

    def __str__(self) -> str:
        return self.to_markdown()


def _large_is_good(name: str, largest: bool | None) -> bool:
    return not name.endswith(SMALL_IS_GOOD) if largest is None else largest


def _value(trial: Trial, name: str) -> float:
    return trial.results.get(name, math.nan)


def _key(trial: Trial) -> str:
    return json.dumps(trial.setting, sort_keys=True, default=repr)


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, dict):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (int, float, str, bool, type(None))) else repr(value)
