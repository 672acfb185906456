"""How fast kernels are beside what the machine can do: the roofline, and ladders of kernels.

Both draw what `python -m bench ladder` measured: the "results" of its JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minicnn.viz import style


def roofline(
    rooflines: Sequence[Mapping[str, float]],
    kernels: Mapping[str, tuple[float, float]],
    *,
    figure: Any = None,
) -> Any:
    """What a kernel can reach at most: min(peak, operations per byte x bandwidth), and what kernels reach.

    rooflines: for each number of threads, with threads, peak_gflops, bandwidth_gbs. kernels: operations per
    byte and GFLOP/s by name (Williams, Waterman and Patterson 2009). Returns a Figure.
    """
    with style.sheet(figure, 8, 4.4) as figure:
        axes = figure.subplots()
        places = [place for place, _ in kernels.values()]
        ridges = [roof["peak_gflops"] / roof["bandwidth_gbs"] for roof in rooflines]
        x = np.geomspace(min(*places, *ridges) / 4, max(*places, *ridges) * 4, 200)
        for roof, colour, line in zip(rooflines, style.COLOURS, ("-", "--", "-.", ":"), strict=False):
            many = roof["threads"] != 1
            axes.plot(
                x,
                np.minimum(roof["peak_gflops"], x * roof["bandwidth_gbs"]),
                color=colour,
                linestyle=line,
                label=f"roof of {roof['threads']} thread{'s' * many}: {roof['peak_gflops']:.0f} GFLOP/s, "
                f"{roof['bandwidth_gbs']:.0f} GB/s",
            )
        for i, (name, (place, reached)) in enumerate(kernels.items()):
            colour = style.COLOURS[(i + len(rooflines)) % len(style.COLOURS)]
            marker = style.MARKERS[i % len(style.MARKERS)]
            axes.plot(place, reached, marker, color=colour, markersize=7, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("operations per byte of memory traffic")
        axes.set_ylabel("GFLOP/s")
        axes.grid(color=style.PALE, linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside right center", fontsize=8)
    return figure


def ladder(
    report: Mapping[str, Any], ladders: Sequence[str] = ("matmul", "convolution"), *, figure: Any = None
) -> Any:
    """Ladders as bars on a logarithmic scale, with BLAS and the roofline as lines. Returns a Figure.

    report: threads, and for each of `ladders` its rungs: rung, problem, threads, gflops, of_roofline,
    attainable_gflops.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    many = report["threads"]
    colours = {1: style.BLUE, many: style.ORANGE} if many > 1 else {1: style.BLUE}
    with style.sheet(figure, 6.5 * len(ladders), 5.2) as figure:
        figure.get_layout_engine().set(wspace=0.04)
        for axes, name in zip(figure.subplots(1, len(ladders), squeeze=False)[0], ladders, strict=True):
            _rungs(axes, name, report[name], colours)
        legend: list[Any] = [
            Patch(
                facecolor=colour,
                edgecolor="black",
                hatch="" if threads == 1 else "//",
                label=f"{threads} thread{'s' * (threads > 1)}",
            )
            for threads, colour in colours.items()
        ]
        legend += [
            Line2D([], [], color=style.GREY, linestyle="-", label="roofline, in the colour of its threads"),
            Line2D([], [], color=style.GREY, linestyle="--", label="BLAS, in the colour of its threads"),
        ]
        figure.legend(handles=legend, loc="outside lower center", ncols=4 if len(ladders) > 1 else 2)
    return figure


def _rungs(axes: Any, name: str, results: Sequence[Mapping[str, Any]], colours: Mapping[int, str]) -> None:
    entries = [entry for entry in results if not entry["rung"].startswith("BLAS")]
    marks = {e["threads"]: e["gflops"] for e in results if e["rung"].startswith("BLAS")}
    values = [entry["gflops"] for entry in entries]
    axes.barh(
        range(len(entries)),
        values,
        color=[colours[entry["threads"]] for entry in entries],
        edgecolor="black",
        linewidth=0.6,
        hatch=["" if entry["threads"] == 1 else "//" for entry in entries],
    )
    columns = [("GFLOP/s", "roofline")]
    columns[:0] = [(f"{e['gflops']:.3g}", percent(e["of_roofline"])) for e in entries]
    for i, texts in enumerate(columns):
        for x, text in zip((1.16, 1.34), texts, strict=True):
            axes.text(x, i, text, transform=axes.get_yaxis_transform(), va="center", ha="right")
    for threads, colour in colours.items():
        limit = max(e["attainable_gflops"] for e in entries if e["threads"] == threads)
        axes.axvline(limit, color=colour, linestyle="-", linewidth=1.4, zorder=0)
        axes.axvline(marks[threads], color=colour, linestyle="--", linewidth=1.4, zorder=0)
    axes.set_yticks(range(len(entries)), [entry["rung"] for entry in entries])
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 2, max(*values, *marks.values(), entries[-1]["attainable_gflops"]) * 1.5)
    axes.set_xlabel("GFLOP/s (logarithmic)")
    axes.set_title(f"{name}: {entries[-1]['problem']}", pad=18, fontweight="normal")


def percent(share: float) -> str:
    """A share in few characters."""
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.2g}%"
