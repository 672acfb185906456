"""The record of an experiment: finished rows by name and seed, kept on disk after each of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from bench import record as bench_record

FOLDER = bench_record.RESULTS / "compression"


class Record:
    """Rows {name: {seed: numbers}} in a JSON file, with the settings that they were made under.

    Raises ValueError if the file holds rows of other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.rows: dict[str, dict[str, dict[str, Any]]] = {}
        if path.exists():
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["settings"] != settings:
                raise ValueError(
                    f"{path}: holds results for {held['settings']}, not for {settings}; "
                    f"move it away, or name another file with --output"
                )
            self.rows = held["rows"]

    def get(self, name: str, seed: int) -> dict[str, Any] | None:
        """The numbers of a finished row."""
        return self.rows.get(name, {}).get(str(seed))

    def add(self, name: str, seed: int, numbers: dict[str, Any]) -> None:
        """Keep the numbers of a row that is finished."""
        self.rows.setdefault(name, {})[str(seed)] = numbers
        text = json.dumps(
            {
                "experiment": self.path.stem,
                "settings": self.settings,
                "machine": bench_record.machine(),
                "rows": self.rows,
            },
            indent=1,
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(self.path)

    def write_table(self, title: str, table: str, command: str) -> None:
        """The Markdown file beside the record."""
        text = f"# {title}\n\n`{command}`\n\n{table}\n"
        self.path.with_suffix(".md").write_text(text, encoding="utf-8")


def across(seeds: dict[str, dict[str, Any]], key: Callable[[dict[str, Any]], float]) -> tuple[float, float]:
    """Mean and standard deviation of a number over the seeds of a row."""
    values = [key(numbers) for numbers in seeds.values()]
    return fmean(values), stdev(values) if len(values) > 1 else 0.0
