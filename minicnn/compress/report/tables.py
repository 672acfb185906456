"""The tables of a report, as plain rows that Markdown and HTML show alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


class Page(NamedTuple):
    """What a report shows, whatever it is shown as: a name, a sentence, a list of lines, tables."""

    name: str
    description: str
    lines: Sequence[str]
    tables: Sequence[Table]


def page(report: dict[str, Any]) -> Page:
    """What the report of a compression shows (see `write_reports`)."""
    return Page(report["name"], report["description"], report["timeline"], list(tables(report)))


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
    own = {"before": report["before"], report["name"]: report["after"]}
    return report["compare"] | {
        name: {"accuracy": numbers["accuracy"], **numbers["total"]}
        for name, numbers in own.items()
        if "accuracy" in numbers
    }


def _totals(report: dict[str, Any]) -> Table:
    before, after = report["before"], report["after"]
    rows = [
        ["loss", f"{before['loss']:.4f}", f"{after['loss']:.4f}", f"{after['loss'] - before['loss']:+.4f}"]
    ]
    if "accuracy" in after:
        old, new = before["accuracy"], after["accuracy"]
        rows.insert(0, ["accuracy", f"{old:.2%}", f"{new:.2%}", f"{100 * (new - old):+.2f} points"])
    for key, name in (
        ("parameters", "parameters"),
        ("nonzeros", "parameters that are not zero"),
        ("bytes", "computed bytes"),
        ("macs", "MACs per image, dense"),
        ("macs_nonzero", "MACs per image without those by zero"),
    ):
        old, new = before["total"][key], after["total"][key]
        change = "as before" if new == old else f"{old / max(new, 1):.1f} times less" if new < old else "more"
        rows.append([name, f"{old:,}", f"{new:,}", change])
    epochs = before["epochs"]
    when = f"after {epochs} of {report['epochs']} epochs, when the first step happened"
    note = f"Before: the network {when if epochs else 'that compression began with'}. {NOTE_ON_BYTES}"
    return Table("In all", ["", "before", "after", ""], rows, note)


def _layers(report: dict[str, Any]) -> Table:
    before = {layer["name"]: layer for layer in report["before"]["layers"]}
    rows = []
    for layer in report["after"]["layers"]:
        old = before.get(layer["name"], layer)
        zeros = 1 - layer["nonzeros"] / max(layer["parameters"], 1)
        numbers = [old["bytes"], layer["bytes"], layer["macs"], layer["macs_nonzero"]]
        rows.append(
            [layer["name"], layer["kind"], f"{layer['parameters']:,}", f"{layer['nonzeros']:,}",
             f"{zeros:.1%}", str(layer["bits"]), layer["form"], *(f"{number:,}" for number in numbers)]
        )  # fmt: skip
    header = ["layer", "kind", "parameters", "not zero", "zeros", "bits", "coded as"]
    header += ["bytes before", "bytes after", "MACs", "MACs not by zero"]
    return Table("Layer by layer", header, rows)


def _classes(report: dict[str, Any]) -> Table:
    rows = []
    for name, new in report["after"]["per_class"].items():
        old = report["before"]["per_class"][name]
        if new is None or old is None:
            rows.append([name, "", "no images", ""])
        else:
            rows.append([name, f"{old:.1%}", f"{new:.1%}", f"{100 * (new - old):+.1f}"])
    return Table("Class by class", ["class", "before", "after", "points"], rows)


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
    known = ("loss", "accuracy", "validation_loss", "validation_accuracy")
    columns = [key for key in known if key in report["history"][-1]]
    rows = [
        [str(row["epoch"]), *(f"{row[key]:{'.2%' if 'accuracy' in key else '.4f'}}" for key in columns)]
        for row in report["history"]
    ]
    header = ["epoch", *(key.replace("validation", report["watched"]).replace("_", " ") for key in columns)]
    return Table("Epoch by epoch", header, rows)
