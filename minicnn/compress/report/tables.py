"""The tables of a report, as plain rows that Markdown and HTML show alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from minicnn.compress.report.choose import pareto

NOTE_ON_BYTES = (
    "Bytes are computed: the cheapest plain coding of each layer's weights, tables included. "
    "They are not the size of a file."
)


class Table(NamedTuple):
    """A heading, rows of text, and a sentence below; the first column is a name, the others are numbers."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """All tables of a report (see `write_reports`)."""
    yield _totals(report)
    yield _layers(report)
    if "per_class" in report["after"]:
        yield _classes(report)
    if report["compare"]:
        yield _comparison(report)
    if report["history"]:
        yield _training(report)


def points(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The models of a report by name, each with accuracy and the totals: what a Pareto plot shows."""
    known = dict(report["compare"])
    if report["before"] and "accuracy" in report["before"]:
        known["before"] = _point(report["before"])
    if "accuracy" in report["after"]:
        known[report["name"]] = _point(report["after"])
    return known


def _point(numbers: dict[str, Any]) -> dict[str, Any]:
    return {"accuracy": numbers["accuracy"], **numbers["total"]}


def when(report: dict[str, Any]) -> str:
    """What 'before' means in this report."""
    epochs = report["before"]["epochs"]
    if not epochs:
        return "Before: the network that compression began with."
    return f"Before: the network after {epochs} of {report['epochs']} epochs, when the first step happened."


def _totals(report: dict[str, Any]) -> Table:
    before, after = report["before"], report["after"]
    rows = []
    for key, name in (("accuracy", "accuracy"), ("loss", "loss")):
        if key in after:
            shown = f"{after[key]:.2%}" if key == "accuracy" else f"{after[key]:.4f}"
            row = [name, shown]
            if before:
                change = after[key] - before[key]
                row[1:1] = [f"{before[key]:.2%}" if key == "accuracy" else f"{before[key]:.4f}"]
                row.append(f"{100 * change:+.2f} points" if key == "accuracy" else f"{change:+.4f}")
            rows.append(row)
    for key, name in (
        ("parameters", "parameters"),
        ("nonzeros", "parameters that are not zero"),
        ("bytes", "computed bytes"),
        ("macs", "MACs per image, dense"),
        ("macs_nonzero", "MACs per image without those by zero"),
    ):
        new = after["total"][key]
        row = [name, f"{new:,}"]
        if before:
            old = before["total"][key]
            row[1:1] = [f"{old:,}"]
            row.append(
                f"{old / max(new, 1):.1f} times less" if new < old else "as before" if new == old else "more"
            )
        rows.append(row)
    header = ["", "before", "after", ""] if before else ["", "after"]
    return Table("In all", header, rows, f"{when(report)} {NOTE_ON_BYTES}" if before else NOTE_ON_BYTES)


def _layers(report: dict[str, Any]) -> Table:
    before = {layer["name"]: layer for layer in (report["before"] or {"layers": []})["layers"]}
    rows = []
    for layer in report["after"]["layers"]:
        old = before.get(layer["name"], layer)
        size = max(layer["parameters"], 1)
        rows.append(
            [
                layer["name"],
                layer["kind"],
                f"{old['parameters']:,}",
                f"{layer['nonzeros']:,}",
                f"{1 - layer['nonzeros'] / size:.1%}",
                str(layer["bits"]),
                layer["form"],
                f"{old['bytes']:,}",
                f"{layer['bytes']:,}",
                f"{layer['macs']:,}",
                f"{layer['macs_nonzero']:,}",
            ]
        )
    header = ["layer", "kind", "parameters", "not zero", "zeros", "bits", "coded as"]
    header += ["bytes before", "bytes after", "MACs", "MACs not by zero"]
    return Table("Layer by layer", header, rows)


def _classes(report: dict[str, Any]) -> Table:
    before = (report["before"] or {}).get("per_class", {})
    rows = []
    for name, share in report["after"]["per_class"].items():
        old = before.get(name)
        known = share is not None and old is not None
        change = f"{100 * (share - old):+.1f}" if known else ""
        rows.append([name, *(["" if old is None else f"{old:.1%}"] if before else [])])
        rows[-1] += ["no images" if share is None else f"{share:.1%}", *([change] if before else [])]
    header = ["class", "before", "after", "points"] if before else ["class", "accuracy"]
    return Table("Class by class", header, rows)


def _comparison(report: dict[str, Any]) -> Table:
    known = points(report)
    front = pareto(known)
    rows = [
        [name, f"{numbers['accuracy']:.2%}", f"{numbers['bytes']:,}", f"{numbers['nonzeros']:,}",
         f"{numbers['macs_nonzero']:,}", "yes" if name in front else ""]
        for name, numbers in sorted(known.items(), key=lambda entry: entry[1]["bytes"])
    ]  # fmt: skip
    header = ["model", "accuracy", "bytes", "not zero", "MACs not by zero", "unbeaten"]
    note = "Unbeaten: no other model here is as small and as accurate, and better in one."
    return Table("Beside other models", header, rows, note)


def _training(report: dict[str, Any]) -> Table:
    columns = [key for key in ("loss", "accuracy", "validation_loss", "validation_accuracy") if key in
               report["history"][-1]]  # fmt: skip
    rows = [
        [
            str(row["epoch"]),
            *(f"{row[key]:.2%}" if "accuracy" in key else f"{row[key]:.4f}" for key in columns),
        ]
        for row in report["history"]
    ]
    header = ["epoch", *(key.replace("validation", report["watched"]).replace("_", " ") for key in columns)]
    return Table("Epoch by epoch", header, rows)
