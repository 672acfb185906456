"""The buffer pool: memory comes back when the last view dies, is aligned, bounded, and safe among threads."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest

from minicnn_kernels import memory

LARGE = (64, 1024)  # floats, far above what is left to NumPy


@pytest.fixture(autouse=True)
def empty_pool():
    gc.collect()
    memory.clear()
    yield
    memory.clear()


def address(x: np.ndarray) -> int:
    return x.__array_interface__["data"][0]


def test_memory_of_a_dead_array_is_used_again():
    x = memory.empty(LARGE)
    place = address(x)
    del x
    y = memory.empty((1024, 64))
    assert address(y) == place


def test_a_request_of_nearly_the_same_size_fits_too():
    x = memory.empty(100_000)
    place = address(x)
    del x
    assert address(memory.empty(99_000)) == place


@pytest.mark.parametrize("shape", [LARGE, (5, 7, 1237), 4099, np.int64(8192), (1, 1, 50_000)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.bool_, np.int64])
def test_large_arrays_are_aligned_contiguous_and_writeable(shape, dtype):
    x = memory.empty(shape, dtype)
    assert x.dtype == dtype
    assert x.flags.c_contiguous
    assert x.flags.writeable
    if x.nbytes >= memory.SMALL:
        assert address(x) % memory.ALIGNMENT == 0


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5000), (1,), (4, 5)])
def test_small_and_empty_arrays(shape):
    assert memory.empty(shape).shape == shape
    assert not memory.zeros(shape, np.int64).any()


def test_a_view_keeps_the_memory_alive():
    x = memory.zeros(LARGE)
    view = x[10:20].T
    place = address(x)
    del x
    assert memory.retained_bytes() == 0
    others = [memory.empty(LARGE) for _ in range(3)]
    assert all(address(other) != place for other in others)
    for other in others:
        other.fill(1)
    assert not view.any()


def test_living_arrays_never_overlap(rng):
    alive: list[np.ndarray] = []
    for step in range(300):
        if alive and rng.random() < 0.5:
            array = alive.pop(int(rng.integers(len(alive))))
            assert (array == array.flat[0]).all()
        else:
            array = memory.empty(int(rng.integers(4096, 20_000)))
            array.fill(step)
            alive.append(array)
    assert all((array == array[0]).all() for array in alive)


def test_retained_bytes_count_what_lies_ready_and_clear_gives_it_back():
    arrays = [memory.empty(LARGE) for _ in range(4)]
    size = arrays[0].nbytes
    assert memory.retained_bytes() == 0
    del arrays[:2]
    assert 2 * size <= memory.retained_bytes() <= 2.3 * size
    again = memory.empty(LARGE)
    assert memory.retained_bytes() < 2 * size
    memory.clear()
    assert memory.retained_bytes() == 0
    assert again.shape == LARGE


def test_the_pool_keeps_no_more_than_its_limit(monkeypatch):
    monkeypatch.setattr(memory, "_MAX_RETAINED", 600_000)
    arrays = [memory.empty(LARGE) for _ in range(10)]
    del arrays
    assert 0 < memory.retained_bytes() <= 600_000


def test_poison_shows_reads_of_memory_that_nobody_wrote():
    previous = memory.poison(True)
    try:
        assert np.isnan(memory.empty(LARGE)).all()
        assert np.isnan(memory.empty(3)).all()
        x = memory.zeros(LARGE)
        del x
        assert np.isnan(memory.empty(LARGE)).all()
        assert memory.poison(True) is True
    finally:
        memory.poison(previous)


def test_empty_like_keeps_the_order_of_axes():
    images = memory.empty_images(2, 3, 40, 50)
    assert images.shape == (2, 3, 40, 50)
    assert images.transpose(0, 2, 3, 1).flags.c_contiguous
    assert memory.empty_like(images).strides == images.strides
    assert memory.empty_like(images, np.uint8).transpose(0, 2, 3, 1).flags.c_contiguous
    sliced = images[:, :, ::2]
    assert memory.empty_like(sliced).transpose(0, 2, 3, 1).flags.c_contiguous
    repeated = np.broadcast_to(np.float32(1), (3, 4))
    assert memory.empty_like(repeated).flags.writeable


def test_many_threads_share_the_pool_without_sharing_memory():
    failures = []

    def work(number: int) -> None:
        for step in range(300):
            array = memory.empty(8192 + 64 * (step % 5))
            array.fill(number)
            if not (array == number).all():
                failures.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def test_arrays_that_outlive_the_program_end_quietly():
    code = (
        "from minicnn_kernels import memory\nx = memory.empty(10**6)\nclass A:\n    x = memory.empty(10**6)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
