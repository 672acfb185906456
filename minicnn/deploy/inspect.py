"""contents: what is in a file, as plain values: every layer, how it runs, how its arrays are stored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from minicnn.deploy.artefact import from_parts
from minicnn.deploy.container import read, stored_parts
from minicnn.deploy.integers import to_integers
from minicnn.deploy.storage import Stored
from minicnn.functions.integer import IntegerOp


def contents(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `minicnn inspect` shows.

    "bytes" of the file; "about", which `save` was given; "layers", in the order in which they run: name, op,
    result, "runs" (uint8 or float32), and "arrays": name, shape, how stored, bits per element, bytes;
    "totals". Raises FileError if the file is damaged.
    """
    meta, arrays = read(path)
    artefact = from_parts(meta, arrays, os.fspath(path))
    _, stored = stored_parts(path)
    integers = to_integers(artefact.graph)
    by_integers = {
        value for node in integers.graph.nodes if issubclass(node.op, IntegerOp) for value in node.outputs
    }
    layers = []
    listed: set[str] = set()
    for node, entry in zip(artefact.graph.nodes, meta["program"]["nodes"], strict=True):
        names = [x["array"] for x in entry["inputs"] if isinstance(x, dict) and "array" in x]
        own = [name for name in dict.fromkeys(names) if name not in listed]
        listed.update(own)
        on_lattice = node.output in integers.stored
        runs = "uint8" if on_lattice else "uint8 to float32" if node.output in by_integers else "float32"
        layers.append(
            {
                "layer": node.layer,
                "op": node.name,
                "result": list(node.output.shape[1:]),
                "runs": runs,
                "arrays": [_array(name, stored[name]) for name in own],
            }
        )
    size, held = Path(path).stat().st_size, [_array(name, entry) for name, entry in stored.items()]
    totals = {
        "elements": sum(array["elements"] for array in held),
        "array_bytes": sum(array["bytes"] for array in held),
        "header_bytes": size - sum(array["bytes"] for array in held),
    }
    return {
        "file": os.fspath(path),
        "bytes": size,
        "about": artefact.about,
        "layers": layers,
        "totals": totals,
    }


def _array(name: str, stored: Stored) -> dict[str, Any]:
    form = stored.form
    elements = 1
    for size in form["shape"]:
        elements *= size
    return {
        "name": name,
        "shape": form["shape"],
        "dtype": form["dtype"],
        "stored": _in_words(form),
        "elements": elements,
        "bytes": stored.nbytes,
        "bits": round(8 * stored.nbytes / elements, 2) if elements else 0.0,
    }


def _in_words(form: dict[str, Any]) -> str:
    if form["form"] == "raw":
        return str(form["dtype"])
    if form["form"] == "nonzero":
        return f"sparse, {form['dtype']}"
    index = form["index"]
    code = "Huffman" if "words" in index else f"{index['bits']} bits"
    kind = "sparse, " if form["form"] == "sparse" else ""
    return f"{kind}{form['palette']} values, {code}"
