"""`minicnn verify FILE.mcnn --checkpoint MODEL.npz`: does the file answer like the model, to the bit?"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

import minicnn
from minicnn import data, deploy
from minicnn.compress.model_file import load_trained
from minicnn.training.options import limited, load_data


def run(options: argparse.Namespace) -> int:
    """Compare on test images, print a line for each route. Gives the exit status: 1 if any differs."""
    if options.threads is not None:
        minicnn.set_num_threads(options.threads)
    artefact = deploy.load(options.file)
    model, configuration = load_trained(options.checkpoint)
    normalize = data.Normalize(**configuration["normalize"])
    test = load_data(options.data or configuration["data"], train=False, normalize=normalize)
    if tuple(test.image_shape) != artefact.graph.inputs[0].shape[1:]:
        raise ValueError(
            f"{options.file}: it takes images {artefact.graph.inputs[0].shape[1:]}, and those of "
            f"{options.data or configuration['data']} are {tuple(test.image_shape)}"
        )
    loader = data.DataLoader(limited(test, options.images), options.batch_size)
    found = deploy.verify(model, artefact, loader, reference_images=options.reference)
    if options.json:
        print(json.dumps({"equal": found.equal} | asdict(found)))
        return 0 if found.equal else 1
    kind = "bit for bit" if found.exact else "up to rounding, as nothing in it lies on a lattice"
    for route in found.routes:
        print(route)
    for name, reason in found.skipped.items():
        print(f"{name}: not on this machine ({reason})")
    print(f"{options.file} {'answers' if found.equal else 'does NOT answer'} like the model, {kind}")
    return 0 if found.equal else 1
