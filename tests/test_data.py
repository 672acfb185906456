"""Datasets and the idx reader: what they give, and what they say about files and arrays that are wrong."""

import gzip
import hashlib
import os
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicnn.data import (
    ArrayDataset,
    DataLoader,
    FashionMNIST,
    IdxError,
    IdxFolder,
    Normalize,
    Subset,
    random_split,
    read_idx,
)
from minicnn.data.datasets import FASHION_MNIST_NORMALIZE, MNIST_NORMALIZE

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array: np.ndarray) -> bytes:
    """`array` as the content of an idx file."""
    code = CODES[array.dtype.str[1:]]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write(path, content: bytes):
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def fashion_train():
    return FashionMNIST(train=True)


@pytest.fixture
def small():
    rng = np.random.default_rng(0)
    return ArrayDataset(rng.integers(0, 256, (20, 1, 4, 4), dtype=np.uint8), np.arange(20) % 5)


# -- idx ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_round_trip_of_every_element_type(tmp_path, dtype, packed):
    array = np.arange(-60, 60).astype(dtype).reshape(2, 3, 4, 5)
    content = gzip.compress(idx_bytes(array)) if packed else idx_bytes(array)
    result = read_idx(write(tmp_path / "file", content))  # the name does not tell what is inside
    assert result.dtype == array.dtype
    assert result.dtype.isnative
    np.testing.assert_array_equal(result, array)


GOOD = idx_bytes(np.arange(24, dtype="u1").reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file.*an empty file"),
        (b"\x89PNG\r\n\x1a\n", "not an idx file.*89 50 4e 47"),
        (b"\0\0\x07\x01", "not an idx file"),
        (b"\0\0\x08\0", "expected 3 dimensions, the header says 0"),
        (b"\0\0\x08\xff" + b"\1" * 1020, "expected 3 dimensions, the header says 255"),
        (idx_bytes(np.zeros(5, "u1")), "expected 3 dimensions, the header says 1.*mixed up"),
        (GOOD[:9], "truncated inside its header, after 9 bytes"),
        (GOOD[:-1], "promises 24 bytes of 2 x 3 x 4 uint8, but at most 23"),
        (GOOD + b"\0", "more bytes follow the 24"),
        (GOOD[:4] + struct.pack(">3I", 0, 3, 4), r"no elements: the header gives the shape \(0, 3, 4\)"),
        (b"\0\0\x0e\3" + b"\xff" * 12 + b"data", "truncated or its header is damaged"),
        (gzip.compress(GOOD[:-1]), "truncated: the header promises 24 bytes.*ends after 23"),
        (gzip.compress(GOOD + b"\0"), "more bytes follow"),
        (gzip.compress(b"hello"), "not an idx file"),
        (gzip.compress(GOOD)[:-9], "not a complete gzip file"),
        (gzip.compress(GOOD)[:-5] + b"\0\0\0\0\0", "not a complete gzip file.*CRC"),
        (b"\x1f\x8b", "not a complete gzip file"),
        (b"\x1f\x8b\x08\x00garbage, no deflate stream", "not a complete gzip file"),
    ],
)
def test_a_wrong_idx_file_is_named_with_what_is_wrong(tmp_path, content, message):
    path = write(tmp_path / "images", content)
    with pytest.raises(IdxError, match=message) as caught:
        read_idx(path, ndim=3)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_lies_costs_no_memory(tmp_path, packed):
    content = b"\0\0\x08\3" + struct.pack(">3I", 1000, 1000, 5000) + bytes(4000)
    path = write(tmp_path / "lie", gzip.compress(content) if packed else content)
    tracemalloc.start(1)
    try:
        with pytest.raises(IdxError, match="promises 5,000,000,000 bytes"):
            read_idx(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_mutation_of_an_idx_file_gets_past_the_reader_or_crashes_it(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "mutated"
    original = data.draw(st.sampled_from([GOOD, gzip.compress(GOOD, mtime=0), idx_bytes(np.arange(3.0))]))
    content = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content)))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "delete"])):
            case "flip" if position < len(content):
                content[position] ^= data.draw(st.integers(1, 255))
            case "cut":
                del content[position:]
            case "insert":
                content[position:position] = data.draw(st.binary(min_size=1, max_size=8))
            case "delete":
                del content[position : position + 3]
    path.write_bytes(content)
    try:
        array = read_idx(path)
    except IdxError:
        return
    # It was read: then only values changed, or the header changed and still fits.
    raw = gzip.decompress(bytes(content)) if content[:2] == b"\x1f\x8b" else bytes(content)
    assert idx_bytes(array) == raw


def test_reading_a_file_that_is_not_there_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_idx(tmp_path / "nowhere")


# -- the datasets of files ------------------------------------------------------------------------


def test_fashion_mnist_is_the_published_data(fashion_train):
    test = FashionMNIST(train=False)
    assert (len(fashion_train), len(test)) == (60_000, 10_000)
    assert fashion_train.image_shape == test.image_shape == (1, 28, 28)
    assert fashion_train.images.dtype == np.uint8
    assert np.bincount(fashion_train.labels).tolist() == [6000] * 10
    assert fashion_train.class_names[fashion_train.labels[0]] == "Ankle boot"
    digest = hashlib.sha256(test.images.tobytes()).hexdigest()
    assert digest.startswith("c867c93ff9536059")
    assert repr(test) == "FashionMNIST(10,000 images of 1 x 28 x 28, 10 classes)"


def test_the_constants_of_fashion_mnist_are_those_of_its_training_images(fashion_train):
    measured = Normalize.measured(fashion_train.images)
    assert measured.mean == pytest.approx((FASHION_MNIST_NORMALIZE.mean,), abs=5e-5)
    assert measured.std == pytest.approx((FASHION_MNIST_NORMALIZE.std,), abs=5e-5)


@pytest.mark.skipif("MINICNN_MNIST" not in os.environ, reason="MINICNN_MNIST names no folder of idx files")
def test_real_mnist_loads_from_a_folder():
    train, test = (IdxFolder(os.environ["MINICNN_MNIST"], train=train) for train in (True, False))
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    measured = Normalize.measured(train.images)
    assert measured.mean == pytest.approx((MNIST_NORMALIZE.mean,), abs=5e-5)
    assert measured.std == pytest.approx((MNIST_NORMALIZE.std,), abs=5e-5)


def mnist_like(folder, images=6, labels=6, suffix=""):
    for part in ("train", "t10k"):
        for name, array in (
            ("images-idx3", np.full((images, 5, 5), 7, "u1")),
            ("labels-idx1", np.arange(labels, dtype="u1")),
        ):
            content = idx_bytes(array)
            if suffix == ".gz":
                content = gzip.compress(content)
            write(folder / f"{part}-{name}-ubyte{suffix}", content)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("train", [True, False])
def test_a_folder_of_idx_files_with_or_without_gz(tmp_path, suffix, train):
    mnist_like(tmp_path, suffix=suffix)
    dataset = IdxFolder(tmp_path, train)
    assert dataset.images.shape == (6, 1, 5, 5)
    assert dataset.class_names == ("0", "1", "2", "3", "4", "5")


def test_a_folder_with_files_missing_says_which_and_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        IdxFolder(tmp_path / "absent")
    write(tmp_path / "cat.png", b"")
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.*holds cat\.png"):
        IdxFolder(tmp_path)


def test_images_and_labels_of_different_numbers_are_refused(tmp_path):
    mnist_like(tmp_path, labels=5)
    with pytest.raises(IdxError, match="5 labels for 6 images"):
        IdxFolder(tmp_path)


# -- arrays ---------------------------------------------------------------------------------------


def test_grey_images_get_their_channel():
    assert ArrayDataset(np.zeros((3, 4, 5), np.float32), [0, 1, 2]).image_shape == (1, 4, 5)


def test_a_dataset_answers_one_index_and_many(small):
    image, label = small[3]
    assert image.shape == (1, 4, 4)
    assert label == 3
    images, labels = small[np.array([3, 0, 3])]
    assert images.shape == (3, 1, 4, 4)
    assert labels.tolist() == [3, 0, 3]


IMAGES = np.zeros((3, 1, 2, 2), np.float32)


@pytest.mark.parametrize(
    ("images", "labels", "names", "error", "message"),
    [
        (IMAGES.astype(int), [0, 1, 2], None, TypeError, "uint8.*got int64"),
        (IMAGES[0, 0], [0, 1], None, ValueError, r"shape \(N, C, H, W\) or \(N, H, W\), got \(2, 2\)"),
        (IMAGES[:0], [], None, ValueError, "no images"),
        (
            np.where(np.arange(12).reshape(IMAGES.shape) == 7, np.nan, 0),
            [0, 1, 2],
            None,
            ValueError,
            "image 1",
        ),
        (
            np.where(np.arange(12).reshape(IMAGES.shape) == 11, np.inf, 0),
            [0, 1, 2],
            None,
            ValueError,
            "image 2",
        ),
        (IMAGES, [0, 1], None, ValueError, "3 images but 2 labels"),
        (IMAGES, [0.0, 1.0, 2.0], None, TypeError, "integer labels.*float64"),
        (IMAGES, np.eye(3, dtype=int), None, ValueError, r"\(N,\), got \(3, 3\).*argmax"),
        (IMAGES, [0, -1, 2], None, ValueError, "label 1 is -1"),
        (IMAGES, [0, 1, 2], ["a", "b"], ValueError, "label 2 is 2, but 2 class names"),
    ],
)
def test_arrays_that_are_no_dataset_are_refused(images, labels, names, error, message):
    with pytest.raises(error, match=message):
        ArrayDataset(images, labels, class_names=names)


def test_a_nan_is_found_across_the_pieces_of_the_search(monkeypatch):
    monkeypatch.setattr("minicnn.data.datasets._CHECKED_AT_ONCE", 9)
    images = np.zeros((11, 1, 2, 2), np.float32)
    images[10] = np.nan
    with pytest.raises(ValueError, match="image 10 holds NaN"):
        ArrayDataset(images, np.zeros(11, int))


# -- parts ----------------------------------------------------------------------------------------


def test_a_split_is_disjoint_complete_and_the_same_for_the_same_seed(small):
    parts = random_split(small, [12, 5, 3], seed=4)
    assert [len(part) for part in parts] == [12, 5, 3]
    indices = np.concatenate([part.indices for part in parts])
    assert sorted(indices) == list(range(20))
    again = random_split(small, [12, 5, 3], seed=4)
    np.testing.assert_array_equal(indices, np.concatenate([part.indices for part in again]))
    other = random_split(small, [12, 5, 3], seed=5)
    assert indices.tolist() != np.concatenate([part.indices for part in other]).tolist()


def test_a_split_by_fractions_leaves_nobody_out(small):
    assert [len(part) for part in random_split(small, [0.7, 0.2, 0.1])] == [14, 4, 2]
    assert [len(part) for part in random_split(small, [1 / 3, 1 / 3, 1 / 3])] == [7, 7, 6]


@pytest.mark.parametrize("lengths", [[], [20, 0], [10, 9], [-1, 21], [0.5, 0.6], [0.99, 0.01]])
def test_a_split_that_does_not_add_up_is_refused(small, lengths):
    with pytest.raises(ValueError, match="add up to"):
        random_split(small, lengths)


def test_subsets_nest_and_keep_transform_and_names(small):
    small.transform = Normalize(0.5, 0.5)
    inner = Subset(Subset(small, [5, 6, 7]), np.array([2, 0]))
    assert inner[np.array([0, 1])][1].tolist() == [2, 0]
    assert inner.class_names == small.class_names
    images, _ = next(iter(DataLoader(inner, 2)))
    np.testing.assert_allclose(images.numpy(), small.images[[7, 5]] / 127.5 - 1, atol=1e-6)


def test_a_subset_out_of_range_is_refused(small):
    with pytest.raises(IndexError, match=r"0 to 19.*got 3 to 20"):
        Subset(small, [3, 20])
    with pytest.raises(ValueError, match="flatnonzero"):
        Subset(small, np.ones(20, bool))
