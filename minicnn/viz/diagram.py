"""A Graph as a Figure; `minicnn.graph.svg` and `dot` draw the same as text."""

from __future__ import annotations

from typing import Any

from minicnn.graph import Graph, draw
from minicnn.viz import style


def graph(recorded: Graph, *, figure: Any = None) -> Any:
    """Every op of a Graph as a box with its layer, the shape of its result and its MACs; time runs downward.

    Returns a Figure.
    """
    from matplotlib.patches import FancyBboxPatch

    recorded = draw.drawn(recorded)
    places = draw.places(recorded)
    taken = set(places.values())
    columns = 1 + max(column for column, _ in places.values())
    rows = 1 + max(row for _, row in places.values())
    with style.sheet(figure, 2.5 * columns + 0.4, 0.62 * rows + 0.2) as figure:
        axes = figure.subplots()
        style.bare(axes)
        axes.set_xlim(-0.5, columns - 0.5)
        axes.set_ylim(rows - 0.5, -0.5)
        for source, target in draw.edges(recorded):
            (x, y), (u, v) = places[source], places[target]
            way: list[tuple[float, float]] = [(x, y + 0.3), (u, v - 0.33)]
            if any((x, between) in taken for between in range(y + 1, v)):  # out to the side, and around
                way = [(x + 0.45, y), (x + 0.49, y), (x + 0.49, v - 0.1), (u + 0.45, v - 0.1)]
                if u != x:
                    way[2:] = [(x + 0.49, v - 0.5), (u, v - 0.33)]
            elif v > y + 1:  # straight down first
                way.insert(1, (x, v - 0.67))
            axes.plot(*zip(*way[:-1], strict=True), color=style.GREY, linewidth=1, zorder=0)
            arrow = {"arrowstyle": "-|>", "color": style.GREY, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", way[-1], way[-2], arrowprops=arrow)
        for i, (x, y) in places.items():
            first, second, colour = draw.box(recorded, i)
            axes.add_patch(
                FancyBboxPatch(
                    (x - 0.42, y - 0.27),
                    0.84,
                    0.54,
                    boxstyle="round,pad=0.03",
                    facecolor=colour,
                    edgecolor="#888",
                )
            )
            axes.text(x, y - 0.12, first, ha="center", va="center", fontsize=8)
            axes.text(x, y + 0.16, second, ha="center", va="center", fontsize=7.5, color="#555555")
    return figure
