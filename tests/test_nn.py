"""Modules: registration, walking, state, hooks, printing; layers: against PyTorch, and what they refuse."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import minicnn
import minicnn_kernels as kernels
from minicnn import nn, scope
from minicnn.nn import init


@pytest.fixture(autouse=True)
def _reproducible():
    minicnn.manual_seed(0)


def images(*shape, seed=0):
    return minicnn.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 5))
        self.scale = nn.Parameter(np.ones(1, np.float32))
        self.register_buffer("seen", minicnn.tensor(0.0), persistent=False)

    def forward(self, x):
        return self.head(self.bn(self.conv1(x))) * self.scale


# -- registration ---------------------------------------------------------------------------------


def test_assigned_parameters_buffers_and_modules_are_found_in_order():
    net = Net()
    assert [name for name, _ in net.named_parameters()] == [
        "scale",
        "conv1.weight",
        "bn.weight",
        "bn.bias",
        "head.1.weight",
        "head.1.bias",
    ]
    assert [name for name, _ in net.named_buffers()] == [
        "seen",
        "bn.running_mean",
        "bn.running_var",
        "bn.num_batches_tracked",
    ]
    assert [name for name, _ in net.named_modules()] == ["", "conv1", "bn", "head", "head.0", "head.1"]
    assert list(net.children()) == [net.conv1, net.bn, net.head]
    assert {"conv1", "scale", "seen"} <= set(dir(net))


def test_a_shared_module_is_walked_once_and_saved_under_both_names():
    net = nn.Module()
    net.a = net.b = nn.Linear(2, 2)
    assert [name for name, _ in net.named_parameters()] == ["a.weight", "a.bias"]
    assert list(net.state_dict()) == ["a.weight", "a.bias", "b.weight", "b.bias"]


def test_an_attribute_can_change_its_kind_and_keeps_its_place():
    net = Net()
    net.bn = nn.Identity()
    assert [name for name, _ in net.named_children()] == ["conv1", "bn", "head"]
    net.bn = None
    assert net.bn is None
    net.scale = None
    assert "scale" not in dict(net.named_parameters())
    del net.conv1
    with pytest.raises(AttributeError, match="'Net' object has no attribute 'conv1'"):
        _ = net.conv1
    net.head = nn.Parameter(np.ones(2, np.float32))
    assert "head" in dict(net.named_parameters())


def test_assignments_that_would_lose_something_are_refused():
    net = Net()
    with pytest.raises(TypeError, match=r"cannot assign float as parameter 'scale': expected a Parameter"):
        net.scale = 2.0
    with pytest.raises(TypeError, match="cannot assign int as child module 'bn'"):
        net.bn = 3
    with pytest.raises(TypeError, match="as buffer 'seen'"):
        net.seen = 3
    with pytest.raises(KeyError, match="'forward' exists already"):
        net.register_buffer("forward", minicnn.tensor(1.0))
    with pytest.raises(ValueError, match=r"non-empty string without '\.', got 'a\.b'"):
        net.register_parameter("a.b", None)


def test_assigning_before_super_init_is_explained():
    class Forgetful(nn.Module):
        def __init__(self):
            self.fc = nn.Linear(2, 2)

    with pytest.raises(AttributeError, match=r"before super\(\).__init__\(\)"):
        Forgetful()


def test_getting_by_dotted_name():
    net = Net()
    assert net.get_submodule("head.1") is net.head[1]
    assert net.get_submodule("") is net
    assert net.get_parameter("head.1.bias") is net.head[1].bias
    assert net.get_buffer("bn.running_var") is net.bn.running_var
    with pytest.raises(AttributeError, match=r"no child module 'tail'.*children: conv1, bn, head"):
        net.get_submodule("tail.1")
    with pytest.raises(AttributeError, match=r"no parameter 'beta'.*it has: weight, bias"):
        net.get_parameter("bn.beta")


def test_modes_freezing_and_zero_grad_reach_everything():
    net = Net().eval()
    assert not any(module.training for module in net.modules())
    assert all(module.training for module in net.train().modules())
    assert not any(p.requires_grad for p in net.requires_grad_(False).parameters())
    net.requires_grad_()
    net(images(2, 3, 8, 8)).sum().backward()
    net.zero_grad(set_to_none=False)
    assert all(not p.grad.numpy().any() for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    with pytest.raises(ValueError, match="expected True or False, got 'yes'"):
        net.train("yes")


def test_apply_visits_children_first():
    seen = []
    net = Net()
    assert net.apply(lambda module: seen.append(type(module).__name__)) is net
    assert seen == ["Conv2d", "BatchNorm2d", "Flatten", "Linear", "Sequential", "Net"]


def test_to_casts_floats_keeps_counters_and_memory_order():
    net = Net().double()
    assert {p.dtype.name for p in net.parameters()} == {"float64"}
    assert net.bn.num_batches_tracked.dtype == np.int64
    assert net.conv1.weight.data.transpose(2, 3, 1, 0).flags.c_contiguous
    assert net(images(2, 3, 8, 8).double()).dtype == np.float64
    assert net.float().conv1.weight.dtype == np.float32
    assert net.to("cpu") is net
    assert net.to(minicnn.tensor(1.0)) is net
    with pytest.raises(TypeError, match="floating-point dtype, got int64"):
        net.to(minicnn.int64)
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        net.to(device="tpu")


# -- calling --------------------------------------------------------------------------------------


def test_hooks_see_and_replace_inputs_and_results():
    layer, calls = nn.Identity(), []
    x = minicnn.tensor(1.0)
    first = layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    second = layer.register_forward_hook(lambda module, inputs, result: result * 10)
    third = layer.register_forward_hook(lambda module, inputs, result: calls.append(result.item()))
    assert layer(x).item() == 20
    assert calls == [20]
    first.remove()
    first.remove()
    second.remove()
    with third:
        assert layer(x).item() == 1
    layer(x)
    assert calls == [20, 1]


def test_errors_name_the_layer_and_the_scope_is_left_clean():
    net = nn.Sequential(nn.Identity(), nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(ValueError, match=r"Conv2d '1\.0'"):
        net(images(2, 5, 8, 8))
    assert scope.path() == ""


def test_lists_and_dicts_of_modules_show_in_the_place_of_an_error():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.ModuleDict({"a": nn.Linear(2, 2)})])
            self.blocks.append(nn.Linear(2, 2))

        def forward(self, x, which):
            return self.blocks[0]["a"](x) if which == 0 else self.blocks[1](x)

    with pytest.raises(ValueError, match=r"Linear 'blocks\.0\.a'"):
        Branches()(images(1, 3), 0)
    with pytest.raises(ValueError, match=r"Linear 'blocks\.1'"):
        Branches()(images(1, 3), 1)


# -- state ----------------------------------------------------------------------------------------


def test_state_dict_has_pytorchs_names_and_shares_memory():
    net = Net()
    state = net.state_dict()
    assert list(state) == [
        "scale",
        "conv1.weight",
        "bn.weight",
        "bn.bias",
        "bn.running_mean",
        "bn.running_var",
        "bn.num_batches_tracked",
        "head.1.weight",
        "head.1.bias",
    ]
    assert state["scale"].data is net.scale.data
    assert not any(value.requires_grad for value in state.values())


def test_loading_copies_values_and_keeps_the_memory_order():
    source, target = Net(), Net()
    source(images(4, 3, 8, 8))
    report = target.load_state_dict({name: value.numpy() for name, value in source.state_dict().items()})
    assert repr(report) == "<All keys matched successfully>"
    for name, value in source.state_dict().items():
        np.testing.assert_array_equal(target.state_dict()[name].numpy(), value.numpy())
    assert target.conv1.weight.data is not source.conv1.weight.data
    assert target.conv1.weight.data.transpose(2, 3, 1, 0).flags.c_contiguous
    assert target.head[1].weight.data.T.flags.c_contiguous
    assert target.bn.num_batches_tracked.item() == 1


def test_loading_lists_every_mismatch_and_then_changes_nothing():
    net = Net()
    before = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    state = {name: value.numpy() + 1 for name, value in net.state_dict().items()}
    del state["bn.bias"]
    state |= {"extra": np.ones(1), "scale": np.ones(3), "conv1.weight": np.array(["x"])}
    with pytest.raises(ValueError) as caught:
        net.load_state_dict(state)
    for part in (
        "5 mismatches",
        "scale: expected shape (1,), got (3,)",
        "conv1.weight: expected shape (4, 3, 3, 3), got (1,)",
        "conv1.weight: expected numbers",
        "bn.bias: missing",
        "extra: unexpected",
    ):
        assert part in str(caught.value)
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_loading_without_strict_reports_what_did_not_match():
    net = Net()
    report = net.load_state_dict({"scale": np.full(1, 7.0), "other": np.ones(1)}, strict=False)
    assert net.scale.item() == 7
    assert report.unexpected_keys == ["other"]
    assert "bn.running_mean" in report.missing_keys
    with pytest.raises(ValueError, match="scale: expected shape"):
        net.load_state_dict({"scale": np.ones(2)}, strict=False)


def test_deepcopy_is_independent_and_keeps_gradients_and_memory_order():
    net = Net()
    net(images(2, 3, 8, 8)).sum().backward()
    other = copy.deepcopy(net)
    assert isinstance(other.conv1.weight, nn.Parameter)
    assert other.conv1.weight.data.transpose(2, 3, 1, 0).flags.c_contiguous
    np.testing.assert_array_equal(other.conv1.weight.grad.numpy(), net.conv1.weight.grad.numpy())
    with minicnn.no_grad():
        other.conv1.weight.zero_()
        other.bn.running_mean.fill_(9)
    assert net.conv1.weight.detach().numpy().any()
    assert net.bn.running_mean.numpy().max() < 9


def test_weights_live_in_the_memory_order_that_the_kernels_read():
    assert nn.Conv2d(8, 16, 3).weight.data.transpose(2, 3, 1, 0).flags.c_contiguous
    assert nn.Conv1d(8, 16, 3).weight.data.transpose(2, 1, 0).flags.c_contiguous
    assert nn.ConvTranspose2d(8, 16, 3).weight.data.transpose(2, 3, 1, 0).flags.c_contiguous
    assert nn.Linear(8, 16).weight.data.T.flags.c_contiguous


# -- printing -------------------------------------------------------------------------------------


def test_repr_shows_the_tree_as_pytorch_does():
    assert repr(Net()) == (
        "Net(\n"
        "  (conv1): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), bias=False)\n"
        "  (bn): BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True, "
        "bias=True, track_running_stats=True)\n"
        "  (head): Sequential(\n"
        "    (0): Flatten(start_dim=1, end_dim=-1)\n"
        "    (1): Linear(in_features=144, out_features=5, bias=True)\n"
        "  )\n"
        ")"
    )


def test_parameters_print_as_such():
    assert repr(nn.Parameter([1.0])).startswith("Parameter containing:\ntensor([1.")


# -- containers -----------------------------------------------------------------------------------


def test_sequential_is_a_list_of_named_modules():
    a, b, c = nn.ReLU(), nn.Tanh(), nn.Sigmoid()
    net = nn.Sequential(a, b).append(c)
    assert len(net) == 3
    assert net[-1] is c
    assert list(net[1:]) == [b, c]
    del net[0]
    assert [name for name, _ in net.named_children()] == ["0", "1"]
    net[0] = a
    assert list(net) == [a, c]
    named = nn.Sequential({"first": a, "second": b})
    assert named.first is a
    with pytest.raises(IndexError, match="index 5 is out of range for 2 modules"):
        _ = net[5]
    with pytest.raises(TypeError, match="child '0' must be a Module or None, got int"):
        nn.Sequential(3)


def test_module_list_and_module_dict():
    a, b, c = nn.ReLU(), nn.Tanh(), nn.Sigmoid()
    modules = nn.ModuleList([a, c])
    modules.insert(1, b)
    assert list(modules) == [a, b, c]
    assert [name for name, _ in modules.named_children()] == ["0", "1", "2"]
    assert list(modules[:2]) == [a, b]
    del modules[0]
    modules[0] = a
    assert list(modules) == [a, c]
    named = nn.ModuleDict({"a": a})
    named["b"] = b
    assert "b" in named
    assert list(named) == ["a", "b"]
    assert list(named.values()) == [a, b]
    del named["a"]
    assert len(named) == 1


# -- what constructors refuse ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(3, 0, 3), r"Conv2d: out_channels must be an integer of at least 1, got 0"),
        (lambda: nn.Conv2d(3, 4, (3, 3, 3)), r"Conv2d: kernel_size must be .* or 2 of them, got \(3, 3, 3\)"),
        (lambda: nn.Conv2d(3, 4, 2.5), "Conv2d: kernel_size .* got 2.5"),
        (lambda: nn.Conv2d(3, 4, 3, stride=0), "Conv2d: stride .* got 0"),
        (lambda: nn.Conv2d(3, 4, 3, padding=-1), "Conv2d: padding .* got -1"),
        (lambda: nn.Conv2d(3, 4, 3, padding="half"), "Conv2d: padding must be one of 'valid', 'same', got"),
        (
            lambda: nn.Conv2d(3, 4, 3, stride=2, padding="same"),
            "Conv2d: stride must be 1 with padding='same'",
        ),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "Conv2d: in_channels must be divisible by groups=2, got 3"),
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), "Conv2d: padding_mode .* got 'mirror'"),
        (lambda: nn.ConvTranspose2d(3, 4, 3, padding="same"), "ConvTranspose2d: padding"),
        (lambda: nn.Linear(True, 2), "Linear: in_features .* got True"),
        (
            lambda: nn.MaxPool2d(2, padding=2),
            "MaxPool2d: padding must be at most half of kernel_size=2, got 2",
        ),
        (lambda: nn.AvgPool2d(2, divisor_override=0), "AvgPool2d: divisor_override"),
        (lambda: nn.AdaptiveAvgPool2d((1, 2, 3)), "AdaptiveAvgPool2d: output_size"),
        (lambda: nn.Dropout(1.5), r"Dropout: p must be a number in \[0, 1\], got 1.5"),
        (lambda: nn.BatchNorm2d(4, momentum=2), "BatchNorm2d: momentum"),
        (lambda: nn.GroupNorm(3, 4), "GroupNorm: num_channels must be divisible by num_groups=3, got 4"),
        (lambda: nn.LayerNorm(()), "LayerNorm: normalized_shape"),
        (lambda: nn.Embedding(3, 2, padding_idx=3), "Embedding: padding_idx must be below num_embeddings=3"),
        (lambda: nn.CrossEntropyLoss(reduction="average"), "CrossEntropyLoss: reduction .* got 'average'"),
        (lambda: nn.HuberLoss(delta=0), "HuberLoss: delta must be a number above 0, got 0"),
        (lambda: nn.GELU("erf"), "GELU: approximate"),
        (lambda: nn.Upsample(), "Upsample: size"),
        (lambda: nn.Hardtanh(1, -1), "Hardtanh: max_val"),
    ],
)
def test_a_bad_argument_is_named_with_its_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_unknown_arguments_are_type_errors():
    with pytest.raises(TypeError, match="device"):
        nn.Linear(2, 2, device="cpu")
    with pytest.raises(TypeError, match="size_average"):
        nn.MSELoss(size_average=True)


def test_batch_norm_says_which_shape_it_wants():
    with pytest.raises(ValueError, match=r"BatchNorm2d .*expected input \(N, C, H, W\), got \(2, 4\)"):
        nn.BatchNorm2d(4)(images(2, 4))


# -- starting values ------------------------------------------------------------------------------


def test_manual_seed_makes_starting_values_reproducible():
    first = Net().conv1.weight.detach().numpy()
    minicnn.manual_seed(0)
    np.testing.assert_array_equal(Net().conv1.weight.detach().numpy(), first)
    assert (Net().conv1.weight.detach().numpy() != first).any()


@pytest.mark.parametrize(
    ("fill", "mean", "std"),
    [
        (lambda w: init.uniform_(w, -1, 3), 1, 4 / 12**0.5),
        (lambda w: init.normal_(w, 2, 3), 2, 3),
        (lambda w: init.trunc_normal_(w), 0, 0.8796),
        (lambda w: init.xavier_uniform_(w, gain=2), 0, 2 * (2 / (50 * 9 + 40 * 9)) ** 0.5),
        (lambda w: init.xavier_normal_(w), 0, (2 / (50 * 9 + 40 * 9)) ** 0.5),
        (lambda w: init.kaiming_uniform_(w, nonlinearity="relu"), 0, (2 / (40 * 9)) ** 0.5),
        (lambda w: init.kaiming_normal_(w, mode="fan_out"), 0, (2 / (50 * 9)) ** 0.5),
        (lambda w: init.kaiming_normal_(w, a=5**0.5), 0, (1 / (3 * 40 * 9)) ** 0.5),
        (lambda w: init.default_weight_(w), 0, (1 / (3 * 40 * 9)) ** 0.5),
        (lambda w: init.constant_(w, 4), 4, 0),
        (init.ones_, 1, 0),
        (init.zeros_, 0, 0),
    ],
)
def test_starting_values_have_the_right_mean_and_deviation(fill, mean, std):
    weight = nn.Parameter(init.empty_weight((50, 40, 3, 3)))
    assert fill(weight) is weight
    values = weight.detach().numpy().astype(np.float64)
    assert abs(values.mean() - mean) < 5 * max(std, 1e-9) / values.size**0.5
    assert abs(values.std() - std) < 0.02 * max(std, 1e-9)


@pytest.mark.parametrize("shape", [(20, 5), (5, 20), (6, 2, 3, 3)])
def test_orthogonal_weights_are_orthogonal(shape):
    weight = init.orthogonal_(nn.Parameter(init.empty_weight(shape)), gain=2).detach().numpy()
    matrix = weight.reshape(shape[0], -1)
    small = matrix @ matrix.T if shape[0] < matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-5)


def test_truncated_normal_stays_inside_and_refuses_the_impossible():
    weight = init.trunc_normal_(minicnn.tensor(np.empty(1000, np.float32)), a=-0.5, b=1)
    assert weight.numpy().min() >= -0.5
    assert weight.numpy().max() <= 1
    with pytest.raises(ValueError, match="holds almost nothing"):
        init.trunc_normal_(weight, mean=10, std=1)


def test_init_refuses_what_has_no_fans_and_unknown_names():
    with pytest.raises(ValueError, match=r"two or more dimensions, got shape \(3,\)"):
        init.xavier_uniform_(minicnn.tensor([1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="unknown nonlinearity 'gelu'"):
        init.calculate_gain("gelu")
    with pytest.raises(ValueError, match="mode must be 'fan_in' or 'fan_out', got 'fan'"):
        init.kaiming_normal_(nn.Linear(2, 2).weight, mode="fan")


# -- behaviour ------------------------------------------------------------------------------------


def test_dropout_is_silent_in_evaluation():
    x = images(4, 5)
    layer = nn.Dropout(0.5)
    assert (layer(x).numpy() == 0).any()
    np.testing.assert_array_equal(layer.eval()(x).numpy(), x.numpy())


def test_the_padding_row_of_an_embedding_is_zero_and_stays_so():
    layer = nn.Embedding(4, 3, padding_idx=-1)
    assert layer.padding_idx == 3
    out = layer(minicnn.tensor([[1, 3]]))
    assert out.shape == (1, 2, 3)
    assert not out.detach().numpy()[0, 1].any()
    out.sum().backward()
    assert not layer.weight.grad.numpy()[3].any()


def test_batch_norm_without_momentum_averages_over_all_batches():
    layer = nn.BatchNorm1d(2, momentum=None)
    batches = [images(50, 2, seed=i) for i in range(3)]
    for batch in batches:
        layer(batch)
    mean = np.mean([batch.numpy().mean(0) for batch in batches], 0)
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, atol=1e-6)


# -- against PyTorch ------------------------------------------------------------------------------

IMAGE, SIGNAL, FLAT = (4, 6, 9, 11), (4, 6, 11), (5, 6)
PAIRS = [
    ("Linear", (6, 5), {}, FLAT),
    ("Linear", (6, 5), {"bias": False}, (2, 3, 6)),
    ("Flatten", (), {}, IMAGE),
    ("Flatten", (), {"start_dim": 0, "end_dim": 1}, IMAGE),
    ("Unflatten", (1, (2, -1)), {}, IMAGE),
    ("Conv1d", (6, 4, 3), {"stride": 2, "padding": 1, "dilation": 2}, SIGNAL),
    ("Conv1d", (6, 4, 4), {"padding": "same", "padding_mode": "circular"}, SIGNAL),
    ("Conv2d", (6, 4, 3), {}, IMAGE),
    ("Conv2d", (6, 4, (3, 2)), {"stride": (1, 2), "padding": (2, 1), "groups": 2, "bias": False}, IMAGE),
    ("Conv2d", (6, 6, 3), {"groups": 6, "dilation": 2, "padding": 2}, IMAGE),
    ("Conv2d", (6, 4, (3, 4)), {"padding": "same"}, IMAGE),
    ("Conv2d", (6, 4, 3), {"padding": "valid"}, IMAGE),
    ("Conv2d", (6, 4, 3), {"padding": (1, 2), "padding_mode": "reflect"}, IMAGE),
    ("Conv2d", (6, 4, 3), {"padding": 1, "padding_mode": "replicate", "stride": 2}, IMAGE),
    ("Conv2d", (6, 4, (3, 4)), {"padding": "same", "padding_mode": "circular"}, IMAGE),
    ("ConvTranspose1d", (6, 4, 3), {"stride": 2, "padding": 1, "output_padding": 1}, SIGNAL),
    ("ConvTranspose2d", (6, 4, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}, IMAGE),
    ("MaxPool1d", (2,), {}, SIGNAL),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1, "ceil_mode": True}, IMAGE),
    ("MaxPool2d", ((2, 3),), {"dilation": 2, "stride": 1}, IMAGE),
    ("AvgPool1d", (3,), {"stride": 2, "padding": 1}, SIGNAL),
    ("AvgPool2d", (3,), {"stride": 2, "padding": 1, "count_include_pad": False, "ceil_mode": True}, IMAGE),
    ("AvgPool2d", (2,), {"divisor_override": 3}, IMAGE),
    ("AdaptiveAvgPool1d", (4,), {}, SIGNAL),
    ("AdaptiveAvgPool2d", ((None, 3),), {}, IMAGE),
    ("AdaptiveMaxPool2d", (2,), {}, IMAGE),
    ("BatchNorm1d", (6,), {}, FLAT),
    ("BatchNorm2d", (6,), {"momentum": 0.3, "eps": 1e-3}, IMAGE),
    ("BatchNorm2d", (6,), {"affine": False, "track_running_stats": False}, IMAGE),
    ("InstanceNorm1d", (6,), {"affine": True}, SIGNAL),
    ("InstanceNorm2d", (6,), {"track_running_stats": True}, IMAGE),
    ("LayerNorm", (6,), {}, FLAT),
    ("LayerNorm", ((9, 11),), {"bias": False}, IMAGE),
    ("GroupNorm", (3, 6), {}, IMAGE),
    ("LocalResponseNorm", (3,), {"alpha": 0.1}, IMAGE),
    ("ReLU", (), {}, FLAT),
    ("LeakyReLU", (0.2,), {}, FLAT),
    ("ReLU6", (), {}, FLAT),
    ("Hardtanh", (-0.5, 0.7), {}, FLAT),
    ("ELU", (1.5,), {}, FLAT),
    ("Sigmoid", (), {}, FLAT),
    ("Tanh", (), {}, FLAT),
    ("SiLU", (), {}, FLAT),
    ("GELU", (), {}, FLAT),
    ("GELU", ("tanh",), {}, FLAT),
    ("Softplus", (2.0, 1.0), {}, FLAT),
    ("Hardswish", (), {}, FLAT),
    ("Softmax", (1,), {}, FLAT),
    ("LogSoftmax", (-1,), {}, FLAT),
    ("ZeroPad2d", ((1, 2, 0, 3),), {}, IMAGE),
    ("Upsample", (), {"scale_factor": 2}, IMAGE),
    ("Upsample", (), {"size": (5, 20), "mode": "bilinear", "align_corners": True}, IMAGE),
    ("Dropout", (0.0,), {}, FLAT),
    ("Identity", (), {}, FLAT),
]


@pytest.mark.peers
@pytest.mark.parametrize(("name", "args", "options", "shape"), PAIRS)
def test_layer_prints_loads_and_computes_as_pytorchs(name, args, options, shape):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(*args, **options)
    ours = getattr(nn, name)(*args, **options)
    assert repr(ours) == repr(theirs)
    ours.load_state_dict(theirs.state_dict())
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)

    for training in (True, False):
        x, t = minicnn.tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
        y, u = ours.train(training)(x), theirs.train(training)(t)
        np.testing.assert_allclose(y.detach().numpy(), u.detach().numpy(), rtol=1e-4, atol=1e-5)
        gradient = np.random.default_rng(2).standard_normal(y.shape).astype(np.float32)
        ours.zero_grad()
        theirs.zero_grad()
        y.backward(gradient)
        u.backward(torch.tensor(gradient))
        np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-4, atol=1e-4)
        for (key, p), (other_key, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            assert key == other_key
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-4, atol=1e-4, err_msg=key)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for key, buffer in theirs.state_dict().items():
            np.testing.assert_allclose(ours.state_dict()[key].numpy(), buffer.numpy(), rtol=1e-5, atol=1e-6)


LOGITS, CLASSES = (
    np.random.default_rng(3).standard_normal((6, 4)).astype(np.float32),
    np.array([0, 3, 1, 2, 2, 0]),
)
PROBABILITIES = 1 / (1 + np.exp(-LOGITS))
SOFT = np.random.default_rng(4).dirichlet(np.ones(4), 6).astype(np.float32)
WEIGHT = np.array([1, 2, 0.5, 3], np.float32)
SIGNS = np.array([1, -1, 1, -1, -1, 1])
LOSSES = [
    ("CrossEntropyLoss", {"weight": WEIGHT, "label_smoothing": 0.1, "ignore_index": 3}, (LOGITS, CLASSES)),
    ("NLLLoss", {"weight": WEIGHT}, (np.log(SOFT), CLASSES)),
    ("MSELoss", {}, (LOGITS, SOFT)),
    ("L1Loss", {}, (LOGITS, SOFT)),
    ("SmoothL1Loss", {"beta": 0.5}, (LOGITS, SOFT)),
    ("HuberLoss", {"delta": 0.5}, (LOGITS, SOFT)),
    ("BCELoss", {"weight": WEIGHT}, (PROBABILITIES, SOFT)),
    ("BCEWithLogitsLoss", {"pos_weight": WEIGHT}, (LOGITS, SOFT)),
    ("KLDivLoss", {}, (np.log(SOFT[::-1].copy()), SOFT)),
    ("KLDivLoss", {"log_target": True}, (LOGITS, np.log(SOFT))),
    ("CosineEmbeddingLoss", {"margin": 0.1}, (LOGITS, SOFT, SIGNS)),
    ("TripletMarginLoss", {"margin": 2.0, "swap": True}, (LOGITS, SOFT, PROBABILITIES)),
]


@pytest.mark.peers
@pytest.mark.parametrize(
    ("name", "options", "arguments", "reduction"),
    [(*loss, reduction) for loss in LOSSES for reduction in getattr(nn, loss[0]).reductions],
)
def test_loss_computes_as_pytorchs(name, options, arguments, reduction):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, name)(
        **{k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()},
        reduction=reduction,
    )
    ours = getattr(nn, name)(**options, reduction=reduction)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x, t = minicnn.tensor(arguments[0], requires_grad=True), torch.tensor(arguments[0], requires_grad=True)
    y = ours(x, *(minicnn.tensor(a) for a in arguments[1:]))
    u = theirs(t, *(torch.tensor(a) for a in arguments[1:]))
    np.testing.assert_allclose(y.detach().numpy(), u.detach().numpy(), rtol=1e-4, atol=1e-6)
    y.sum().backward()
    u.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_focal_loss_without_focus_is_cross_entropy():
    x, target = minicnn.tensor(LOGITS), minicnn.tensor(CLASSES)
    assert nn.FocalLoss(gamma=0)(x, target).item() == pytest.approx(nn.CrossEntropyLoss()(x, target).item())
    assert nn.FocalLoss(gamma=2)(x, target).item() < nn.CrossEntropyLoss()(x, target).item()


@pytest.mark.peers
def test_starting_values_are_distributed_as_pytorchs():
    torch = pytest.importorskip("torch")
    for name, args in (
        ("Linear", (300, 200)),
        ("Conv2d", (30, 40, 3)),
        ("ConvTranspose2d", (30, 40, 3)),
        ("Embedding", (200, 300)),
        ("BatchNorm2d", (5,)),
    ):
        ours, theirs = getattr(nn, name)(*args), getattr(torch.nn, name)(*args)
        for (key, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            p, q = p.detach().numpy(), q.detach().numpy()
            assert p.std() == pytest.approx(q.std(), rel=0.05 if p.size > 1000 else 0.5), (name, key)
            assert abs(p).max() <= abs(q).max() * 1.25, (name, key)


@pytest.mark.peers
def test_a_whole_network_answers_as_in_pytorch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)

    def build(layers):
        return layers.Sequential(
            layers.Conv2d(1, 8, 3, padding=1),
            layers.BatchNorm2d(8),
            layers.ReLU(inplace=True),
            layers.MaxPool2d(2),
            layers.Flatten(),
            layers.Linear(8 * 25, 10),
        )

    theirs, ours = build(torch.nn), build(nn)
    theirs(torch.randn(16, 1, 10, 10))  # move the running statistics
    assert not ours.load_state_dict(theirs.state_dict()).missing_keys
    x = np.random.default_rng(0).standard_normal((4, 1, 10, 10)).astype(np.float32)
    y, u = ours.eval()(minicnn.tensor(x)), theirs.eval()(torch.tensor(x))
    np.testing.assert_allclose(y.detach().numpy(), u.detach().numpy(), rtol=1e-4, atol=1e-5)
    theirs.load_state_dict({name: torch.tensor(value.numpy()) for name, value in ours.state_dict().items()})


@pytest.mark.parametrize("backend", kernels.available_backends())
def test_a_step_of_a_network_runs_on_every_back_end(backend):
    with kernels.use(backend):
        net = Net()
        nn.functional.cross_entropy(net(images(4, 3, 8, 8)), minicnn.tensor([0, 1, 2, 3])).backward()
        assert all(p.grad.shape == p.shape for p in net.parameters())
