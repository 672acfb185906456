"""Views of device memory, held against NumPy's views of the same shape: no kernel runs here, so no GPU is
needed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as extra

from minicnn_kernels import DeviceArray

SHAPES = extra.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def elements(view: DeviceArray, size: int) -> np.ndarray:
    """The elements that a view reads of memory that holds 0 to size - 1."""
    memory = np.arange(size)
    strides = [step * memory.itemsize for step in view.strides]
    start = memory[view.offset :] if view.size else memory[:0]
    return np.lib.stride_tricks.as_strided(start, view.shape, strides)


def counted(shape: tuple[int, ...]) -> tuple[DeviceArray, np.ndarray]:
    """A device array and NumPy's of the same elements."""
    size = int(np.prod(shape))
    return DeviceArray(None, np.int64, shape), np.arange(size).reshape(shape)


@given(SHAPES, st.data())
def test_slices_are_numpys(shape, data):
    ours, theirs = counted(shape)
    index = data.draw(extra.basic_indices(shape, allow_newaxis=True))
    index = index if isinstance(index, tuple) else (index,)
    view = ours.sliced(index)
    np.testing.assert_array_equal(
        elements(view, theirs.size), theirs[(*index, ...)] if ... not in index else theirs[index]
    )


@given(SHAPES, st.data())
def test_permuted_and_broadcast_views_are_numpys(shape, data):
    ours, theirs = counted(shape)
    dims = tuple(data.draw(st.permutations(range(len(shape)))))
    view, expected = ours.permuted(dims), theirs.transpose(dims)
    np.testing.assert_array_equal(elements(view, theirs.size), expected)
    assert view.flags.c_contiguous == expected.flags.c_contiguous
    wide = (3, *(size if size != 1 else data.draw(st.integers(0, 3)) for size in expected.shape))
    np.testing.assert_array_equal(
        elements(view.broadcast(wide), theirs.size), np.broadcast_to(expected, wide)
    )


@given(SHAPES)
def test_only_dense_memory_is_reshaped_without_a_copy(shape):
    ours, theirs = counted(shape)
    np.testing.assert_array_equal(elements(ours.reshaped((theirs.size,)), theirs.size), theirs.reshape(-1))
    if ours.size > 1 and min(shape) > 1:
        assert ours.permuted(tuple(range(len(shape)))[::-1]).reshaped((-1,)) is None or len(shape) == 1
        repeated = ours.broadcast((2, *shape))
        assert repeated.reshaped((-1,)) is None
        assert not repeated.flags.writeable


def test_impossible_views_are_refused():
    array, _ = counted((2, 3))
    with pytest.raises(ValueError, match="cannot reshape"):
        array.reshaped((4, 2))
    with pytest.raises(ValueError, match="broadcast"):
        array.broadcast((2, 4))
    with pytest.raises(IndexError, match="too many indices"):
        array.sliced((0, 0, 0))
    with pytest.raises(IndexError):
        array.sliced((2,))


def test_numpy_does_not_compute_with_device_memory():
    array, _ = counted((2, 3))
    with pytest.raises(TypeError, match="lives on 'cuda'"):
        np.asarray(array)
    with pytest.raises(TypeError):
        array + 1
