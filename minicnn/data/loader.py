"""DataLoader: the order of the samples, batches made ahead of time, and a position to come back to.

Everything random about a batch follows from (seed, epoch, batch index) through counter-based
generators. So the loader's state is a position and not a stream of numbers: training resumes in the
middle of an epoch with the very batches it would have seen, whatever was prefetched.

The batch size chooses the sampling of gradient descent: 1 is stochastic, 32 to 256 mini-batch, and
None (all samples in one batch) full-batch gradient descent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from minicnn.data.augment import Transform
from minicnn.data.datasets import Dataset
from minicnn.tensor import Tensor
from minicnn_kernels import memory

Sampler = Callable[[np.random.Generator], np.ndarray]


class DataLoader:
    """Batches of a dataset: (images (N, C, H, W) float32, labels (N,) int64), as tensors.

    batch_size: samples per batch; None for all of them. shuffle: a new order in every epoch.
    drop_last: leave out a last batch that is smaller than the others.
    transform: applied to the batch before the dataset's own transform (which normalises); the place for
    augmentation. uint8 images come to it scaled to [0, 1], floating ones as they are.
    sampler: instead of `shuffle`, a function that gets the epoch's generator and returns len(dataset)
    indices, repeats allowed. prefetch: batches made ahead in one background thread; 0 makes each when it is
    asked for. seed: of order and augmentation.

    Each iteration is one epoch; one that was left early counts. `state_dict` inside the loop is the
    position after the batch at hand: `load_state_dict` makes the next iteration begin there.
    Raises ValueError for options that do not fit.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int | None = 1,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        transform: Transform | None = None,
        sampler: Sampler | None = None,
        prefetch: int = 2,
        seed: int = 0,
    ) -> None:
        if len(dataset) == 0:
            raise ValueError("DataLoader: the dataset is empty; there is nothing to load")
        if batch_size is None:
            batch_size = len(dataset)
        _check_integer("batch_size", batch_size, low=1)
        _check_integer("prefetch", prefetch, low=0)
        _check_integer("seed", seed, low=0, high=(1 << 64) - 1)
        if shuffle and sampler is not None:
            raise ValueError("DataLoader: a sampler decides the order itself; leave out shuffle=True")
        if drop_last and batch_size > len(dataset):
            raise ValueError(
                f"DataLoader: drop_last leaves no batch: the dataset has {len(dataset)} samples, fewer than "
                f"batch_size {batch_size}"
            )
        self.dataset, self.batch_size = dataset, batch_size
        self.shuffle, self.drop_last = shuffle, drop_last
        self.transform, self.sampler = transform, sampler
        self.prefetch, self.seed = prefetch, seed
        self._epoch = self._batch = 0
        self._resuming = False

    def __len__(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    @property
    def epoch(self) -> int:
        """Number of the epoch that is being read, or that comes next; counts from 0."""
        return self._epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not self._resuming and self._batch > 0:  # the epoch before was left early
            self._epoch, self._batch = self._epoch + 1, 0
        self._resuming = False
        epoch, order = self._epoch, self._order(self._epoch)

        def make(batch: int) -> tuple[Tensor, Tensor]:
            return self._make(order, epoch, batch)

        remaining = range(self._batch, len(self))
        for batch, pair in zip(remaining, _ahead(make, remaining, self.prefetch), strict=True):
            self._epoch, self._batch = epoch, batch + 1
            yield pair
        self._epoch, self._batch = epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """The position, and what must be equal for it to mean the same batch."""
        return {"epoch": self._epoch, "batch": self._batch} | self._identity()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a position. Raises ValueError if it belongs to another dataset size or batch size."""
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ValueError(
                    f"DataLoader: this position was saved with {name} = {state.get(name)}, the loader has "
                    f"{value}; make the loader as it was, or start a new run"
                )
        epoch, batch = int(state["epoch"]), int(state["batch"])
        if epoch < 0 or not 0 <= batch <= len(self):
            raise ValueError(f"DataLoader: no batch {batch} of {len(self)} in epoch {epoch}")
        self._epoch, self._batch, self._resuming = epoch, batch, True

    def _identity(self) -> dict[str, int]:
        return {
            "samples": len(self.dataset),
            "batch_size": self.batch_size,
            "shuffle": int(self.shuffle),
            "drop_last": int(self.drop_last),
            "seed": self.seed,
        }

    def _order(self, epoch: int) -> np.ndarray:
        n, rng = len(self.dataset), _generator(self.seed, epoch, 0)
        if self.sampler is None:
            return rng.permutation(n) if self.shuffle else np.arange(n)
        order = np.asarray(self.sampler(rng))
        if order.shape != (n,) or order.dtype.kind not in "iu":
            raise ValueError(
                f"DataLoader: expected the sampler to return {n} integer indices, one for each sample of an "
                f"epoch, got shape {order.shape} of {order.dtype}"
            )
        return order

    def _make(self, order: np.ndarray, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        """One batch. Runs in the background thread, so NumPy alone: Numba's pool is the trainer's."""
        indices = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        try:
            images, labels = self.dataset[indices]
            if len(images) != len(indices) or len(labels) != len(indices):
                raise ValueError(
                    f"dataset[indices] gave {len(images)} images and {len(labels)} labels for "
                    f"{len(indices)} indices; a dataset answers an array of indices with a whole batch"
                )
            images = _as_float32(images)
            rng = _generator(self.seed, epoch, batch + 1)
            for transform in (self.transform, getattr(self.dataset, "transform", None)):
                if transform is not None:
                    images = transform(images, rng)
        except Exception as error:
            error.add_note(f"DataLoader: while making batch {batch} of epoch {epoch}")
            raise
        return Tensor(np.asarray(images, np.float32)), Tensor(np.asarray(labels, np.int64))


def _check_integer(name: str, value: Any, *, low: int, high: int | None = None) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise TypeError(f"DataLoader: expected {name} to be an integer, got {value!r}")
    if value < low or (high is not None and value > high):
        raise ValueError(
            f"DataLoader: expected {name} of at least {low}{'' if high is None else f' and at most {high}'}, "
            f"got {value}"
        )


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    """Stream 0 orders the epoch, stream b + 1 augments batch b. They are 2**192 blocks of Philox apart."""
    key, counter = np.array([seed, epoch], np.uint64), np.array([0, 0, 0, stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _as_float32(images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8:
        return np.asarray(images, np.float32)
    result = memory.empty(images.shape, np.float32)
    return np.divide(images, np.float32(255), out=result, dtype=np.float32)


def _ahead(make: Callable[[int], Any], indices: range, depth: int) -> Iterator[Any]:
    """make(i) for each index, in order, up to `depth` of them made ahead in one thread.

    An exception of `make` is raised where its result would have come. The thread ends with the iterator.
    """
    if depth == 0:
        yield from map(make, indices)
        return
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="minicnn-loader")
    try:
        waiting: deque[Future] = deque()
        for index in indices:
            waiting.append(executor.submit(make, index))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also when the iterator is dropped in the middle
        executor.shutdown(wait=False, cancel_futures=True)
