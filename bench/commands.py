"""What `python -m bench` can do: each command measures something and has a table for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from bench import forward, growth, memory, narrow, record, startup, steps
from bench.engines import ENGINES
from bench.peers.frameworks import FRAMEWORKS
from bench.peers.inference import ENGINES as INFERENCE
from bench.peers.integers import ENGINES as INTEGERS


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line. engines and rounds: None for the command's own.

    parts: of the goals, to be measured anew while the record keeps the others; None: all. simulate: try the
    parts for a GPU without one.
    """

    nets: Sequence[str]
    threads: Sequence[int]
    engines: Sequence[str] | None = None
    batch: int = 64
    rounds: int | None = None
    quick: bool = False
    parts: Sequence[str] | None = None
    simulate: bool = False

    def pace(self, rounds: int, quick_rounds: int, burst_seconds: float) -> dict[str, Any]:
        """How often, and for how long: arguments of the measuring functions."""
        seconds = burst_seconds / 3 if self.quick else burst_seconds
        usual = quick_rounds if self.quick else rounds
        return {"rounds": self.rounds or usual, "burst_seconds": seconds}


class Command(NamedTuple):
    """engines: known ones. by_default: those that it measures unless told otherwise."""

    measure: Callable[[Options], Any]
    table: Callable[[Any], str]
    engines: Sequence[str] = ()
    by_default: Sequence[str] = ()


def _steps(options: Options) -> list[dict[str, Any]]:
    return steps.measure(
        options.nets,
        options.engines or COMMANDS["steps"].by_default,
        threads=options.threads,
        batch=options.batch,
        **options.pace(12, 4, 0.3),
    )


def _forward(options: Options) -> list[dict[str, Any]]:
    return forward.measure(
        options.nets,
        options.engines or COMMANDS["forward"].by_default,
        threads=options.threads,
        **options.pace(12, 4, 0.1),
    )


def _integers(options: Options) -> list[dict[str, Any]]:
    return forward.measure(
        [net for net in options.nets if net != "R20"],  # its shortcuts are no row of layers
        options.engines or COMMANDS["integers"].by_default,
        threads=options.threads,
        maker="bench.peers.integers:make",
        **options.pace(12, 4, 0.1),
    )


def _ops(options: Options) -> list[dict[str, Any]]:
    from bench import ops  # loads the kernels

    return ops.measure(threads=options.threads, quick=options.quick, **options.pace(5, 3, 0.03))


def _ops_table(results: list[dict[str, Any]]) -> str:
    from bench import ops

    return ops.table(results)


def _growth(options: Options) -> dict[str, Any]:
    return growth.measure(
        options.nets, threads=max(options.threads), quick=options.quick, **options.pace(8, 3, 0.15)
    )


def _frameworks(options: Options) -> list[dict[str, Any]]:
    return steps.measure(
        ["W2"],
        options.engines or COMMANDS["frameworks"].by_default,
        threads=[max(options.threads)],
        batch=options.batch,
        **options.pace(8, 3, 0.3),
    )


def _narrow(options: Options) -> list[dict[str, Any]]:
    return narrow.measure(
        options.nets,
        options.engines or COMMANDS["narrow"].by_default,
        threads=options.threads,
        batch=options.batch,
        **options.pace(8, 3, 0.3),
    )


def _memory(options: Options) -> list[dict[str, Any]]:
    results = []
    for net in options.nets:
        engines = options.engines or COMMANDS["memory"].by_default
        results += memory.measure(engines, net=net, batch=options.batch, threads=max(options.threads))
    return results


def _startup(options: Options) -> list[dict[str, Any]]:
    rounds = options.rounds or (3 if options.quick else 10)
    return startup.measure(rounds=rounds, cold_rounds=1 if options.quick else 3)


def _deploy(options: Options) -> list[dict[str, Any]]:
    from bench import deploy  # loads the kernels

    return deploy.measure(threads=options.threads, quick=options.quick, **options.pace(9, 3, 0.1))


def _deploy_table(results: list[dict[str, Any]]) -> str:
    from bench import deploy

    return deploy.table(results)


def _ladder(options: Options) -> dict[str, Any]:
    from bench import ladder  # loads the compiler and its threads, which the other commands keep out

    rounds = options.rounds or (4 if options.quick else 12)
    return ladder.measure(threads=max(options.threads), rounds=rounds, quick=options.quick)


def _ladder_table(results: dict[str, Any]) -> str:
    from bench import ladder

    return ladder.table(results)


def _goals(options: Options) -> dict[str, Any]:
    """All commands that a goal needs, shorter than each alone: together they shall take under 25 minutes."""
    from bench import goals  # loads the kernels

    rounds = {
        "steps": 8,
        "forward": 6,
        "integers": 6,
        "ops": 4,
        "growth": 6,
        "narrow": 5,
        "startup": 6,
        "deploy": 6,
    }
    engines: dict[str, Sequence[str]] = {"steps": TRAINING, "memory": TRAINING[:-1]}
    if options.quick:
        options = replace(options, nets=["W2"], threads=[max(options.threads)])
        rounds = {
            "steps": 2,
            "forward": 2,
            "integers": 2,
            "ops": 2,
            "growth": 2,
            "narrow": 2,
            "startup": 1,
            "deploy": 2,
        }
        forward_engines = [name for name in INFERENCE if name != "torch-compile"]
        engines = {"forward": forward_engines, "frameworks": ("minicnn", "jax")}
        engines |= {"steps": TRAINING[:-1], "memory": ("minicnn", "torch")}
    parts = {}
    for name in options.parts or PARTS:
        asked = replace(options, engines=engines.get(name), rounds=options.rounds or rounds.get(name))
        if name == "forward":
            asked = replace(
                asked, nets=[net for net in asked.nets if net != "R20"]
            )  # there is no goal for it
        parts[name] = partial(COMMANDS[name].measure, asked)
    here = record.describe(record.machine())
    return goals.measure(parts, here, record.read("goals") if options.parts else None)


def _goals_table(results: dict[str, Any]) -> str:
    from bench import goals

    return goals.table(results)


def _gpu(options: Options) -> dict[str, Any]:
    from bench import gpu  # loads the kernels

    return gpu.measure(simulate=options.simulate)


def _gpu_table(results: dict[str, Any]) -> str:
    from bench import gpu

    return gpu.table(results)


PARTS = (
    "steps",
    "forward",
    "integers",
    "ops",
    "growth",
    "frameworks",
    "narrow",
    "memory",
    "startup",
    "deploy",
)
WITH_FRAMEWORKS = ("minicnn", *FRAMEWORKS)
TRAINING = ("minicnn", "torch", "torch-channels-last", "torch-compile")
_EAGER = ("minicnn", "minicnn-eager", "torch", "torch-channels-last")
COMMANDS: dict[str, Command] = {
    "steps": Command(_steps, steps.table, ENGINES, _EAGER),
    "forward": Command(_forward, steps.table, tuple(INFERENCE), tuple(INFERENCE)),
    "integers": Command(_integers, steps.table, tuple(INTEGERS), tuple(INTEGERS)),
    "ops": Command(_ops, _ops_table),
    "growth": Command(_growth, growth.table),
    "frameworks": Command(_frameworks, steps.table, WITH_FRAMEWORKS, WITH_FRAMEWORKS),
    "narrow": Command(_narrow, steps.table, ENGINES, narrow.ENGINES),
    "memory": Command(_memory, memory.table, ENGINES, _EAGER),
    "startup": Command(_startup, startup.table),
    "deploy": Command(_deploy, _deploy_table),
    "ladder": Command(_ladder, _ladder_table),
    "goals": Command(_goals, _goals_table),
    "gpu": Command(_gpu, _gpu_table),
}
