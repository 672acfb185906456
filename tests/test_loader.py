"""The loader: what it yields, in which order, from which position, and what becomes of its thread."""

import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from minicnn import Tensor
from minicnn.data import (
    ArrayDataset,
    Compose,
    Cutout,
    DataLoader,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    RandomRotation,
)

AUGMENTATION = Compose([RandomCrop(padding=2), RandomHorizontalFlip(), RandomRotation(20), Cutout(3)])


@pytest.fixture
def dataset():
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (50, 3, 8, 6), dtype=np.uint8)
    return ArrayDataset(images, np.arange(50), transform=Normalize((0.4, 0.5, 0.6), 0.25))


def read(batches):
    return [(images.numpy().tobytes(), labels.tolist()) for images, labels in batches]


def labels_of(loader):
    return [label for _, labels in loader for label in labels.tolist()]


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("minicnn-loader")]


def wait_until_no_threads():
    deadline = time.monotonic() + 5
    while loader_threads() and time.monotonic() < deadline:
        time.sleep(0.005)
    return not loader_threads()


# -- batches --------------------------------------------------------------------------------------


def test_batches_are_float32_images_and_int64_labels(dataset):
    images, labels = next(iter(DataLoader(dataset, 7)))
    assert isinstance(images, Tensor)
    assert (images.shape, images.dtype) == ((7, 3, 8, 6), np.float32)
    assert (labels.shape, labels.dtype) == ((7,), np.int64)
    assert not images.requires_grad
    expected = (dataset.images[:7] / 255 - np.reshape([0.4, 0.5, 0.6], (3, 1, 1))) / 0.25
    np.testing.assert_allclose(images.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_floating_images_are_not_scaled():
    images = np.linspace(-300, 300, 24).reshape(2, 3, 2, 2)
    batch, _ = next(iter(DataLoader(ArrayDataset(images, [0, 1]), 2)))
    np.testing.assert_allclose(batch.numpy(), images, rtol=1e-6)


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [16, 16, 16, 2]), (True, [16, 16, 16])])
def test_the_last_batch_is_kept_or_dropped(dataset, drop_last, sizes):
    loader = DataLoader(dataset, 16, drop_last=drop_last)
    assert len(loader) == len(sizes)
    assert [len(labels) for _, labels in loader] == sizes


def test_batch_size_none_is_full_batch_gradient_descent(dataset):
    loader = DataLoader(dataset, None)
    assert len(loader) == 1
    assert labels_of(loader) == list(range(50))


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_every_sample_comes_once_in_a_new_order_each_epoch(dataset, prefetch):
    loader = DataLoader(dataset, 8, shuffle=True, prefetch=prefetch)
    epochs = [labels_of(loader) for _ in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert loader.epoch == 3


def test_seeds_choose_orders_and_equal_seeds_equal_ones(dataset):
    orders = [labels_of(DataLoader(dataset, 8, shuffle=True, seed=seed)) for seed in (3, 3, 4, (1 << 64) - 1)]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3


def test_augmented_batches_are_the_same_whatever_is_prefetched(dataset):
    runs = []
    for prefetch in (0, 1, 4, 100):
        loader = DataLoader(dataset, 8, shuffle=True, transform=AUGMENTATION, prefetch=prefetch, seed=9)
        runs.append(read(loader) + read(loader))
    assert runs[1:] == runs[:1] * 3


def test_the_same_sample_is_augmented_differently_in_each_epoch(dataset):
    loader = DataLoader(dataset, 50, transform=AUGMENTATION)
    assert read(loader) != read(loader)


def test_a_sampler_decides_the_order(dataset):
    loader = DataLoader(dataset, 16, sampler=lambda rng: rng.integers(0, 10, 50))
    drawn = labels_of(loader)
    assert len(drawn) == 50
    assert max(drawn) < 10
    assert labels_of(loader) != drawn
    with pytest.raises(ValueError, match="expected the sampler to return 50 integer indices"):
        labels_of(DataLoader(dataset, 16, sampler=lambda rng: np.arange(49)))


# -- position -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [0, 1, 3, 7])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_resumed_loader_continues_bit_for_bit_in_the_middle_of_an_epoch(dataset, stop, prefetch):
    def make():
        return DataLoader(dataset, 8, shuffle=True, transform=AUGMENTATION, prefetch=prefetch, seed=2)

    loader = make()
    whole = read(loader) + read(loader) + read(loader)

    loader = make()
    read(loader)
    iterator = iter(loader)
    before = [next(iterator) for _ in range(stop)]
    state = json.loads(json.dumps(loader.state_dict()))
    resumed = make()
    resumed.load_state_dict(state)
    assert read(before) + read(resumed) + read(resumed) == whole[7:]


def test_the_position_counts_batches_received_not_batches_made_ahead(dataset):
    loader = DataLoader(dataset, 10, prefetch=4)
    for number, _ in enumerate(loader):
        assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (0, number + 1)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (1, 0)


def test_an_epoch_left_early_is_followed_by_the_next_one(dataset):
    loader = DataLoader(dataset, 10, shuffle=True)
    first = next(iter(loader))[1].tolist()
    assert labels_of(loader)[:10] != first
    assert loader.epoch == 2


def test_a_position_of_another_loader_is_refused(dataset):
    state = DataLoader(dataset, 10).state_dict()
    with pytest.raises(ValueError, match="saved with batch_size = 10, the loader has 12"):
        DataLoader(dataset, 12).load_state_dict(state)
    with pytest.raises(ValueError, match="no batch 6 of 5 in epoch 0"):
        DataLoader(dataset, 10).load_state_dict(state | {"batch": 6})
    with pytest.raises(ValueError, match="saved with seed = None"):
        DataLoader(dataset, 10).load_state_dict({"epoch": 0, "batch": 0, "samples": 50, "batch_size": 10,
                                                 "shuffle": 0, "drop_last": 0})  # fmt: skip


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size of at least 1, got 0"),
        ({"batch_size": 6.4}, TypeError, r"batch_size to be an integer, got 6\.4"),
        ({"prefetch": -1}, ValueError, "prefetch of at least 0"),
        ({"seed": -1}, ValueError, "seed of at least 0"),
        ({"seed": 1 << 64}, ValueError, "at most 18446744073709551615"),
        ({"batch_size": 51, "drop_last": True}, ValueError, "drop_last leaves no batch"),
        ({"shuffle": True, "sampler": np.arange}, ValueError, "sampler decides the order"),
    ],
)
def test_options_that_do_not_fit_are_refused(dataset, options, error, message):
    with pytest.raises(error, match=message):
        DataLoader(dataset, **options)


def test_an_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="dataset is empty"):
        DataLoader([])


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_in_the_background_comes_out_where_its_batch_would_have(dataset, prefetch):
    def fail_on_the_third(images, rng):
        if 24 in (images * 255).round().astype(int)[:, 0, 0, 0]:
            raise KeyError("no such garment")
        return images

    dataset.images[:, 0, 0, 0] = np.arange(50)
    received = []
    with pytest.raises(KeyError, match="no such garment") as caught:
        received.extend(DataLoader(dataset, 10, transform=fail_on_the_third, prefetch=prefetch))
    assert len(received) == 2
    assert caught.value.__notes__ == ["DataLoader: while making batch 2 of epoch 0"]
    assert wait_until_no_threads()


def test_a_dataset_that_answers_single_samples_is_explained():
    class OneByOne:
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return np.zeros((1, 4, 4), np.float32), [0]

    with pytest.raises(ValueError, match=r"gave 1 images and 1 labels for 3 indices"):
        next(iter(DataLoader(OneByOne(), 3)))


# -- the thread -----------------------------------------------------------------------------------


def test_there_is_one_thread_while_iterating_and_none_after(dataset):
    assert wait_until_no_threads()  # those of the test before may still be ending
    for _ in DataLoader(dataset, 5, prefetch=3):
        assert len(loader_threads()) <= 1
    assert wait_until_no_threads()
    for _ in DataLoader(dataset, 5, prefetch=0):
        assert not loader_threads()


def test_the_thread_ends_when_the_iterator_is_dropped(dataset):
    iterators = [iter(DataLoader(dataset, 2, prefetch=3)) for _ in range(4)]
    for iterator in iterators:
        next(iterator)
    assert loader_threads()
    del iterator, iterators
    assert wait_until_no_threads()


def test_no_more_than_prefetch_batches_are_made_ahead(dataset):
    made = []

    def count(images, rng):
        made.append(len(images))
        return images

    iterator = iter(DataLoader(dataset, 1, prefetch=3, transform=count))
    next(iterator)
    time.sleep(0.05)
    assert len(made) == 4


def test_the_process_ends_with_an_iterator_left_open():
    program = (
        "import numpy as np; from minicnn.data import ArrayDataset, DataLoader\n"
        "dataset = ArrayDataset(np.zeros((1000, 1, 4, 4), np.uint8), np.zeros(1000, int))\n"
        "iterator = iter(DataLoader(dataset, 1, prefetch=50)); next(iterator)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
