"""Files whose checksums are right and whose program is not: refused with a reason, or run; never a crash."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest

import minicnn
from minicnn import deploy, nn
from minicnn.compress import prune, quantize
from minicnn.deploy.artefact import from_parts
from minicnn.deploy.container import FileError, from_bytes, to_bytes
from minicnn.deploy.rules import OPS
from minicnn.nn import functional as F


class Net(nn.Module):
    """Some of everything, small: on lattices and in floats."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4))
        self.norm, self.pool = nn.LayerNorm(4), nn.AvgPool2d(2)
        self.last = nn.Linear(12, 3)

    def forward(self, x):
        x = F.relu(self.first(F.pad(x, (1, 0, 1, 0))))
        x = F.relu(self.second(x) + x)
        x = self.pool(minicnn.cat([x, F.leaky_relu(x)[:, 1:3]], 1))
        x = F.max_pool2d(x.transpose(2, 3), 2)
        return self.last(F.adaptive_avg_pool2d(x, (1, 2)).flatten(1)).softmax(1)


def saved(quantized, folder):
    minicnn.manual_seed(0)
    model, x = Net().eval(), minicnn.randn(2, 1, 7, 7)
    prune(model, 0.7)
    if quantized:
        quantize(model, [x])
    rows = [{"layer": layer, "chosen": "sparse rows", "words": ""} for layer in ("first", "second.0", "last")]
    about = {"class_names": ["a", "b", "c"], "stopwatch": rows}
    deploy.save(model, folder / "a.mcnn", x, about=about)
    return (folder / "a.mcnn").read_bytes()


STRANGE = [0, 1, -1, 2, 3, 5, 127, 256, 2**15, 2**31, -(2**63), 10**30, 0.5, -1.5, 1e300, None, True, "",
           "float64", "relu", [], {}, [1, 2], {"tuple": [1, 1]}, {"tuple": [2**14, 3]}, {"slice": [5, 1, -1]},
           {"value": 0}, {"value": 3}, {"ellipsis": True}, {"array": "first.weight"}]  # fmt: skip


def places(tree):
    """Every (container, key) in a tree of lists and dicts."""
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            found.append((node, key))
            if isinstance(node[key], (dict, list)):
                waiting.append(node[key])
    return found


def another(array, other, draws):
    """An array that a file could hold in the place of this one."""
    match draws.randrange(8):
        case 0:
            return np.atleast_1d(array)[:0]
        case 1:
            return np.atleast_1d(array)[..., :-1]
        case 2:
            return array.astype(draws.choice([np.float64, np.int32, np.int8, bool]))
        case 3:
            return np.asarray(-array)
        case 4:
            return array.reshape(-1)
        case 5:
            return np.full_like(array, draws.choice([0, 1, 100]))
        case 6:
            return np.full_like(array, np.nan) if array.dtype.kind == "f" else array
    return other


def spoilt(meta, arrays, draws):
    """The same with one to three parts of the program, or arrays, replaced, dropped, doubled or exchanged."""
    meta, arrays = copy.deepcopy(meta), dict(arrays)
    for _ in range(draws.randint(1, 3)):
        program = meta.get("program")
        spots = places(program if isinstance(program, dict) and draws.random() < 0.95 else meta)
        if not spots:
            break
        node, key = draws.choice(spots)
        match draws.randrange(7):
            case 0:
                node[key] = copy.deepcopy(draws.choice(STRANGE))
            case 1:
                del node[key]
            case 2:
                other, there = draws.choice(spots)
                node[key] = copy.deepcopy(other[there])
            case 3:
                if isinstance(node, list):
                    node.insert(draws.randrange(len(node)), copy.deepcopy(node[key]))
            case 4:
                if isinstance(node[key], int) and not isinstance(node[key], bool):
                    node[key] += draws.choice([-2, -1, 1, 2, 100])
            case 5:
                nodes = [node for node, key in spots if key == "op"]
                if nodes:
                    draws.choice(nodes)["op"] = draws.choice(list(OPS))
            case 6:
                name = draws.choice(list(arrays))
                arrays[name] = another(arrays[name], arrays[draws.choice(list(arrays))], draws)
    return meta, arrays


def fuzz(data, count, seed):
    """How many files were refused, and how many ran."""
    meta, arrays = from_bytes(data)
    draws = random.Random(seed)
    refused = ran = 0
    for i in range(count):
        file = to_bytes(*spoilt(meta, arrays, draws), huffman=i % 20 == 0)
        try:
            artefact = from_parts(*from_bytes(file))
        except FileError:
            refused += 1
            continue
        (taken,) = artefact.graph.inputs
        for batch in (1, 3):
            try:
                with np.errstate(all="ignore"):
                    artefact(np.ones((batch, *taken.shape[1:]), np.float32))
                ran += 1
            except (ValueError, deploy.FileError):
                pass  # it serves one image, and not three
    return refused, ran


@pytest.mark.parametrize("quantized", [True, False], ids=["quantized", "floats"])
def test_spoilt_programs_are_refused_or_run(quantized, tmp_path):
    refused, ran = fuzz(saved(quantized, tmp_path), 300, seed=0)
    assert refused > 150
    assert ran > 10


@pytest.mark.parametrize("quantized", [True, False], ids=["quantized", "floats"])
def test_a_program_that_serves_one_image_alone_is_refused_with_three(quantized, tmp_path):
    """Flattened over the batch: a dense layer would read what is not there."""
    meta, arrays = from_bytes(saved(quantized, tmp_path))
    for node in meta["program"]["nodes"]:
        if node["op"] == "Reshape":
            node["options"]["shape"] = {"tuple": [1, -1]}
    artefact = from_parts(meta, arrays)
    artefact(np.zeros((1, 1, 7, 7), np.float32))
    with pytest.raises(ValueError, match=r"serves one image|does not fit"):
        artefact(np.zeros((3, 1, 7, 7), np.float32))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("quantized", [True, False], ids=["quantized", "floats"])
def test_thousands_of_spoilt_programs_are_refused_or_run(quantized, tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused, _ = fuzz(saved(quantized, tmp_path), 5_000, seed=1)
    assert refused > 2_500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3 << 20, "KiB: bounded memory"
