"""The plots of a deployed model's report. Need matplotlib."""

from __future__ import annotations

import functools
from typing import Any

from minicnn.compress.report.plots import AFTER, BEFORE, as_svg, bars
from minicnn.deploy.report.tables import points
from minicnn.viz import pareto


def svg_plots(report: dict[str, Any]) -> dict[str, str]:
    """SVG by title. Raises ImportError that names the extra to install if matplotlib is missing."""
    plots: dict[str, Any] = {}
    if report["before"] is not None and "per_class" in report["file"]:
        plots["Accuracy by class"] = functools.partial(_classes, report=report)
    if report["damage"] is not None:
        plots["Images forgotten and learned"] = functools.partial(_changes, damage=report["damage"])
        plots["Accuracy under attack"] = functools.partial(_attack, attack=report["damage"]["attack"])
    known = points(report)
    if len(known) > 1 and all("accuracy" in numbers for numbers in known.values()):
        plots["Accuracy against size"] = functools.partial(_pareto, known, "bytes", "bytes of the file")
        if all("latency_ms" in numbers for numbers in known.values()):
            plots["Accuracy against latency"] = functools.partial(
                _pareto, known, "latency_ms", "ms for one image"
            )
    return {title: as_svg(draw, (9, 3.6), title) for title, draw in plots.items()}


def _pareto(results: dict[str, Any], x: str, label: str, figure: Any) -> None:
    pareto(results, x, label=label, figure=figure)


def _classes(figure: Any, report: dict[str, Any]) -> None:
    before, after = report["before"]["per_class"], report["file"]["per_class"]
    old, new = ([100 * (numbers[name] or 0) for name in after] for numbers in (before, after))
    axes = bars(figure, list(after), old, new)
    axes.set_ylim(max(0, min(*old, *new) - 10), 100)
    axes.set_ylabel("accuracy, %")


def _changes(figure: Any, damage: dict[str, Any]) -> None:
    counts = damage["by_class"]
    axes = bars(
        figure,
        list(counts),
        [numbers["forgotten"] for numbers in counts.values()],
        [numbers["learned"] for numbers in counts.values()],
        labels=("forgotten", "learned"),
    )
    axes.set_ylabel("images")


def _attack(figure: Any, attack: dict[str, Any]) -> None:
    axes = figure.subplots()
    for name, color, marker in (("before", BEFORE, "s"), ("after", AFTER, "o")):
        epsilons = [float(epsilon) for epsilon in attack[name]]
        shares = [100 * share for share in attack[name].values()]
        axes.plot(epsilons, shares, color=color, marker=marker, markersize=5, label=name)
    axes.set_ylim(0, 100)
    axes.set_xlabel("every pixel moved by this share of the range from black to white")
    axes.set_ylabel("accuracy, %")
    axes.legend()
