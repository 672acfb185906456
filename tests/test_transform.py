"""Transforms as such: where they stand, in which order they work, and what survives copying and replacing."""

import copy
import threading

import numpy as np
import pytest

import minicnn
import minicnn_kernels as kernels
from minicnn import nn
from minicnn.compress import FakeQuantize, Mask, set_mask
from minicnn.nn.transform import ORDER, Transform, attach, attached, detach, find, raw, value_before
from minicnn_kernels import algorithms


class Affine(Transform):
    """value * factor + shift, as a transform of any kind: the order of two of them shows in the result."""

    def __init__(self, kind, factor=1.0, shift=0.0):
        super().__init__()
        self.kind, self.factor, self.shift = kind, factor, shift

    def forward(self, value):
        return value * self.factor + self.shift


def linear(bias=True):
    minicnn.manual_seed(0)
    return nn.Linear(3, 2, bias=bias)


def values(tensor):
    return tensor.detach().numpy()


def half(shape):
    """A mask of every other element."""
    return (np.arange(np.prod(shape)) % 2 == 0).reshape(shape)


# -- chains ---------------------------------------------------------------------------------------


def test_reading_a_parameter_gives_it_transformed_and_raw_gives_it_as_it_is():
    layer = linear()
    before = values(layer.weight).copy()
    attach(layer, "weight", Affine("mask", 3.0))
    np.testing.assert_array_equal(values(layer.weight), before * np.float32(3))
    np.testing.assert_array_equal(values(raw(layer, "weight")), before)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]


@pytest.mark.parametrize("kinds", [ORDER, ORDER[::-1], ("codebook", "low_rank", "quantize", "mask")])
def test_a_chain_works_in_its_fixed_order_however_it_was_attached(kinds):
    layer = linear()
    start = values(layer.weight).copy()
    steps = {kind: Affine(kind, i + 2.0, i**2 - 3.0) for i, kind in enumerate(ORDER)}  # no two commute
    for kind in kinds:
        attach(layer, "weight", steps[kind])
    expected = start
    for kind in ORDER:
        expected = expected * np.float32(steps[kind].factor) + np.float32(steps[kind].shift)
    np.testing.assert_allclose(values(layer.weight), expected, rtol=1e-6)


def test_value_before_stops_short_of_its_kind():
    layer = linear()
    start = values(layer.weight).copy()
    attach(layer, "weight", Affine("quantize", 5.0))
    attach(layer, "weight", Affine("low_rank", 3.0))
    np.testing.assert_array_equal(values(value_before(layer, "weight", "mask")), start * np.float32(3))


def test_transforms_of_input_and_output_stand_around_forward():
    layer = linear(bias=False)
    x = minicnn.tensor([[1.0, -2.0, 3.0]])
    plain = values(layer(x))
    attach(layer, "input", Affine("quantize", 2.0))
    attach(layer, "output", Affine("quantize", 1.0, 10.0))
    np.testing.assert_allclose(values(layer(x)), plain * 2 + 10, rtol=1e-6)


def test_gradients_pass_through_a_chain_to_the_raw_parameter():
    layer = linear()
    attach(layer, "weight", Affine("low_rank", 3.0))
    layer.weight.sum().backward()
    np.testing.assert_array_equal(values(raw(layer, "weight").grad), np.full((2, 3), 3, np.float32))


def test_detach_gives_the_layer_back_as_it_was():
    layer = linear()
    before = values(layer.weight).copy()
    transform = attach(layer, "weight", Affine("mask", 0.0))
    assert find(layer, "weight", "mask") is transform
    assert detach(layer, "weight", "mask") is transform
    assert find(layer, "weight", "mask") is None
    assert layer.weight is raw(layer, "weight")
    assert list(layer.state_dict()) == ["weight", "bias"]
    np.testing.assert_array_equal(values(layer.weight), before)


@pytest.mark.parametrize(
    ("place", "kind", "message"),
    [
        ("weight", "mask", "Linear.weight has a transform of kind 'mask' already"),
        ("wieght", "quantize", "has no parameter 'wieght'; it has weight, bias, input and output"),
    ],
)
def test_attach_refuses(place, kind, message):
    layer = linear()
    attach(layer, "weight", Affine("mask"))
    before = list(layer.state_dict())
    with pytest.raises(ValueError, match=message):
        attach(layer, place, Affine(kind))
    assert list(layer.state_dict()) == before
    assert [found.name for found in attached(layer)] == ["weight"]


def test_attach_to_a_parameter_that_a_layer_does_without_is_refused():
    with pytest.raises(ValueError, match="no parameter 'bias'"):
        attach(linear(bias=False), "bias", Affine("mask"))


@pytest.mark.parametrize("container", [nn.Sequential(nn.ReLU()), nn.ModuleList([nn.ReLU()])])
def test_attach_to_an_activation_of_a_container_is_refused(container):
    with pytest.raises(ValueError, match="is a container; attach to the output of one of its layers"):
        attach(container, "output", Affine("quantize"))


def test_detach_of_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"Linear\.weight has no transform of kind 'mask'"):
        detach(linear(), "weight", "mask")


def test_attached_finds_all_by_kind_with_their_dotted_names():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)))
    attach(model[0], "weight", Affine("mask"))
    attach(model[0], "weight", Affine("quantize"))
    attach(model[1], "output", Affine("quantize"))
    attach(model[2][0], "bias", Affine("mask"))
    assert [found.name for found in attached(model)] == ["0.weight", "0.weight", "1.output", "2.0.bias"]
    assert [found.name for found in attached(model, "mask")] == ["0.weight", "2.0.bias"]
    assert next(attached(model[0])).name == "weight"


def test_the_state_is_in_the_state_dict_under_the_names_of_the_chain():
    model = nn.Sequential(linear())
    attach(model[0], "weight", FakeQuantize())
    attach(model[0], "weight", Mask(raw(model[0], "weight")))
    names = list(model.state_dict())
    assert names[:2] == ["0.weight", "0.bias"]
    assert "0.weight_transforms.mask.keep" in names
    assert "0.weight_transforms.quantize.scale" in names


def test_transforms_follow_train_and_eval():
    model = nn.Sequential(linear()).eval()
    transform = attach(model[0], "weight", Affine("mask"))
    assert not transform.training
    model.train()
    assert transform.training


# -- masks and their parameter --------------------------------------------------------------------


def test_a_replaced_parameter_keeps_its_mask():
    layer = linear()
    mask = set_mask(layer, "weight", half((2, 3)))
    layer.weight = nn.Parameter(np.ones((2, 3), np.float32))
    assert raw(layer, "weight").keep is mask.keep
    np.testing.assert_array_equal(values(layer.weight), half((2, 3)).astype(np.float32))


@pytest.mark.parametrize("copies", [1, 2])
def test_a_deep_copy_shares_its_own_mask_between_parameter_and_transform(copies):
    model = nn.Sequential(linear())
    mask = set_mask(model[0], "weight", half((2, 3)))
    twin = model
    for _ in range(copies):
        twin = copy.deepcopy(twin)
    own = find(twin[0], "weight", "mask")
    assert raw(twin[0], "weight").keep is own.keep
    assert own.keep is not mask.keep
    own.keep.fill_(False)
    np.testing.assert_array_equal(values(mask.keep), half((2, 3)))


def test_detaching_a_mask_frees_the_parameter():
    layer = linear()
    set_mask(layer, "weight", half((2, 3)))
    detach(layer, "weight", "mask")
    assert raw(layer, "weight").keep is None


def test_a_mask_of_another_shape_is_refused_and_nothing_is_attached():
    layer = linear()
    with pytest.raises(
        ValueError, match=r"expected a mask of shape \(2, 3\) for Linear.weight, got \(3, 2\)"
    ):
        set_mask(layer, "weight", half((3, 2)))
    assert find(layer, "weight", "mask") is None


def test_a_mask_lies_in_memory_like_its_parameter():
    conv = nn.Conv2d(3, 4, 3)
    mask = set_mask(conv, "weight", half((4, 3, 3, 3)))
    strides = np.array(raw(conv, "weight").data.strides) // 4
    assert tuple(strides) == mask.keep.data.strides


@pytest.mark.parametrize("hard", [True, False])
def test_a_mask_passes_the_gradient_only_if_it_is_soft(hard):
    layer = linear()
    keep = half((2, 3))
    set_mask(layer, "weight", keep, hard=hard)
    layer.weight.sum().backward()
    expected = keep if hard else np.ones((2, 3))
    np.testing.assert_array_equal(values(raw(layer, "weight").grad), expected.astype(np.float32))


def test_masks_work_on_float64_too():
    layer = linear().double()
    set_mask(layer, "weight", half((2, 3)))
    assert layer.weight.dtype == np.float64
    np.testing.assert_array_equal(values(layer.weight) != 0, half((2, 3)))


# -- compiled -------------------------------------------------------------------------------------


def convolutional():
    minicnn.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    )


def test_a_compiled_model_with_transforms_equals_the_model(rng):
    model = convolutional()
    twin = copy.deepcopy(model)
    fast = minicnn.compile(twin)
    x = minicnn.tensor(rng.standard_normal((4, 2, 6, 6)).astype(np.float32))
    fast(x)  # a plan without transforms is there
    model(x)
    for net in (model, twin):
        set_mask(net[0], "weight", half((4, 2, 3, 3)))
        attach(net[4], "weight", Affine("low_rank", 2.0))
    for net, forward in ((model, model), (twin, fast)):
        net.zero_grad()
        forward(x).square().mean().backward()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(values(p.grad), values(q.grad), rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_compiled_model_sees_a_mask_grow_and_go(rng):
    model = convolutional().eval()
    fast = minicnn.compile(model)
    x = minicnn.tensor(rng.standard_normal((4, 2, 6, 6)).astype(np.float32))
    with minicnn.no_grad():
        for keep in (np.ones((5, 144), bool), half((5, 144)), np.zeros((5, 144), bool)):
            set_mask(model[4], "weight", keep, hard=False)
            np.testing.assert_allclose(values(fast(x)), values(model(x)), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(values(fast(x)), np.tile(values(model[4].bias), (4, 1)))
        detach(model[4], "weight", "mask")
        np.testing.assert_allclose(values(fast(x)), values(model(x)), rtol=1e-5, atol=1e-6)


# -- which algorithm a kernel uses ----------------------------------------------------------------


def test_an_algorithm_chosen_for_a_block_is_this_threads_alone_and_ends_with_it():
    before, seen = kernels.algorithm("conv2d"), []
    with algorithms.using("conv2d", "explicit"):
        with algorithms.using("conv2d", "implicit"):
            assert kernels.algorithm("conv2d") == "implicit"
        assert kernels.algorithm("conv2d") == "explicit"
        thread = threading.Thread(target=lambda: seen.append(kernels.algorithm("conv2d")))
        thread.start()
        thread.join()
    assert seen == [before]
    assert kernels.algorithm("conv2d") == before


def test_an_algorithm_chosen_for_a_block_ends_with_it_after_an_error():
    before = kernels.algorithm("conv2d")
    with pytest.raises(KeyError), algorithms.using("conv2d", "explicit"):
        raise KeyError
    assert kernels.algorithm("conv2d") == before


def test_an_algorithm_chosen_for_a_block_goes_before_the_processs():
    previous = kernels.set_algorithm("conv2d", "winograd")
    try:
        with algorithms.using("conv2d", "implicit"):
            assert kernels.algorithm("conv2d") == "implicit"
        assert kernels.algorithm("conv2d") == "winograd"
    finally:
        kernels.set_algorithm("conv2d", previous)


@pytest.mark.parametrize(
    ("kernel", "name", "message"),
    [
        ("conv3d", "auto", "no kernel 'conv3d'"),
        ("conv2d", "fft", "unknown algorithm 'fft': expected one of auto"),
    ],
)
def test_an_unknown_kernel_or_algorithm_is_refused(kernel, name, message):
    with pytest.raises(ValueError, match=message), algorithms.using(kernel, name):
        pass
