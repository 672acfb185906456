"""The tables of a deployed model's report, for Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from minicnn.compress.report.choose import pareto
from minicnn.compress.report.tables import Page, Table
from minicnn.deploy.report.measure import point

_COMPARED = {
    "accuracy": ("accuracy", "{:.2%}"),
    "bytes": ("bytes", "{:,}"),
    "macs": ("MACs", "{:,}"),
    "latency_ms": ("ms, one image", "{:.3f}"),
    "latency_batch_ms": ("ms, a batch", "{:.3f}"),
    "memory_mib": ("peak MiB", "{:.0f}"),
}
_LISTED = 20  # indices of images


def page(report: dict[str, Any]) -> Page:
    """What a report shows (see `write_report`)."""
    return Page(report["name"], report["description"], _lines(report["file"]), list(_tables(report)))


def points(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The files of a report by name, each with the numbers that files are compared by."""
    own = {} if report["before"] is None else {"before": point(report["before"])}
    return report["compare"] | own | {report["name"]: point(report["file"])}


def comparison(known: Mapping[str, Mapping[str, Any]], title: str = "Beside other files") -> Table:
    """A table of files with the numbers of `point`, the smallest first; unbeaten ones are marked."""
    front = pareto_of_files(known)
    columns = [key for key in _COMPARED if any(key in numbers for numbers in known.values())]
    rows = [
        [name, *(_COMPARED[key][1].format(numbers[key]) if key in numbers else "" for key in columns),
         "yes" if name in front else ""]
        for name, numbers in sorted(known.items(), key=lambda entry: entry[1]["bytes"])
    ]  # fmt: skip
    note = (
        "Unbeaten: no other file here is as accurate, as small and as fast for one image, and better in one."
    )
    return Table(title, ["file", *(_COMPARED[key][0] for key in columns), "unbeaten"], rows, note)


def pareto_of_files(known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The files that no other beats in accuracy, bytes and latency of one image, as far as all have them."""
    keys = ("accuracy", "bytes", "latency_ms")
    return pareto(known, tuple(key for key in keys if all(key in numbers for numbers in known.values())))


def _lines(numbers: dict[str, Any]) -> list[str]:
    facts = numbers["machine"]
    return [
        f"measured on {facts['processor']} with {facts['vector_bits']}-bit vectors, {facts['cores']} cores, "
        f"{numbers['threads']} in use; {facts['system']}, minicnn {facts['minicnn']}",
        f"accuracy on {numbers['images']:,} images",
        *numbers["stopwatch"],
    ]


def _tables(report: dict[str, Any]) -> Iterator[Table]:
    yield _costs(report)
    if "per_class" in report["file"]:
        yield _classes(report)
    if report["damage"] is not None:
        yield from _damage(report["damage"])
    if report["compare"]:
        yield comparison(points(report))


def _costs(report: dict[str, Any]) -> Table:
    """One row a number; beside those of the file before compression where they were measured."""
    measured = [numbers for numbers in (report["before"], report["file"]) if numbers is not None]
    rows = []
    for key in ("accuracy", "loss", "bytes", "macs"):
        if all(key in numbers for numbers in measured):
            form = {"accuracy": "{:.2%}", "loss": "{:.4f}"}.get(key, "{:,}")
            name = {"bytes": "bytes on disk", "macs": "MACs per image"}.get(key, key)
            rows.append([name, *(form.format(numbers[key]) for numbers in measured)])
    for entries in zip(*(numbers["latency"] for numbers in measured), strict=False):
        times = [
            f"{entry['median_ms']:.3f} ({entry['low_ms']:.3f} to {entry['high_ms']:.3f})" for entry in entries
        ]
        rows.append([f"ms for a batch of {entries[0]['batch']}", *times])
    if all(numbers["memory"] for numbers in measured):
        rows.append(["peak memory, MiB", *(f"{numbers['memory']['peak_mib']:.0f}" for numbers in measured)])
    header = ["", "before", "after"] if len(measured) == 2 else ["", "measured"]
    note = "Milliseconds: median and, in brackets, quartiles. Memory: of a whole process that runs the file."
    return Table("What it costs", header, rows, note)


def _classes(report: dict[str, Any]) -> Table:
    after = report["file"]["per_class"]
    before = (report["before"] or {}).get("per_class", {})
    rows = []
    for name, new in after.items():
        old = before.get(name)
        change = f"{100 * (new - old):+.1f}" if new is not None and old is not None else ""
        rows.append([name, _share(old), _share(new), change] if before else [name, _share(new)])
    header = ["class", "before", "after", "points"] if before else ["class", "accuracy"]
    return Table("Class by class", header, rows)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _damage(damage: dict[str, Any]) -> Iterator[Table]:
    rows = [
        [name, str(counts["forgotten"]), str(counts["learned"])]
        for name, counts in damage["by_class"].items()
    ]
    rows.append(["all", str(len(damage["forgotten"])), str(len(damage["learned"]))])
    yield Table(
        "Images answered otherwise",
        ["class", "forgotten", "learned"],
        rows,
        f"{damage['changed']} of {damage['images']:,} images are answered otherwise. Forgotten: right "
        f"before, wrong now, {_indices(damage['forgotten'])}. Learned: wrong before, right now, "
        f"{_indices(damage['learned'])}. JSON lists all.",
    )
    if damage["moves"]:
        moves = [[m["class"], m["before"], m["after"], str(m["images"])] for m in damage["moves"]]
        yield Table("The most frequent changes", ["true class", "before", "after", "images"], moves)
    saliency, attack = damage["saliency"], damage["attack"]
    if "cosine" in saliency:
        names = {"cosine": "cosine of the gradients", "rank": "rank correlation of their sizes"}
        yield Table(
            "Where it looks",
            ["saliency before and after", "mean", "deviation"],
            [
                [text, f"{saliency[key]['mean']:.3f}", f"{saliency[key]['std']:.3f}"]
                for key, text in names.items()
            ],
            f"Gradient of the true class's logit by the pixels, {saliency['images']} images; 1 is no change.",
        )
    yield Table(
        "Under attack",
        ["epsilon", "before", "after"],
        [
            [epsilon, f"{share:.1%}", f"{attack['after'][epsilon]:.1%}"]
            for epsilon, share in attack["before"].items()
        ],
        f"Accuracy on {attack['images']} images when every pixel moves by epsilon, as a share of the range "
        f"from black to white, against the model (fast gradient sign method, made for each model anew).",
    )


def _indices(images: list[int]) -> str:
    if not images:
        return "none"
    more = f" and {len(images) - _LISTED} more" if len(images) > _LISTED else ""
    return ", ".join(map(str, images[:_LISTED])) + more
