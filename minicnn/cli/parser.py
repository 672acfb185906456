"""The options of the command line, and the nearest known word for a mistyped one.

Options of `train` have no default here: a resumed training takes from its checkpoint what is not said
anew. The defaults and the ranges are those of `minicnn.training.options`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn

from minicnn.models import MODELS
from minicnn.training.options import (
    AUGMENTATIONS,
    DEFAULTS,
    FRACTION,
    OPTIMIZERS,
    POSITIVE,
    RANGES,
    SCHEDULES,
    Range,
    suggestion,
    unknown_augmentation,
)
from minicnn_kernels import DEVICES


class Parser(argparse.ArgumentParser):
    """argparse with one line per error, exit status 2, and suggestions for unknown options and words."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"minicnn: error: {message}; see {self.prog} --help\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = options.parser
            word = unknown[0].partition("=")[0]
            if word.startswith("-"):
                parser.error(f"unknown option {word}{suggestion(word, parser._option_string_actions)}")
            parser.error(f"unexpected argument {word!r}")
        return options

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(action.choices)
            raise argparse.ArgumentError(
                action, f"unknown {value!r}: expected one of {', '.join(known)}{suggestion(value, known)}"
            )


def _number(range_: Range) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = range_.kind(text)
        except ValueError:
            value = math.nan
        if value not in range_:
            raise argparse.ArgumentTypeError(f"expected {range_}, got {text!r}")
        return value

    return parse


def _augmentations(text: str) -> list[str]:
    steps = [] if text == "none" else text.split(",")
    for problem in filter(None, map(unknown_augmentation, steps)):
        raise argparse.ArgumentTypeError(problem)
    return steps


_COUNT = _number(Range(int, 1))


def _device(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device",
        choices=DEVICES,
        default="cpu",
        metavar="NAME",
        help="cpu, or cuda: an NVIDIA GPU, with the extra minicnn[gpu] (default cpu)",
    )


def make_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(prog="minicnn", description="Train small convolutional networks, and use them.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_compress(commands)
    _add_sensitivity(commands)
    _add_search(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_deploy(commands)
    _add_run(commands)
    _add_verify(commands)
    _add_inspect(commands)
    _add_pick(commands)
    info = commands.add_parser("info", help="versions, threads, vector width, back ends, cache")
    info.add_argument("--json", action="store_true", help="as JSON")
    for command in commands.choices.values():
        command.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
        command.set_defaults(parser=command)
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="train a model, then a table and a picture of how good it is",
        description="Train a model. Leaves checkpoint.npz, metrics.jsonl, result.json and report.png in DIR.",
    )

    def option(name: str, text: str, **rest: Any) -> None:
        key = name.strip("-").replace("-", "_")
        default = DEFAULTS.get(key)
        shown = ",".join(default) or "none" if isinstance(default, list) else default
        if key in RANGES:
            rest["type"] = _number(RANGES[key])
        train.add_argument(name, help=text if shown in (None, False) else f"{text} (default {shown})", **rest)

    option("--data", "fashion-mnist, or a folder of idx files", metavar="NAME|DIR")
    option("--model", ", ".join(MODELS), metavar="NAME")
    option("--epochs", "passes over the training images", metavar="N")
    option("--batch-size", "images per step", metavar="N")
    option("--lr", "highest learning rate", metavar="X")
    option("--optimizer", ", ".join(OPTIMIZERS), choices=OPTIMIZERS, metavar="NAME")
    option("--momentum", "of sgd (Nesterov's) and rmsprop", metavar="X")
    option("--weight-decay", "L2 penalty on weights", metavar="X")
    option("--l1", "L1 penalty on weights", metavar="X")
    option("--max-norm", "limit of the length of each unit's weights", metavar="X")
    option("--clip-norm", "limit of the length of the gradient", metavar="X")
    option("--schedule", ", ".join(SCHEDULES), choices=SCHEDULES, metavar="NAME")
    option("--warmup", "epochs in which the learning rate rises from 0", metavar="X")
    option(
        "--augment",
        "none, or a list of " + ", ".join(AUGMENTATIONS) + "; an amount may follow, as in shift:2",
        type=_augmentations,
        metavar="LIST",
    )
    option("--dropout", "before the last layer, where the model has it", metavar="X")
    option("--label-smoothing", "share of the target spread over all classes", metavar="X")
    option("--seed", "of weights, order, dropout and augmentation", metavar="N")
    option(
        "--early-stopping", "stop after N epochs without a better validation loss", type=_COUNT, metavar="N"
    )
    option(
        "--validation-fraction",
        "share of the training images held out to watch, and to choose the best epoch by; "
        "without it the test images are watched and nothing is chosen",
        metavar="X",
    )
    option("--limit", "use only the first N training and test images", metavar="N")
    option("--threads", "threads to compute with; the result does not depend on it", type=_COUNT, metavar="N")
    _device(train)
    option("--checkpoint-every", "such as '1 epoch', '200 batches', '60 seconds'", metavar="TEXT")
    option("--output", "folder of the results (default runs/MODEL-DATA)", metavar="DIR")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    train.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _add_compress(commands: Any) -> None:
    compress = commands.add_parser(
        "compress",
        help="prune, quantize, share, factorize or distil a model by a recipe, then a report",
        description="Compress a model as a recipe says. Leaves model.npz, checkpoint.npz, metrics.jsonl,\n"
        "report.md, report.json and report.html in DIR.",
    )
    compress.add_argument(
        "--recipe",
        required=True,
        metavar="NAME|FILE",
        help="a TOML file, or prune-90, four-bits, deep-compression",
    )
    compress.add_argument("--data", metavar="NAME|DIR", help="other data than the recipe names")
    compress.add_argument(
        "--checkpoint", metavar="FILE", help="a trained model to begin with, not a fresh one"
    )
    compress.add_argument(
        "--seed", type=_number(RANGES["seed"]), metavar="N", help="another one than the recipe's"
    )
    compress.add_argument("--limit", type=_COUNT, metavar="N", help="use only the first N images")
    compress.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="DIR",
        help="earlier results to show in the report beside it",
    )
    compress.add_argument("--threads", type=_COUNT, metavar="N", help="threads to compute with")
    _device(compress)
    compress.add_argument(
        "--checkpoint-every",
        default="1 epoch",
        metavar="TEXT",
        help="such as '200 batches' (default 1 epoch)",
    )
    compress.add_argument("--output", metavar="DIR", help="folder of the results (default runs/RECIPE-DATA)")
    compress.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in the output folder"
    )
    compress.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _add_sensitivity(commands: Any) -> None:
    scan = commands.add_parser(
        "sensitivity",
        help="prune each layer of a checkpoint alone: what it costs, and which rates to take",
        description="Prune one layer at a time and measure accuracy, on images that are no test images.\n"
        "Leaves sensitivity.json and sensitivity.png in DIR.",
    )
    scan.add_argument("--checkpoint", required=True, metavar="FILE")
    scan.add_argument("--data", metavar="NAME|DIR", help="other data than the model was trained on")
    scan.add_argument("--rates", type=_rates, default=[0.5, 0.6, 0.7, 0.8, 0.9, 0.95], metavar="LIST",
                      help="(default 0.5,0.6,0.7,0.8,0.9,0.95)")  # fmt: skip
    scan.add_argument("--max-drop", type=_number(FRACTION), default=0.01, metavar="X",
                      help="accuracy that each layer may lose (default 0.01)")  # fmt: skip
    scan.add_argument("--unit", default="weight", metavar="NAME", help="weight, filter or channel")
    scan.add_argument("--score", default="l1", metavar="NAME", help="l1, l2, taylor, random or bn_scale")
    scan.add_argument("--layers", type=lambda text: text.split(","), metavar="LIST", help="(default all)")
    scan.add_argument("--images", type=_COUNT, default=5000, metavar="N", help="to measure by (default 5000)")
    scan.add_argument("--threads", type=_COUNT, metavar="N", help="threads to compute with")
    scan.add_argument("--output", metavar="DIR", help="(default: where the checkpoint is)")


def _rates(text: str) -> list[float]:
    return [_number(FRACTION)(word) for word in text.split(",")]


def _add_search(commands: Any) -> None:
    search = commands.add_parser(
        "search",
        help="try a recipe with many settings, in parallel, and tabulate what came out",
        description="A space file is a recipe with a table [space] of choices or ranges, such as\n"
        '  lr = { low = 0.01, high = 0.1, log = true, points = 3 }\n  "steps.1.rate" = [0.8, 0.9]\n'
        "Accuracy is that on held-out training images. Leaves search.md and search.json in DIR.",
    )
    search.add_argument("--space", required=True, metavar="FILE")
    search.add_argument("--n", type=_COUNT, metavar="N", help="settings drawn at random (default: all)")
    search.add_argument("--jobs", type=_COUNT, default=1, metavar="N", help="processes (default 1)")
    search.add_argument("--seeds", type=_COUNT, default=1, metavar="N", help="trainings of each (default 1)")
    search.add_argument("--data", metavar="NAME|DIR", help="other data than the file names")
    search.add_argument("--output", default="runs/search", metavar="DIR", help="(default runs/search)")
    search.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser("evaluate", help="test a checkpoint on the test images")
    evaluate.add_argument("checkpoint", metavar="CHECKPOINT")
    evaluate.add_argument("--data", metavar="NAME|DIR", help="other data than the model was trained on")
    evaluate.add_argument("--batch-size", type=_COUNT, default=256, metavar="N", help="(default 256)")
    evaluate.add_argument("--threads", type=_COUNT, metavar="N", help="threads to compute with")
    _device(evaluate)
    evaluate.add_argument("--json", action="store_true", help="as JSON")


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser(
        "predict",
        help="classify pictures with a checkpoint",
        description="Classify pictures. Each is turned to the colours and the size of the model's input.\n"
        "Models of Fashion-MNIST and MNIST know bright things on black: a picture with a bright\n"
        "border is inverted, and a warning says so; --invert yes or no decides it.",
    )
    predict.add_argument("checkpoint", metavar="CHECKPOINT")
    predict.add_argument("pictures", nargs="+", metavar="FILE")
    predict.add_argument("--invert", choices=("auto", "yes", "no"), default="auto", metavar="auto|yes|no")
    predict.add_argument("--threads", type=_COUNT, metavar="N", help="threads to compute with")
    _device(predict)
    predict.add_argument("--json", action="store_true", help="as JSON")


def _add_deploy(commands: Any) -> None:
    deploy = commands.add_parser(
        "deploy",
        help="write a model to one file that runs without training code, on integers if it is quantized",
        description="Write a model (a checkpoint, or what `minicnn compress` leaves) to a file FILE.mcnn.\n"
        "With --bits a model of floats is quantized first; FILE.npz then holds it, to verify with.\n"
        "What the file costs here is measured and stands in it, for `minicnn pick`, and beside it, in\n"
        "FILE.report.md, .json and .html.",
    )
    deploy.add_argument("--checkpoint", required=True, metavar="MODEL.npz")
    deploy.add_argument("--output", metavar="FILE.mcnn", help="(default: beside the checkpoint)")
    deploy.add_argument("--bits", type=_number(Range(int, 2, 9)), metavar="N",
                        help="quantize weights and activations, after training")  # fmt: skip
    deploy.add_argument("--calibration", type=_COUNT, default=1000, metavar="N",
                        help="training images that ranges are taken from (default 1000)")  # fmt: skip
    deploy.add_argument("--data", metavar="NAME|DIR", help="other data than the model was trained on")
    deploy.add_argument("--before", metavar="MODEL.npz",
                        help="the model before compression: the report compares with it")  # fmt: skip
    deploy.add_argument("--limit", type=_COUNT, metavar="N", help="test images to measure by (default all)")
    deploy.add_argument("--no-report", action="store_true", help="measure nothing")
    deploy.add_argument("--no-stopwatch", action="store_true",
                        help="do not time other kernels: sparse rows, bits, routes of integers")  # fmt: skip
    deploy.add_argument("--no-huffman", action="store_true", help="arrays at fixed widths only")
    deploy.add_argument("--threads", type=_COUNT, metavar="N", help="threads to compute with")


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run", help="classify pictures with a deployed model", description="As `minicnn predict`, by a file."
    )
    run.add_argument("file", metavar="FILE.mcnn")
    run.add_argument("pictures", nargs="+", metavar="PICTURE")
    run.add_argument("--invert", choices=("auto", "yes", "no"), default="auto", metavar="auto|yes|no")
    run.add_argument("--threads", type=_COUNT, metavar="N", help="threads to compute with")
    run.add_argument("--json", action="store_true", help="as JSON")


def _add_verify(commands: Any) -> None:
    verify = commands.add_parser(
        "verify",
        help="compare a deployed model with the model it was made of, layer by layer, to the bit",
        description="Run test images through the model in eval mode and through the file: by the reference,\n"
        "and by every route of the kernels. Exit status 1 if a number differs; the first is named.",
    )
    verify.add_argument("file", metavar="FILE.mcnn")
    verify.add_argument("--checkpoint", required=True, metavar="MODEL.npz")
    verify.add_argument("--data", metavar="NAME|DIR", help="other data than the model was trained on")
    verify.add_argument("--images", type=_COUNT, metavar="N", help="the first N test images (default all)")
    verify.add_argument("--reference", type=_COUNT, metavar="N",
                        help="of these, how many go through the reference (default all)")  # fmt: skip
    verify.add_argument("--batch-size", type=_COUNT, default=50, metavar="N", help="(default 50)")
    verify.add_argument("--threads", type=_COUNT, metavar="N", help="threads to compute with")
    verify.add_argument("--json", action="store_true", help="as JSON")


def _add_inspect(commands: Any) -> None:
    inspect = commands.add_parser("inspect", help="what is in a deployed model: layers, arrays, bits, bytes")
    inspect.add_argument("file", metavar="FILE.mcnn")
    inspect.add_argument("--json", action="store_true", help="as JSON")


def _add_pick(commands: Any) -> None:
    pick = commands.add_parser(
        "pick",
        help="compare deployed files by the reports in them, and pick one within limits",
        description="Compare .mcnn files by the reports they carry, and print the one to take, the most\n"
        "accurate within the limits. Latency is that of one image, where the file was measured.",
    )
    pick.add_argument("files", nargs="*", default=["."], metavar="FILE|DIR", help="(default: this folder)")
    pick.add_argument("--max-bytes", type=_COUNT, metavar="N", help="of the file")
    pick.add_argument(
        "--max-latency", type=_number(POSITIVE), metavar="MS", help="milliseconds for one image"
    )
    pick.add_argument("--min-accuracy", type=_number(FRACTION), metavar="X", help="such as 0.92")
    pick.add_argument(
        "--best",
        choices=("accuracy", "bytes", "macs", "latency_ms", "latency_batch_ms", "memory_mib"),
        default="accuracy",
        metavar="NAME",
        help="what to choose by: accuracy (default), bytes, macs, latency_ms, latency_batch_ms or memory_mib",
    )
    pick.add_argument("--json", action="store_true", help="as JSON")
