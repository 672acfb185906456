"""Augmentations: each does what it says to every image, and nothing that its generator did not draw."""

import numpy as np
import pytest
from scipy import ndimage

from minicnn.data import (
    Compose,
    Cutout,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    RandomRotation,
    RandomShift,
)
from minicnn.data.augment import rotate

EVERY = [
    Normalize((0.1, 0.2, 0.3), (1, 2, 3)),
    RandomHorizontalFlip(),
    RandomCrop(padding=3),
    RandomShift(2),
    RandomRotation(30),
    Cutout(4),
    Compose([RandomShift(1), Cutout(2)]),
]


@pytest.fixture
def images():
    return np.random.default_rng(0).random((40, 3, 9, 12), dtype=np.float32)


def generator(seed=5):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("transform", EVERY, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shape_and_dtype_stay_and_the_batch_given_is_left_alone(transform, dtype, images):
    images = images.astype(dtype)
    before = images.copy()
    result = transform(images, generator())
    assert (result.shape, result.dtype) == (images.shape, dtype)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("transform", EVERY, ids=repr)
def test_equal_generators_give_equal_batches(transform, images):
    first, second, other = (transform(images, generator(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert isinstance(transform, Normalize) or not np.array_equal(first, other)


@pytest.mark.parametrize("transform", EVERY, ids=repr)
def test_channels_last_memory_gives_the_same_values(transform, images):
    channels_last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(transform(channels_last, generator()), transform(images, generator()))


@pytest.mark.parametrize("transform", EVERY, ids=repr)
def test_images_of_another_rank_or_integers_are_refused(transform, images):
    with pytest.raises(ValueError, match=r"expected floating images of shape \(N, C, H, W\)"):
        transform(images[0], generator())
    with pytest.raises(ValueError, match="uint8"):
        transform(images.astype(np.uint8), generator())


def test_normalize_gives_mean_0_and_deviation_1(images):
    for given in (images * [[[3]], [[4]], [[5]]] - 1, (images * 255).astype(np.uint8)):
        scaled = given / 255 if given.dtype == np.uint8 else given
        result = Normalize.measured(given)(scaled, generator())
        np.testing.assert_allclose(result.mean((0, 2, 3)), 0, atol=1e-6)
        np.testing.assert_allclose(result.std((0, 2, 3)), 1, atol=1e-6)


def test_a_constant_channel_is_only_centred():
    assert Normalize.measured(np.full((2, 1, 3, 3), 255, np.uint8)) == Normalize((1.0,), (1.0,))


@pytest.mark.parametrize(("p", "expected"), [(0, 0), (1, 40)])
def test_flips_mirror_left_and_right_with_their_probability(images, p, expected):
    result = RandomHorizontalFlip(p)(images, generator())
    mirrored = (result == images[..., ::-1]).all(axis=(1, 2, 3))
    same = (result == images).all(axis=(1, 2, 3))
    assert (mirrored.sum(), same.sum()) == (expected, 40 - expected)


def test_a_flip_decides_for_each_image_on_its_own():
    images = np.random.default_rng(0).random((2000, 1, 2, 2), dtype=np.float32)
    result = RandomHorizontalFlip(0.3)(images, generator())
    share = (result == images[..., ::-1]).all(axis=(1, 2, 3)).mean()
    assert share == pytest.approx(0.3, abs=0.04)


def test_every_shift_occurs_and_is_the_image_moved():
    image = np.arange(1, 26, dtype=np.float32).reshape(1, 1, 5, 5)
    results = RandomShift(2, fill=-1)(np.repeat(image, 500, 0), generator())
    moved = set()
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            expected = ndimage.shift(image[0, 0], (dy, dx), order=0, cval=-1)
            if (results[:, 0] == expected).all(axis=(1, 2)).any():
                moved.add((dy, dx))
    assert len(moved) == 25
    known = {ndimage.shift(image[0, 0], shift, order=0, cval=-1).tobytes() for shift in moved}
    assert {result.tobytes() for result in results[:, 0]} == known


@pytest.mark.parametrize(("size", "shape"), [(4, (4, 4)), ((9, 3), (9, 3)), (11, (11, 11))])
def test_a_crop_of_a_size_is_a_window_of_the_padded_image(images, size, shape):
    result = RandomCrop(size, padding=1)(images, generator())
    assert result.shape == (40, 3, *shape)
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded[7], shape, axis=(1, 2))
    assert (windows == result[7][:, None, None]).all(axis=(0, 3, 4)).any()


def test_a_crop_that_does_not_fit_is_refused(images):
    with pytest.raises(ValueError, match="does not fit"):
        RandomCrop(12, padding=1)(images, generator())


@pytest.mark.parametrize("degrees", [0, 13, -45, 90, 180, 300])
@pytest.mark.parametrize("fill", [0, 0.7])
def test_rotation_equals_scipy(degrees, fill):
    images = np.random.default_rng(0).random((3, 2, 8, 11))
    result = rotate(images, np.full(3, np.deg2rad(degrees)), fill=fill)
    expected = ndimage.rotate(
        images, degrees, axes=(2, 3), reshape=False, order=1, mode="grid-constant", cval=fill
    )
    np.testing.assert_allclose(result, expected, atol=1e-12)


def test_rotation_by_a_right_angle_is_exact_and_counter_clockwise():
    images = np.random.default_rng(0).random((2, 1, 7, 7))
    result = rotate(images, np.array([np.pi / 2, -np.pi / 2]))
    np.testing.assert_allclose(result[0], np.rot90(images[0], axes=(1, 2)), atol=1e-12)
    np.testing.assert_allclose(result[1], np.rot90(images[1], -1, axes=(1, 2)), atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_cutout_covers_one_clipped_square_in_all_channels(size):
    images = np.ones((300, 2, 6, 7), np.float32)
    covered = Cutout(size, fill=5)(images, generator()) == 5
    np.testing.assert_array_equal(covered[:, 0], covered[:, 1])
    for rows, columns in ((covered[:, 0].any(2), 6), (covered[:, 0].any(1), 7)):
        counts = rows.sum(1)
        assert counts.max() == min(size, columns)
        assert counts.min() >= min((size + 1) // 2, columns)
        assert (np.abs(np.diff(rows.astype(int), axis=1)).sum(1) <= 2).all()  # one piece
    area = covered[:, 0].any(2).sum(1) * covered[:, 0].any(1).sum(1)
    np.testing.assert_array_equal(covered[:, 0].sum((1, 2)), area)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomHorizontalFlip(1.5),
        lambda: RandomHorizontalFlip(float("nan")),
        lambda: RandomCrop(0),
        lambda: RandomCrop((3, 3, 3)),
        lambda: RandomCrop(padding=-1),
        lambda: RandomShift(-1),
        lambda: RandomRotation(-1),
        lambda: Cutout(0),
        lambda: Normalize(0, 0),
        lambda: Normalize(float("nan"), 1),
        lambda: Normalize([[0]], 1),
        lambda: Normalize((0, 0), 1)(np.zeros((1, 3, 2, 2), np.float32), generator()),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()
