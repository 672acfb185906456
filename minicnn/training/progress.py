"""What a person sees while a model trains: a bar on a terminal, one line per epoch anywhere else."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from minicnn.training.callbacks import Callback

if TYPE_CHECKING:
    from minicnn.training.run import Run


_SECONDS_BETWEEN = 0.1  # two looks at the means: for each a device is waited for


def duration(seconds: float) -> str:
    """Seconds as 8 s, 2:05 or 1:02:05."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress(Callback):
    """One plain line on stderr after every epoch. watched: what the validation data is called there."""

    def __init__(self, watched: str = "validation") -> None:
        self.watched = watched
        self.began, self.done_before = 0.0, 0

    @staticmethod
    def choose(progress: bool | None, watched: str) -> Progress | None:
        """Bars (True, or None on a terminal) if tqdm is installed, lines, or nothing (False)."""
        if progress is False:
            return None
        if progress is None and not sys.stderr.isatty():
            return Progress(watched)
        try:
            from tqdm import tqdm
        except ImportError:
            return Progress(watched)
        return ProgressBar(tqdm, watched)

    def on_start(self, run: Run) -> None:
        self.began, self.done_before = time.perf_counter(), run.epoch

    def on_epoch(self, run: Run) -> None:
        print(f"epoch {run.epoch}/{run.epochs}  {self.summary(run)}", file=sys.stderr, flush=True)

    def summary(self, run: Run) -> str:
        """The newest row of the history and the time that is left."""
        row = run.history[-1]
        parts = [f"loss {row['loss']:.4f}"]
        if "accuracy" in row:
            parts.append(f"accuracy {row['accuracy']:.4f}")
        if "validation_loss" in row:
            parts.append(f"{self.watched} {row['validation_loss']:.4f}")
        if "validation_accuracy" in row:
            parts[-1] += f" {row['validation_accuracy']:.4f}"
        parts.append(f"{row['images_per_second']:,.0f} images/s")
        if run.epoch < run.epochs and run.stop is None:
            per_epoch = (time.perf_counter() - self.began) / (run.epoch - self.done_before)
            parts.append(f"{duration(per_epoch * (run.epochs - run.epoch))} left")
        return "  ".join(parts)


class ProgressBar(Progress):
    """A tqdm bar while an epoch runs, in whose place its line stays."""

    def __init__(self, tqdm: Any, watched: str = "validation") -> None:
        super().__init__(watched)
        self.tqdm = tqdm
        self.bar: Any = None
        self.shown_at = 0.0

    def on_batch(self, run: Run) -> None:
        if self.bar is None:
            self.bar = self.tqdm(
                desc=f"epoch {run.epoch + 1}/{run.epochs}",
                total=len(run.loader),
                initial=run.batch - 1,
                bar_format="{desc} {bar:10} {elapsed}<{remaining}{postfix}",  # fits into 80 columns
                ncols=shutil.get_terminal_size().columns,  # tqdm itself shows nothing where that is unknown
                leave=False,
            )
        now = time.perf_counter()
        if now - self.shown_at < _SECONDS_BETWEEN and run.batch < len(run.loader):
            self.bar.update()
            return
        self.shown_at = now
        text = f"loss {run.means.loss:.4f}"
        if run.means.accuracy is not None:
            text += f"  accuracy {run.means.accuracy:.4f}"
        text += f"  {run.means.images / max(run.seconds, 1e-9):,.0f} images/s"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()

    def on_epoch(self, run: Run) -> None:
        self.close()
        super().on_epoch(run)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
