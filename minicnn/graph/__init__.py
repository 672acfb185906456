"""The Graph: one forward pass recorded as plain data, and the passes over it."""

from minicnn.graph.cost import Cost, cost
from minicnn.graph.draw import dot, svg
from minicnn.graph.ir import Graph, Node, Value
from minicnn.graph.trace import TraceError, trace

__all__ = ["Cost", "Graph", "Node", "TraceError", "Value", "cost", "dot", "svg", "trace"]
