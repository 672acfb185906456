"""A Graph as a picture: DOT text for Graphviz, or SVG drawn here without any other program."""

from __future__ import annotations

from html import escape

from minicnn.graph.cost import macs
from minicnn.graph.ir import Graph, Node, Value

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 210, 46, 24, 34, 16
_COLOURS = {"weights": "#cfe3f7", "shape": "#f3f0e6", "other": "#e4f1df", "input": "#fbe3cf"}


def _label(node: Node) -> tuple[str, str]:
    """Two lines: the op with its layer; the result's shape with the MACs."""
    count = macs(node)
    shape = "x".join(str(size) for size in node.output.shape) or "scalar"
    return (
        node.name + (f"  {node.layer}" if node.layer else ""),
        shape + (f"   {_si(count)} MAC" if count else ""),
    )


def _si(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)


def _colour(node: Node) -> str:
    if macs(node):
        return _COLOURS["weights"]
    return _COLOURS["shape"] if node.op.is_view else _COLOURS["other"]


def drawn(graph: Graph) -> Graph:
    """The part that leads to the outputs: without what batch norm notes down while it is trained."""
    wanted, kept = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if not wanted.isdisjoint(node.outputs):
            wanted.update(node.values)
            kept.append(node)
    return Graph(graph.inputs, graph.outputs, kept[::-1])


def edges(graph: Graph) -> list[tuple[int, int]]:
    """(producer, consumer) positions in graph.nodes; an input of the graph is -1 - its position."""
    made = {value: i for i, node in enumerate(graph.nodes) for value in node.outputs}
    made.update({value: -1 - i for i, value in enumerate(graph.inputs)})
    return [
        (made[v], i) for i, node in enumerate(graph.nodes) for v in dict.fromkeys(node.values) if v in made
    ]


def dot(graph: Graph) -> str:
    """The graph in Graphviz's DOT language; parameters are left out."""
    graph = drawn(graph)
    lines = ["digraph model {", '  node [shape=box, style="rounded,filled", fontname="sans-serif"];']

    def name(i: int) -> str:
        return f"n{i}" if i >= 0 else f"in{-1 - i}"

    for i, value in enumerate(graph.inputs):
        lines.append(f'  in{i} [label="{value}", fillcolor="{_COLOURS["input"]}"];')
    for i, node in enumerate(graph.nodes):
        first, second = _label(node)
        lines.append(f'  n{i} [label="{first}\\n{second}", fillcolor="{_colour(node)}"];')
    lines += [f"  {name(a)} -> {name(b)};" for a, b in edges(graph)]
    return "\n".join([*lines, "}"])


def places(graph: Graph) -> dict[int, tuple[int, int]]:
    """(column, row) of every position: rows run downward with time, branches stand side by side.

    What follows stands below what it follows; where that place is taken, in the next free one to the right.
    """
    arrows = edges(graph)
    row = {-1 - i: 0 for i in range(len(graph.inputs))}
    for i in range(len(graph.nodes)):  # nodes are in running order: producers come first
        row[i] = 1 + max((row[a] for a, b in arrows if b == i), default=0)
    place: dict[int, tuple[int, int]] = {}
    taken: set[tuple[int, int]] = set()
    for i in sorted(row, key=lambda i: (row[i], abs(i))):
        column = next((place[a][0] for a, b in arrows if b == i), 0)
        while (column, row[i]) in taken:
            column += 1
        taken.add((column, row[i]))
        place[i] = (column, row[i])
    return place


def svg(graph: Graph) -> str:
    """The graph as an SVG document: time runs downward, branches stand side by side."""
    graph = drawn(graph)
    arrows = edges(graph)
    grid = places(graph)
    row = {i: row for i, (_, row) in grid.items()}
    place = {
        i: (_MARGIN + column * (_WIDTH + _GAP_X), _MARGIN + row * (_HEIGHT + _GAP_Y))
        for i, (column, row) in grid.items()
    }
    columns = 1 + max(column for column, _ in grid.values())
    width = 2 * _MARGIN + columns * (_WIDTH + _GAP_X) - _GAP_X
    height = 2 * _MARGIN + (max(row.values()) + 1) * (_HEIGHT + _GAP_Y) - _GAP_Y

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        '<defs><marker id="arrow" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker></defs>',
    ]
    for a, b in arrows:
        (xa, ya), (xb, yb) = place[a], place[b]
        x1, y1, x2, y2 = xa + _WIDTH / 2, ya + _HEIGHT, xb + _WIDTH / 2, yb
        bend = (y2 - y1) / 2 if row[b] == row[a] + 1 else _GAP_Y  # long edges swing out to the right
        side = 0 if row[b] == row[a] + 1 else _WIDTH / 2 + _GAP_X / 2
        parts.append(
            f'<path d="M{x1},{y1} C{x1 + side},{y1 + bend} {x2 + side},{y2 - bend} {x2},{y2}" '
            f'fill="none" stroke="#555" marker-end="url(#arrow)"/>'
        )
    for i, (x, y) in place.items():
        first, second, colour = box(graph, i)
        centre = f'x="{x + _WIDTH / 2}" text-anchor="middle"'
        parts.append(
            f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{colour}" '
            f'stroke="#888"/><text {centre} y="{y + 19}">{escape(first)}</text>'
            f'<text {centre} y="{y + 36}" fill="#555">{escape(second)}</text>'
        )
    return "\n".join([*parts, "</svg>"])


def box(graph: Graph, i: int) -> tuple[str, str, str]:
    """What stands in the box of position i (an input below 0): two lines and the colour behind them."""
    if i >= 0:
        return (*_label(graph.nodes[i]), _colour(graph.nodes[i]))
    value: Value = graph.inputs[-1 - i]
    return value.name, "x".join(map(str, value.shape)), _COLOURS["input"]
