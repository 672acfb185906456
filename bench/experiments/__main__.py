"""`python -m bench.experiments`: see the docstring of the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import bench.experiments
from bench.experiments import binary, deep_compression, fashion, hinton, lenet, lottery, pareto
from bench.experiments.record import FOLDER, Record
from bench.experiments.rows import Options

_EXPERIMENTS = {
    "fashion": fashion,
    "pareto": pareto,
    "lenet": lenet,
    "deep-compression": deep_compression,
    "lottery": lottery,
    "hinton": hinton,
    "binary": binary,
}


def main() -> None:
    """Parse, run what is missing, print the table and write it beside the record."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.experiments",
        description=bench.experiments.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=tuple(_EXPERIMENTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of the dense training; default: the experiment's own")
    parser.add_argument("--data", help="a folder of MNIST's idx files")
    parser.add_argument(
        "--rows", help="only these, comma-separated", type=lambda text: tuple(text.split(","))
    )
    parser.add_argument("--held-out", type=float, default=0.0, help="share of the training images to test on")
    parser.add_argument("--quick", action="store_true", help="400 images, one seed: does it run?")
    parser.add_argument("--work", type=Path, default=Path("runs/experiments"), help="folder of the models")
    parser.add_argument("--output", type=Path, help=f"the JSON file; default {FOLDER.parts[-1]}/NAME.json")
    given = parser.parse_args()
    if given.name not in ("fashion", "pareto") and given.data is None:
        parser.error(f"{given.name} needs --data DIR, a folder of MNIST's idx files")
    variant = given.name + "-quick" * given.quick + f"-held-out-{given.held_out}" * bool(given.held_out)
    options = Options(
        seeds=1 if given.quick else given.seeds,
        work=given.work / variant,
        data=given.data,
        epochs=given.epochs,
        rows=given.rows,
        held_out=given.held_out,
        quick=given.quick,
    )
    path = given.output or (FOLDER if variant == given.name else options.work) / f"{variant}.json"
    try:
        record = Record(path, options.settings())
    except ValueError as error:
        parser.error(str(error))
    experiment = _EXPERIMENTS[given.name]
    table = experiment.run(record, options)
    shown = [word if word != given.data else "DIR" for word in sys.argv[1:]]
    record.write_table(experiment.TITLE, table, " ".join(["python -m bench.experiments", *shown]))
    print(f"\n{table}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
