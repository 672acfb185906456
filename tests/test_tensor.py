"""Tensors: how they are made, typed, shown, indexed and handed to others; random numbers."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minicnn
import minicnn_kernels as kernels

float32, float64, int64 = minicnn.float32, minicnn.float64, minicnn.int64


# -- making ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, "float32"),
        ([1.0, 2.0], "float32"),
        ([[1, 2], [3, 4]], "int64"),
        ([True, False], "bool"),
        (np.array([1.0]), "float64"),
        (np.float32(1), "float32"),
        ([np.float64(1)], "float64"),
        (np.arange(3, dtype=np.uint8), "uint8"),
        (np.array([1.0], dtype=">f4"), "float32"),
    ],
)
def test_a_tensor_takes_the_type_of_its_data(data, dtype) -> None:
    made = minicnn.tensor(data)
    assert made.dtype == dtype
    assert made.dtype.isnative


def test_a_tensor_owns_its_memory_and_others_share() -> None:
    array = np.zeros(3, np.float32)
    owner, sharer, other = minicnn.tensor(array), minicnn.from_numpy(array), minicnn.as_tensor(array)
    array[:] = 7
    assert owner.tolist() == [0, 0, 0]
    assert sharer.tolist() == other.tolist() == [7, 7, 7]
    assert minicnn.as_tensor(owner) is owner
    assert minicnn.as_tensor(owner, "int64").tolist() == [0, 0, 0]


def test_bad_data_is_refused_in_words() -> None:
    with pytest.raises(TypeError, match="dtype complex128 is not supported, expected one of bool, float32"):
        minicnn.tensor([1j])
    with pytest.raises(TypeError, match="float16 is not supported"):
        minicnn.from_numpy(np.zeros(2, np.float16))
    with pytest.raises(ValueError):
        minicnn.tensor([[1], [1, 2]])
    with pytest.raises(TypeError, match="only floating-point tensors can require gradients, got int64"):
        minicnn.tensor([1], requires_grad=True)
    with pytest.raises(TypeError, match="from_numpy: expected a NumPy array, got list"):
        minicnn.from_numpy([1])


def test_the_class_itself_makes_float32_from_lists() -> None:
    assert minicnn.Tensor([1, 2]).dtype == float32


def test_factories_have_the_types_and_values_of_pytorch() -> None:
    assert minicnn.zeros(2, 3).shape == minicnn.zeros((2, 3)).shape == minicnn.zeros([2, 3]).shape == (2, 3)
    assert minicnn.zeros(()).item() == 0
    assert minicnn.ones(2, dtype="int64").dtype == int64
    assert [minicnn.full((1,), value).dtype for value in (1, 1.0, True)] == [int64, float32, np.dtype(bool)]
    assert minicnn.arange(5).tolist() == [0, 1, 2, 3, 4]
    assert minicnn.arange(1, 2, 0.25).tolist() == [1, 1.25, 1.5, 1.75]
    assert minicnn.arange(5, 0, -2).tolist() == [5, 3, 1]
    assert minicnn.arange(3, dtype="float32").dtype == float32
    assert minicnn.linspace(0, 1, 5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert minicnn.eye(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]]
    x = minicnn.ones(2, 3, dtype="float64")
    for like in (
        minicnn.zeros_like,
        minicnn.ones_like,
        minicnn.empty_like,
        minicnn.rand_like,
        minicnn.randn_like,
    ):
        assert (like(x).shape, like(x).dtype) == ((2, 3), float64)
    assert minicnn.full_like(x, 7).tolist() == [[7, 7, 7], [7, 7, 7]]
    assert minicnn.zeros(2, requires_grad=True).requires_grad
    images = minicnn.from_numpy(kernels.memory.empty_images(2, 3, 4, 5))
    assert minicnn.empty_like(images).data.strides == images.data.strides


def test_factories_refuse_what_is_no_size() -> None:
    with pytest.raises(ValueError, match="zeros: expected sizes of at least 0"):
        minicnn.zeros(-1)
    with pytest.raises(TypeError, match="rand: expected sizes as whole numbers"):
        minicnn.rand(2.5)
    with pytest.raises(ValueError, match="arange: a step of 0"):
        minicnn.arange(0, 1, 0)
    with pytest.raises(ValueError, match="does not lead from 0 to 5"):
        minicnn.arange(0, 5, -1)


# -- types ----------------------------------------------------------------------------------------

TYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float32", "float64")


@pytest.mark.peers
@pytest.mark.parametrize("first", TYPES)
@pytest.mark.parametrize("second", TYPES)
def test_types_promote_as_in_pytorch(first: str, second: str) -> None:
    torch = pytest.importorskip("torch")

    def name(dtype) -> str:
        return str(dtype).removeprefix("torch.")

    for shapes in (((2,), (2,)), ((2,), ()), ((), (2,)), ((), ())):
        ours = [
            minicnn.ones(shape, dtype=dtype) for shape, dtype in zip(shapes, (first, second), strict=True)
        ]
        theirs = [
            torch.ones(shape, dtype=getattr(torch, dtype))
            for shape, dtype in zip(shapes, (first, second), strict=True)
        ]
        assert str(minicnn.result_type(*ours)) == name(torch.result_type(*theirs)), shapes
        assert str((ours[0] * ours[1]).dtype) == name((theirs[0] * theirs[1]).dtype), shapes
        assert str((ours[0] / ours[1]).dtype) == name((theirs[0] / theirs[1]).dtype), shapes
    for number in (True, 2, 2.5):
        assert str((ours[0] + number).dtype) == name((theirs[0] + number).dtype)
        assert str((number * ours[0]).dtype) == name((number * theirs[0]).dtype)
        assert str((ours[0] / number).dtype) == name((theirs[0] / number).dtype)
        assert str(minicnn.result_type(ours[0], number)) == name(torch.result_type(theirs[0], number))


def test_a_mixed_operation_sends_each_operand_a_gradient_of_its_type() -> None:
    x = minicnn.tensor([1.0, 2.0], requires_grad=True)
    y = minicnn.tensor([3.0, 4.0], dtype="float64", requires_grad=True)
    z = x * y
    assert z.dtype == float64
    z.sum().backward()
    assert (x.grad.dtype, y.grad.dtype) == (float32, float64)


def test_to_returns_itself_where_nothing_changes() -> None:
    x = minicnn.ones(2)
    assert x.to("float32") is x
    assert x.to("cpu") is x
    assert x.float() is x
    assert x.to("float32", copy=True) is not x
    assert x.to("cpu", minicnn.int64).dtype == int64
    assert x.to(minicnn.zeros(1, dtype="uint8")).dtype == minicnn.uint8
    with pytest.raises(TypeError):
        x.to("float16")


def test_a_float_sum_of_whole_numbers_is_exact_in_int64() -> None:
    assert minicnn.full((10,), 2**40).sum().item() == 10 * 2**40
    assert minicnn.tensor([250, 250], dtype="uint8").sum().item() == 500
    assert (minicnn.tensor([1, 2]) > 1).sum().item() == 1


def test_in_place_arithmetic_keeps_the_type_or_refuses() -> None:
    x = minicnn.tensor([1, 2])
    x += 1
    x *= minicnn.tensor([2, 3], dtype="uint8")
    assert (x.dtype, x.tolist()) == (int64, [4, 9])
    for change in (lambda: x.add_(0.5), lambda: x.div_(2), lambda: x.mul_(minicnn.ones(2))):
        with pytest.raises(TypeError, match="a result of float32 does not fit into a tensor of int64"):
            change()
    y = minicnn.ones(2)
    y += minicnn.ones(2, dtype="float64")
    assert y.dtype == float32
    assert y.add_(1, alpha=3).clamp_(max=4).tolist() == [4, 4]
    assert y.fill_(2).sub_(1, alpha=2).tolist() == [0, 0]


# -- operators ------------------------------------------------------------------------------------


def test_numpy_arrays_and_numbers_stand_on_either_side() -> None:
    x = minicnn.tensor([1.0, 2.0], requires_grad=True)
    array = np.array([10.0, 20.0], np.float32)
    for result in (x + array, array + x, np.float32(10) + x, x + np.float64(10), np.int64(10) * x):
        assert isinstance(result, minicnn.Tensor)
        assert result.dtype == float32
        assert result.requires_grad
    assert (array - x).tolist() == [9, 18]
    assert (array / x).tolist() == [10, 10]
    assert (array > x).tolist() == [True, True]
    assert (2**x).tolist() == [2, 4]
    assert (array @ x).item() == (x @ array).item() == 50


def test_foreign_types_are_left_to_python() -> None:
    x = minicnn.ones(2)
    assert (x == None) is False  # noqa: E711
    assert (x != "a") is True
    for operation in (lambda: x + "a", lambda: [1] * x, lambda: x < None, lambda: x @ 3):
        with pytest.raises(TypeError):
            operation()
    with pytest.raises(TypeError, match="add: expected a tensor, an array or a number, got str"):
        minicnn.add(x, "a")
    with pytest.raises(TypeError, match="&: expected boolean tensors, got float32; compare first"):
        x & x


def test_truth_and_numbers_need_one_element() -> None:
    assert bool(minicnn.tensor([0.5]))
    assert float(minicnn.tensor(1.5)) == 1.5
    assert int(minicnn.tensor(1.5)) == 1
    assert [10, 20, 30][minicnn.tensor(2)] == 30
    with pytest.raises(ValueError, match=r"expected a tensor with one element, got shape \(2,\)"):
        bool(minicnn.ones(2) > 0)
    with pytest.raises(TypeError, match="only integer tensors can be used as an index"):
        [1, 2][minicnn.tensor(1.0)]
    with pytest.raises(TypeError, match="0-dimensional"):
        len(minicnn.tensor(1.0))


def test_a_tensor_is_a_key_by_identity() -> None:
    x, y = minicnn.ones(2), minicnn.ones(2)
    assert len({x: 1, y: 2}) == 2


def test_iteration_gives_rows_on_the_tape() -> None:
    x = minicnn.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    first, second = x
    (first * second).sum().backward()
    assert x.grad.tolist() == [[3, 4], [1, 2]]


def test_reductions_that_name_their_parts() -> None:
    x = minicnn.tensor([[1.0, 5.0], [7.0, 2.0]])
    best = x.max(dim=1)
    assert best.values.tolist() == [5, 7]
    assert best.indices.tolist() == [1, 0]
    values, indices = x.topk(1, dim=0)
    assert (values.tolist(), indices.tolist()) == ([[7, 5]], [[1, 0]])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: x.sum(dim=2), "sum: expected dim to be an integer from -2 to 1, got 2"),
        (lambda x: x.sum(dim=(0, 0)), "sum: expected each dimension once"),
        (lambda x: x.reshape(4), r"reshape: 6 elements of shape \(2, 3\) do not fit into shape \(4,\)"),
        (lambda x: x.reshape(-1, -1), "at most one -1"),
        (lambda x: x.reshape(-1, 4), "there is no size for -1"),
        (lambda x: x.permute(0, 0), "permute: expected each of the 2 dimensions once"),
        (lambda x: x.expand(3, 3), r"shape \(2, 3\) does not broadcast to \(3, 3\)"),
        (lambda x: minicnn.cat([]), "cat: expected at least one tensor"),
        (lambda x: minicnn.cat([x, x.T]), "cat: expected equal sizes outside of dimension 0"),
        (lambda x: x.split([1, 3], 1), r"split: sizes \[1, 3\] do not add up to 3"),
        (lambda x: x.narrow(1, 2, 2), "narrow: 2 positions from 2 on exceed 3"),
        (lambda x: x.topk(4), "topk: expected k from 0 to 3"),
        (lambda x: x[:, :0].max(dim=1), "max: nothing to choose from"),
        (lambda x: x[:0].argmax(), "argmax: nothing to choose from"),
        (lambda x: x.clamp(), "clamp: expected min, max or both"),
        (lambda x: x.repeat(2), "repeat: expected at least 2 counts"),
        (lambda x: x.div(x, rounding_mode="up"), "div: expected rounding_mode"),
        (lambda x: minicnn.one_hot(minicnn.tensor([3]), 3), "one_hot: expected class numbers from 0 to 2"),
        (lambda x: x.var(unbiased=True, correction=1), "var: expected unbiased or correction"),
        (lambda x: x[0].tril(), "tril: expected at least two dimensions"),
    ],
)
def test_bad_arguments_are_refused_in_words(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(minicnn.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))


def test_bad_types_and_positions_are_refused_in_words() -> None:
    x = minicnn.ones(2, 3)
    with pytest.raises(TypeError, match="mean: expected float32 or float64, got int64"):
        x.long().mean()
    with pytest.raises(TypeError, match="where: expected a boolean tensor as condition, got float32"):
        minicnn.where(x, x, x)
    with pytest.raises(TypeError, match="gather: expected an index of int64"):
        x.gather(0, x)
    with pytest.raises(
        IndexError, match="gather: expected positions from 0 to 2 along dimension 1, got 0 to 3"
    ):
        x.gather(1, minicnn.tensor([[0, 3]]))
    with pytest.raises(IndexError):
        x[2]
    with pytest.raises(IndexError):
        x[[0, 5]]
    with pytest.raises(IndexError, match="indices must be whole numbers"):
        x[minicnn.tensor([0.0, 1.0])]


# -- properties -----------------------------------------------------------------------------------

shapes_that_broadcast = hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, min_side=0, max_side=4)


@given(shapes_that_broadcast, st.integers(0, 2**32 - 1))
def test_broadcasting_follows_numpy_forward_and_undoes_itself_backward(shapes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (np.asarray(rng.standard_normal(shape)) for shape in shapes.input_shapes)
    x, y = (minicnn.tensor(array, requires_grad=True) for array in (a, b))
    z = x * y
    np.testing.assert_array_equal(z.detach().numpy(), a * b)
    weight = np.asarray(rng.standard_normal(z.shape))
    z.backward(weight)
    for tensor, array, other in ((x, a, b), (y, b, a)):
        # The sum over every position of the result that an element was repeated to.
        expected = np.zeros(array.shape)
        places = np.broadcast_to(np.arange(array.size).reshape(array.shape), z.shape)
        np.add.at(expected.reshape(-1), places.reshape(-1), (weight * other).reshape(-1))
        np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-12, atol=1e-12)


arrays = hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)


@given(st.data())
def test_basic_indexing_follows_numpy_and_gradients_go_back_to_their_places(data) -> None:
    shape = data.draw(arrays)
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    check_indexing(shape, index)


@given(st.data())
def test_indexing_by_positions_adds_up_the_gradients_of_repeated_elements(data) -> None:
    shape = data.draw(arrays)
    index = data.draw(hnp.integer_array_indices(shape))
    check_indexing(shape, index)


@given(st.data())
def test_indexing_by_masks_follows_numpy(data) -> None:
    shape = data.draw(arrays)
    check_indexing(shape, data.draw(hnp.arrays(bool, shape[: data.draw(st.integers(1, len(shape)))])))


def check_indexing(shape: tuple[int, ...], index) -> None:
    array = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
    x = minicnn.tensor(array, requires_grad=True)
    y = x[index]
    np.testing.assert_array_equal(y.detach().numpy(), array[index])
    weight = np.arange(1, y.numel() + 1, dtype=np.float64).reshape(y.shape)
    y.backward(weight)
    expected = np.zeros(shape)
    np.add.at(expected, index, weight)
    np.testing.assert_array_equal(x.grad.numpy(), expected)


@given(st.data())
def test_assignment_by_index_follows_numpy(data) -> None:
    shape = data.draw(arrays)
    index = data.draw(hnp.basic_indices(shape) | hnp.integer_array_indices(shape))
    array = np.zeros(shape, np.float32)
    x = minicnn.zeros(shape)
    value = np.arange(array[index].size, dtype=np.float32).reshape(array[index].shape)
    array[index] = value
    x[index] = minicnn.from_numpy(np.asarray(value))
    np.testing.assert_array_equal(x.numpy(), array)


@given(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0), st.data())
def test_any_order_of_dimensions_and_back_is_where_we_started(shape, data) -> None:
    dims = data.draw(st.permutations(range(len(shape))))
    x = minicnn.tensor(np.random.default_rng(0).standard_normal(shape), requires_grad=True)
    y = x.permute(*dims).permute(*np.argsort(dims).tolist())
    weight = np.random.default_rng(1).standard_normal(shape)
    y.backward(weight)
    np.testing.assert_array_equal(y.detach().numpy(), x.detach().numpy())
    np.testing.assert_array_equal(x.grad.numpy(), weight)


# -- out of the engine ----------------------------------------------------------------------------


def test_numpy_shares_memory_and_refuses_to_lose_a_gradient() -> None:
    x = minicnn.ones(3)
    assert np.shares_memory(x.numpy(), x.data)
    assert np.shares_memory(np.asarray(x), x.data)
    assert np.array(x, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(x), x.data)
    w = minicnn.ones(3, requires_grad=True)
    for read in (lambda: w.numpy(), lambda: np.asarray(w), lambda: np.exp(w)):
        with pytest.raises(RuntimeError, match=r"requires a gradient; use tensor.detach\(\).numpy\(\)"):
            read()
    np.testing.assert_array_equal(np.exp(x), np.exp(np.ones(3, np.float32)))


def test_dlpack_goes_both_ways_without_a_copy() -> None:
    x = minicnn.arange(6).reshape(2, 3).float()
    array = np.from_dlpack(x)
    assert np.shares_memory(array, x.data)
    back = minicnn.from_dlpack(array)
    assert back.tolist() == x.tolist()
    with pytest.raises(RuntimeError, match="requires a gradient"):
        np.from_dlpack(minicnn.ones(2, requires_grad=True))


@pytest.mark.peers
def test_dlpack_shares_memory_with_pytorch() -> None:
    torch = pytest.importorskip("torch")
    x = minicnn.zeros(2, 3)
    theirs = torch.from_dlpack(x)
    theirs[0, 1] = 5
    assert x[0, 1].item() == 5
    ours = minicnn.from_dlpack(torch.ones(2, 3).T)
    assert ours.shape == (3, 2)


def test_what_a_tensor_shows() -> None:
    assert repr(minicnn.tensor([1.0, 2.5])) == "tensor([1. , 2.5])"
    assert repr(minicnn.tensor([1, 2])) == "tensor([1, 2])"
    assert repr(minicnn.tensor(1.0, requires_grad=True)) == "tensor(1., requires_grad=True)"
    assert repr(minicnn.tensor([1.0], dtype="float64")) == "tensor([1.], dtype=float64)"
    assert repr(minicnn.tensor(1.0, requires_grad=True) * 2) == "tensor(2., grad_fn=<Mul>)"
    assert f"{minicnn.tensor(0.123456):.3f}" == "0.123"
    assert f"{minicnn.tensor([1])}" == "tensor([1])"


def test_deepcopy_keeps_values_gradient_and_memory_order() -> None:
    x = minicnn.from_numpy(kernels.memory.empty_images(1, 2, 3, 4)).fill_(2).requires_grad_()
    (x * x).sum().backward()
    y = copy.deepcopy(x)
    assert y.data.strides == x.data.strides
    assert y.requires_grad
    y.grad.zero_()
    with minicnn.no_grad():
        y.zero_()
    assert x.tolist() == minicnn.full(x.shape, 2.0).tolist()
    assert x.grad[0, 0, 0, 0].item() == 4
    with pytest.raises(RuntimeError, match="deepcopy: this is the result of a recorded operation"):
        copy.deepcopy(x * 2)


# -- random numbers -------------------------------------------------------------------------------


def philox4x32(counter: list[int], key: list[int]) -> list[int]:
    """Ten rounds as in the paper, in Python's integers, for any counter and key."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 1 << 32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % (1 << 32), (k1 + 0xBB67AE85) % (1 << 32)
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(
    "line",
    [  # counter, key and result from kat_vectors of Random123
        "00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd",
        "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1",
    ],
)
def test_philox_in_python_gives_the_published_words(line: str) -> None:
    words = [int(word, 16) for word in line.split()]
    assert philox4x32(words[:4], words[4:6]) == words[6:]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 5))
def test_the_kernel_is_philox_with_seed_as_key_and_offset_as_counter(seed: int, offset: int) -> None:
    blocks = kernels.backend("reference").philox(seed, offset, 3)
    for i, block in enumerate(blocks.tolist()):
        counter = [(offset + i) % (1 << 32), (offset + i) >> 32, 0, 0]
        assert block == philox4x32(counter, [seed % (1 << 32), seed >> 32])


def test_uniform_numbers_are_uniform_and_normal_ones_normal() -> None:
    from scipy import stats

    generator = minicnn.Generator(3)
    uniform = generator.uniform(100_000)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    normal = generator.normal(100_000, 2, 3)
    assert stats.kstest((normal - 2) / 3, "norm").pvalue > 1e-3
    pairs = normal.reshape(-1, 2)
    assert abs(np.corrcoef(pairs[:, 0], pairs[:, 1])[0, 1]) < 0.02
    counts = np.bincount(generator.integers(100_000, -5, 5) + 5)
    assert len(counts) == 10
    assert stats.chisquare(counts).pvalue > 1e-3
    bits = generator.integers(10_000, 0, 1 << 32)
    assert (bits >> 31).mean() == pytest.approx(0.5, abs=0.02)
    coins = minicnn.bernoulli(minicnn.full((100_000,), 0.3), generator=generator)
    assert coins.mean().item() == pytest.approx(0.3, abs=0.01)


def test_permutations_hold_everything_once_and_every_place_is_likely() -> None:
    generator = minicnn.Generator(1)
    assert sorted(generator.permutation(1000).tolist()) == list(range(1000))
    assert minicnn.randperm(0, generator=generator).tolist() == []
    firsts = [int(generator.permutation(5)[0]) for _ in range(2000)]
    assert min(np.bincount(firsts, minlength=5)) > 300


@pytest.mark.parametrize("backend", kernels.available_backends())
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(0, 70))
def test_random_kernels_give_the_same_bits_on_every_back_end(backend, seed, offset, size) -> None:
    reference, other = kernels.backend("reference"), kernels.backend(backend)
    for name, arguments in (
        ("random_uniform", ((size,), -1.0, 2.0, float32)),
        ("random_normal", ((size,), 1.0, 2.0, float32)),
        ("random_integers", ((size,), -3, 9)),
        ("random_permutation", (size,)),
        ("dropout_mask", ((size,), 0.3)),
    ):
        expected = getattr(reference, name)(*arguments, seed, offset)
        actual = getattr(other, name)(*arguments, seed, offset)
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)


def test_a_stream_drawn_in_parts_continues_where_blocks_end() -> None:
    whole, parts = minicnn.Generator(5), minicnn.Generator(5)
    np.testing.assert_array_equal(
        whole.uniform(12), np.concatenate([parts.uniform(4), parts.uniform((2, 4)).reshape(-1)])
    )


def test_seeds_repeat_and_states_continue() -> None:
    minicnn.manual_seed(3)
    first = minicnn.rand(5).tolist()
    state = minicnn.get_rng_state()
    second = minicnn.randn(5).tolist()
    minicnn.set_rng_state(state)
    assert minicnn.randn(5).tolist() == second
    minicnn.manual_seed(3)
    assert minicnn.rand(5).tolist() == first
    assert minicnn.initial_seed() == 3
    assert minicnn.Generator(3).uniform(5).tolist() == first
    assert minicnn.Generator(4).uniform(5).tolist() != first
    assert minicnn.Generator(-1).initial_seed() == 2**64 - 1
    assert minicnn.Generator().seed() != minicnn.Generator().seed()


def test_a_state_must_be_one() -> None:
    for bad in (None, {}, {"seed": 1}, {"seed": -1, "offset": 0}, {"seed": "x", "offset": 0}):
        with pytest.raises(ValueError, match="set_state"):
            minicnn.set_rng_state(bad)
    with pytest.raises(TypeError, match="manual_seed: expected an integer"):
        minicnn.manual_seed(1.5)
    with pytest.raises(ValueError, match="0 < high - low"):
        minicnn.randint(3, 3, (2,))


def test_threads_never_draw_the_same_numbers() -> None:
    generator = minicnn.Generator(0)
    drawn: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: drawn.extend(generator.uniform(8, dtype=float64) for _ in range(50)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({array.tobytes() for array in drawn}) == 200


def test_filling_in_place_draws_from_the_generator_that_is_given() -> None:
    x = minicnn.zeros(1000).uniform_(2, 3, generator=minicnn.Generator(1))
    assert 2 <= x.min().item() < x.max().item() < 3
    y = minicnn.zeros(1000).normal_(5, 0.1, generator=minicnn.Generator(1))
    assert y.mean().item() == pytest.approx(5, abs=0.02)


# -- importing ------------------------------------------------------------------------------------


def test_importing_minicnn_imports_numpy_and_nothing_slow() -> None:
    slow = ("numba", "scipy", "matplotlib", "PIL", "tqdm", "torch")
    script = f"import sys, minicnn; print([name for name in {slow} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_public_name_exists() -> None:
    missing = [name for name in minicnn.__all__ if not hasattr(minicnn, name)]
    assert not missing
    assert set(minicnn.__all__) <= set(dir(minicnn))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        minicnn.nothing  # noqa: B018
