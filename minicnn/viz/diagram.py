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

    places = draw.places(recorded)
    columns = 1 + max(column for column, _ in places.values())
    rows = 1 + max(row for _, row in places.values())
    with style.sheet(figure, 2.5 * columns + 0.4, 0.62 * rows + 0.2) as figure:
        axes = figure.subplots()
        style.bare(axes)
        axes.set_xlim(-0.5, columns - 0.5)
        axes.set_ylim(rows - 0.5, -0.5)
        for source, target in draw.edges(recorded):
            (x, y), (u, v) = places[source], places[target]
            bend = "arc3,rad=0" if v == y + 1 else "arc3,rad=-0.35"  # long edges swing out
            arrow = {"arrowstyle": "-|>", "color": style.GREY, "connectionstyle": bend, "linewidth": 1}
            axes.annotate("", (u, v - 0.33), (x, y + 0.33), arrowprops=arrow)
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
