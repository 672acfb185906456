"""The Graph: one forward pass recorded as plain data, and the passes over it."""

from minicnn.graph.channels import remove_channels
from minicnn.graph.compiled import CompiledModule, CompileWarning, compile
from minicnn.graph.constants import fold_constants
from minicnn.graph.cost import Cost, cost
from minicnn.graph.draw import dot, svg
from minicnn.graph.fuse import fuse
from minicnn.graph.ir import Graph, Node, Value
from minicnn.graph.lifetimes import Life, lifetimes, memory_table, peak_bytes
from minicnn.graph.plan import Plan
from minicnn.graph.step import CompiledStep, CompiledUpdate, compile_step, compile_update
from minicnn.graph.trace import TraceError, record, trace

__all__ = [
    "CompileWarning",
    "CompiledModule",
    "CompiledStep",
    "CompiledUpdate",
    "Cost",
    "Graph",
    "Life",
    "Node",
    "Plan",
    "TraceError",
    "Value",
    "compile",
    "compile_step",
    "compile_update",
    "cost",
    "dot",
    "fold_constants",
    "fuse",
    "lifetimes",
    "memory_table",
    "peak_bytes",
    "record",
    "remove_channels",
    "svg",
    "trace",
]
