"""verify: whether a file gives the numbers of the model that it was made of, layer by layer, image by image.

The model runs in eval mode; the file's integers run by the reference, by every route of the cpu's kernels,
on a GPU where there is one, and as the file is run when it is called. Every value is compared: of one on a
lattice the number that its integer stands for. A quantized model must agree to the bit (0 and -0 counting as
one), with layers between that are left in floats, too; without any lattice, the result of a file may differ
by rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np

import minicnn_kernels as kernels
from minicnn.deploy.artefact import Artefact, load
from minicnn.deploy.engine import Program, RunProgram, serves, with_programs
from minicnn.deploy.integers import Integers, to_integers
from minicnn.deploy.lower import lower, of_any_batch
from minicnn.functions.integer import IntegerOp
from minicnn.grad_mode import no_grad
from minicnn.graph import trace
from minicnn.graph.channel_flow import ChannelFlow, has_channels
from minicnn.graph.constants import fold_constants, run
from minicnn.graph.ir import Graph, Node, Value
from minicnn.tensor import Tensor, as_tensor
from minicnn.training.evaluate import inference
from minicnn_kernels.algorithms import ALGORITHMS, using

TOLERANCE = 1e-4
"""Of a result without lattices, relative to its largest number."""


@dataclass(frozen=True)
class Difference:
    """Where a route first gave another number than the model in eval mode.

    layer: dotted path, or the op's name. place: channel, row and column, or as many numbers as there are.
    """

    layer: str
    image: int
    place: tuple[int, ...]
    expected: float
    got: float

    def __str__(self) -> str:
        place = ", ".join(map(str, self.place))
        return (
            f"'{self.layer}', image {self.image}, place ({place}): the model gives {self.expected!r}, "
            f"the file {self.got!r}"
        )


@dataclass
class Route:
    """One way to compute: how many images had every number right, of how many; the first that had not."""

    name: str
    images: int = 0
    equal: int = 0
    numbers: int = 0
    first: Difference | None = None

    def __str__(self) -> str:
        text = (
            f"{self.name}: {self.equal:,} of {self.images:,} images equal, {self.numbers:,} numbers compared"
        )
        return text if self.first is None else f"{text}; first difference: {self.first}"


@dataclass
class Verification:
    """What `verify` found. exact: whether bits were compared. skipped: routes that this machine has not."""

    routes: list[Route]
    exact: bool
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether all routes agree with the model on all images."""
        return all(route.first is None for route in self.routes)


def verify(
    model: Any,
    artefact: Artefact | str | os.PathLike[str],
    loader: Iterable[Any],
    *,
    reference_images: int | None = None,
) -> Verification:
    """Compare `artefact` (or the file at a path) with `model`, in eval mode, on all images of `loader`.

    loader: batches of images, or of (images, targets). reference_images: only so many go through the
    reference, which is slow; default all. Raises ValueError if the file is of another architecture, or if
    there are no images.
    """
    if not isinstance(artefact, Artefact):
        artefact = load(artefact)
    batches = iter(_images(loader))
    first = next(batches, None)
    if first is None or not len(first):
        raise ValueError("verify: the loader yields no images; is its data set empty?")
    with inference(model):
        whole = _Model(model, first, artefact.graph)
        integers = to_integers(artefact.graph)
        exact = bool(integers.stored)
        every_value = to_integers(artefact.graph, fuse=False)
        found = Verification([], exact)
        ways: list[tuple[str, str | None, Callable[[Tensor], dict[Value, np.ndarray]]]] = []
        result = artefact.graph.outputs[0]
        ways.append(("the file as it is run", None, lambda x: {result: artefact(x)}))
        free = Artefact(artefact.graph, {})  # of what a stopwatch chose: it goes the way that it is told
        if exact:
            ways.append(("reference", None, _Values(every_value, "reference")))
            for name in ALGORITHMS["integer"][1:]:
                reason = _unavailable(name, integers, first[:1])
                if reason is None:
                    ways.append((f"cpu, {name}", name, _Values(integers, "cpu")))
                    ways.append((f"cpu, {name}, as one program", name, lambda x: {result: free(x)}))
                else:
                    found.skipped[f"cpu, {name}"] = reason
            if "cuda" in kernels.devices():
                whole_graph = Integers(with_programs(integers.graph), {})
                ways.append(("cuda", None, _Values(integers, "cuda")))
                ways.append(("cuda, as one program", None, _Values(whole_graph, "cuda")))
        found.routes = [Route(name) for name, _, _ in ways]
        for images in chain([first], batches):
            expected = whole.values(images)
            for route, (name, algorithm, way) in zip(found.routes, ways, strict=True):
                part = images
                if name == "reference" and reference_images is not None:
                    part = images[: max(reference_images - route.images, 0)]
                if not len(part):
                    continue
                with ExitStack() as stack:
                    if algorithm is not None:
                        stack.enter_context(using("integer", algorithm))
                    got = way(part)
                layers = whole.layers | getattr(way, "layers", {})
                _compare(route, layers, expected, got, len(part), exact)
    return found


class _Model:
    """The model in eval mode: what it gives for the values of a file's Graph that was made of it."""

    def __init__(self, model: Any, sample: Tensor, graph: Graph) -> None:
        self.model, self.graph = model, graph
        self.whole = of_any_batch(fold_constants(trace(model, sample)), sample)
        flow = ChannelFlow(self.whole)
        own = {value.name: value for node in self.whole.nodes for value in node.outputs}
        self.sources: dict[
            Value, tuple[Value, Any]
        ] = {}  # of the file: (of the model, channels that are left)
        self.layers: dict[Value, str] = {}
        for ours, theirs in _paired(lower(model, sample), graph):
            for value, small in zip(theirs.outputs, ours.outputs, strict=True):
                self.layers[value] = theirs.layer or theirs.name
                if small.name in own:  # an addition that stands for removed channels has none
                    source = own[small.name]
                    self.sources[value] = (source, flow.kept(source) if has_channels(source) else None)

    def values(self, images: Tensor) -> dict[Value, np.ndarray]:
        """What the model gives for each value of the file's Graph."""
        known = _run(self.whole, images)
        found = {}
        for value, (source, kept) in self.sources.items():
            array = kernels.to_host(known[source].data)
            found[value] = array if kept is None or kept.all() else array[:, kept]
        found[self.graph.outputs[0]] = self.model(images).numpy()
        return found


class _Values:
    """A Graph on integers, run op by op, those on integers by one back end: every value as floats.

    layers: of the values, those that compute them here, where a pooling may be part of a convolution. What is
    no op on integers runs on the host; on "cuda" values go there and back for every op or program.
    """

    def __init__(self, integers: Integers, backend: str) -> None:
        self.integers, self.backend = integers, backend
        nodes = integers.graph.nodes if backend == "cuda" else []
        self.programs = {node: program for node in nodes if (program := _program_of(node)) is not None}
        producers = integers.graph.producers()
        self.layers = {
            value: producers[stored].layer
            for value, (stored, _) in integers.stored.items()
            if stored in producers and producers[stored].layer
        }

    def __call__(self, images: Tensor) -> dict[Value, np.ndarray]:
        known = _run(self.integers.graph, images, self.backend, self.programs)
        found = {value: kernels.to_host(tensor.data) for value, tensor in known.items()}
        for value, (stored, lattice) in self.integers.stored.items():
            if stored in found:
                found[value] = lattice.floats(found[stored])
        return found


def _program_of(node: Node) -> Program | None:
    """A node on integers as a program, which brings its weights to the device once; None for any other."""
    if node.op is RunProgram:
        return node.options["program"]
    if not serves(node):
        return None
    moving = [value for value in node.values if value.kind in ("input", "result")]
    return Program([node], list(dict.fromkeys(moving)), node.outputs)


def _run(
    graph: Graph,
    images: Tensor,
    integers_by: str = "cpu",
    on_device: Mapping[Node, Program] = MappingProxyType({}),
) -> dict[Value, Tensor]:
    """All results of a Graph, node by node. integers_by: the back end for ops on integers.

    on_device: the nodes that run there, and as what.
    """
    known = {graph.inputs[0]: images}
    with no_grad():
        for node in graph.nodes:
            if node in on_device:
                moving = [value for value in node.values if value.kind in ("input", "result")]
                arrays = [kernels.to_device(known[x].data, "cuda") for x in dict.fromkeys(moving)]
                with kernels.use("cuda"):
                    results = tuple(Tensor(kernels.to_host(array)) for array in on_device[node](*arrays))
                known.update(zip(node.outputs, results, strict=True))
                continue
            chosen = kernels.use(integers_by) if issubclass(node.op, IntegerOp) else nullcontext()
            with chosen:
                results = run(node, *(known[x] for x in node.values if x.kind != "constant"))
            known.update(zip(node.outputs, results, strict=True))
    return known


def _paired(ours: Graph, theirs: Graph) -> Iterator[tuple[Node, Node]]:
    """The nodes of the model and of the file, one beside the other. Raises ValueError where they differ."""
    for a, b in zip(ours.nodes, theirs.nodes, strict=False):
        if (a.op, a.layer, a.output.shape[1:]) != (b.op, b.layer, b.output.shape[1:]):
            raise ValueError(
                f"verify: the file is of another model: it has {b.name} {b.output.shape[1:]} of '{b.layer}' "
                f"where the model has {a.name} {a.output.shape[1:]} of '{a.layer}'"
            )
        yield a, b
    if len(ours.nodes) != len(theirs.nodes):
        raise ValueError(
            f"verify: the file is of another model: {len(theirs.nodes)} ops, the model has {len(ours.nodes)}"
        )


def _unavailable(algorithm: str, integers: Integers, image: Tensor) -> str | None:
    """Why this machine has not this algorithm of integer kernels; None if it has."""
    try:
        with using("integer", algorithm):
            _Values(integers, "cpu")(image)
    except (RuntimeError, ValueError) as problem:
        return str(problem)
    return None


def _compare(
    route: Route, layers: dict[Value, str], expected: dict, got: dict, count: int, exact: bool
) -> None:
    """Take into `route` what `count` more images gave."""
    right = np.ones(count, bool)
    for value in layers:
        if value not in got or value not in expected:
            continue
        ours, theirs = expected[value][:count], got[value]
        route.numbers += ours.size
        same = ours == theirs if exact else np.abs(ours - theirs) <= TOLERANCE * np.abs(ours).max(initial=0)
        if same.all():
            continue
        right &= same.reshape(count, -1).all(axis=1)
        if route.first is None:
            image, *place = (int(i) for i in np.unravel_index(np.argmin(same), same.shape))
            numbers = float(ours[image, *place]), float(theirs[image, *place])
            route.first = Difference(layers[value], route.images + image, tuple(place), *numbers)
    route.images += count
    route.equal += int(right.sum())


def _images(loader: Iterable[Any]) -> Iterator[Tensor]:
    for batch in loader:
        yield as_tensor(batch[0] if isinstance(batch, (tuple, list)) else batch)
