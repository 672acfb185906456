"""The command `minicnn`: train, compress, evaluate, predict, deploy, run, verify, inspect, info ...

Here is what all commands share: the exit status and how an error looks. The options are in `parser.py`,
the commands in the files of their names; what they do is the library's.

Exit status: 0 done; 1 training failed (the loss stopped being finite), or a file does not answer like its
model; 2 something to be put right by the user (options, files, data, a full disk); 130 interrupted by Ctrl-C,
the state saved.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from minicnn.cli.parser import make_parser
from minicnn.training.errors import TrainingError
from minicnn_kernels import HostOnlyError, NoDeviceError

# By the user; the last two: there is no GPU here, or what is asked of it works on the host only.
_TO_BE_PUT_RIGHT = (
    ValueError, TypeError, IndexError, OSError, ImportError, MemoryError, NoDeviceError, HostOnlyError
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: the process's own) and give the exit status."""
    options = make_parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return import_module(f"minicnn.cli.{options.command}").run(options)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as error:
        _say(str(error) or "interrupted")
        return 130
    except TrainingError as error:
        if options.traceback:
            raise
        _say(f"error: {_text(error)}")
        return 1
    except _TO_BE_PUT_RIGHT as error:
        if options.traceback:
            raise
        _say(f"error: {_text(error)}")
        return 2


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        parts = [f"{error.filename}: {error.strerror}" if error.filename else error.strerror]
    else:
        parts = [str(error) or type(error).__name__]
    return "; ".join([*parts, *getattr(error, "__notes__", ())])


def _say(text: str) -> None:
    """One line on stderr, whatever the message holds."""
    line = " ".join(part.strip() for part in text.splitlines() if part.strip())
    print(f"minicnn: {line}", file=sys.stderr, flush=True)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    _say(f"warning: {message}")
