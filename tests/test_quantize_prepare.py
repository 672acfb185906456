"""Weights before and after quantization: folding, equalisation, bias correction, mixed bits."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from test_quantize_models import make, run

import minicnn
from minicnn import nn
from minicnn.compress import (
    Codebook,
    FakeQuantize,
    correct_bias,
    equalize,
    fold_batch_norm,
    mixed_bits,
    prune,
    quantize,
    share,
)
from minicnn.nn.transform import attach, attached, raw


def relative(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


def with_statistics(model, rng):
    """Batch norms that have seen data: statistics, scales and shifts as after some training."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.running_mean is not None:
            parts = [(module.running_mean, -1, 1), (module.running_var, 0.3, 3)]
            if module.affine:
                parts.append((module.weight.detach(), -2, 2))
            if module.bias is not None:
                parts.append((module.bias.detach(), -1, 1))
            for part, low, high in parts:
                part.copy_(minicnn.tensor(rng.uniform(low, high, part.shape)))
    return model.eval()


def state_of(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def assert_untouched(model, before):
    after = state_of(model)
    assert list(after) == list(before)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


# -- folding batch norm --------------------------------------------------------------------------------

FOLDABLE = {
    "a convolution without bias": ([nn.Conv2d(2, 5, 3, bias=False), nn.BatchNorm2d(5)], (2, 7, 7)),
    "a grouped convolution with bias": ([nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)], (4, 7, 7)),
    "no gamma, no beta": ([nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5, affine=False)], (2, 7, 7)),
    "no beta": ([nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5, bias=False)], (2, 7, 7)),
    "a sequence": ([nn.Conv1d(2, 5, 3), nn.BatchNorm1d(5)], (2, 9)),
    "a dense layer": ([nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5)], (6,)),
    "two in a row": ([nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 3, 1),
                      nn.BatchNorm2d(3)], (2, 7, 7)),
}  # fmt: skip


@pytest.mark.parametrize(("layers", "shape"), FOLDABLE.values(), ids=FOLDABLE)
def test_folding_leaves_results_as_they_were(rng, layers, shape):
    model = with_statistics(nn.Sequential(*copy.deepcopy(layers)), rng)
    x = minicnn.tensor(rng.standard_normal((3, *shape)).astype(np.float32))
    before = run(model, x)
    pairs = fold_batch_norm(model, x)
    assert [pair.norm for pair in pairs] == [str(i) for i, m in enumerate(layers) if "Norm" in repr(m)]
    assert not any("BatchNorm" in repr(module) for module in model)
    assert relative(run(model, x), before) <= 1e-5
    assert relative(run(model.train(), x), before) <= 1e-5, "the statistics are frozen in training mode too"


@pytest.mark.parametrize("name", ["resnet-20", "resnet-20 B"])
def test_folding_a_residual_network(rng, name):
    model, x = make(name, rng)
    before = run(model, x)
    assert len(fold_batch_norm(model, x)) == (19 if name == "resnet-20" else 21)
    assert relative(run(model, x), before) <= 1e-5


def test_folding_keeps_pruned_weights_at_zero(rng):
    model, x = make("simple", rng)
    prune(model, 0.7)
    before = run(model, x)
    fold_batch_norm(model, x)
    assert relative(run(model, x), before) <= 1e-5
    assert (raw(model.conv2, "weight").detach().numpy() == 0).mean() == pytest.approx(0.7, abs=0.01)


class Twice(nn.Module):
    """A convolution whose result is read by batch norm and by an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

    def forward(self, input):
        x = self.conv(input)
        return self.bn(x) + x


class Shared(Twice):
    def forward(self, input):
        return self.bn(self.conv(self.bn(self.conv(input))))


def quantized_weight():
    conv = nn.Conv2d(2, 2, 1)
    attach(conv, "weight", FakeQuantize(8))
    return conv


def shared_weight():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4))
    share(model, 4)
    assert isinstance(next(attached(model)).transform, Codebook)
    return model


UNFOLDABLE = {
    "batch norm first": (
        lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)),
        "'0'.*right before it",
    ),
    "behind a ReLU": (
        lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.BatchNorm2d(2)),
        "'2'.*no convolution or dense layer stands right before it",
    ),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 2, 1), nn.BatchNorm2d(2)),
        "no convolution or dense layer",
    ),
    "read elsewhere": (Twice, "'bn'.*the result of 'conv' is read elsewhere"),
    "run twice": (Shared, "runs more than once"),
    "no statistics": (
        lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)),
        "no running statistics",
    ),
    "quantized": (
        lambda: nn.Sequential(quantized_weight(), nn.BatchNorm2d(2)),
        "kind 'quantize'; fold first",
    ),
    "codebook": (shared_weight, "kind 'codebook'; fold first"),
}


@pytest.mark.parametrize(("build", "message"), UNFOLDABLE.values(), ids=UNFOLDABLE)
def test_what_cannot_be_folded_is_told_and_left(rng, build, message):
    model = with_statistics(build(), rng)
    x = minicnn.tensor(rng.standard_normal((3, 2, 4, 4)).astype(np.float32))
    before, results = state_of(model), run(model, x)
    with pytest.raises(ValueError, match=message):
        fold_batch_norm(model, x)
    assert_untouched(model, before)
    assert fold_batch_norm(model, x, strict=False) == []
    np.testing.assert_array_equal(run(model, x), results)


def test_batch_norm_that_stays_is_float_between_lattices(rng):
    model = with_statistics(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3)), rng
    )
    x = minicnn.tensor(rng.standard_normal((3, 2, 8, 8)).astype(np.float32))
    before = run(model, x)
    quantize(model, [x])
    assert [one.name for one in attached(model, "quantize") if one.place != "weight"] == [
        "0.input",
        "2.output",
        "3.input",
    ]
    assert relative(run(model, x), before) < 0.05


# -- equalisation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["simple", "resnet-20 B", "concatenated"])
def test_equalising_leaves_the_function_as_it_was(rng, name):
    model, x = make(name, rng)
    fold_batch_norm(model, x)
    before = run(model, x)
    assert equalize(model, x)
    assert relative(run(model, x), before) < 1e-5


def test_equalised_layers_have_the_same_range_in_every_channel(rng):
    """Nagel et al. 2019, eq. 11: s_i = sqrt(r1_i r2_i) / r2_i makes both sqrt(r1_i r2_i)."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3 * 9, 4))
    first, second = model[0], model[4]
    first.weight.detach().mul_(minicnn.tensor([100.0, 1.0, 0.01]).reshape(3, 1, 1, 1))
    r1 = np.abs(first.weight.detach().numpy()).max((1, 2, 3))
    r2 = np.abs(second.weight.detach().numpy().reshape(4, 3, 9)).max((0, 2))
    x = minicnn.tensor(rng.standard_normal((2, 2, 8, 8)).astype(np.float32))
    assert equalize(model, x) == [("0", "4")]
    ours = np.abs(first.weight.detach().numpy()).max((1, 2, 3))
    theirs = np.abs(second.weight.detach().numpy().reshape(4, 3, 9)).max((0, 2))
    np.testing.assert_allclose(ours, np.sqrt(r1 * r2), rtol=1e-4)
    np.testing.assert_allclose(theirs, np.sqrt(r1 * r2), rtol=1e-4)


def test_depthwise_layers_are_equalised_and_dead_channels_left(rng):
    model = nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.LeakyReLU(0.1), nn.Conv2d(6, 3, 1)
    )
    model[0].weight.detach()[2] = 0
    x = minicnn.tensor(rng.standard_normal((2, 2, 6, 6)).astype(np.float32))
    before = run(model, x)
    assert equalize(model, x) == [("0", "2"), ("2", "4")]
    assert relative(run(model, x), before) < 1e-5
    assert not model[0].weight.detach().numpy()[2].any()


def test_what_is_in_between_decides_whether_layers_are_equalised(rng):
    x = minicnn.tensor(rng.standard_normal((2, 2, 6, 6)).astype(np.float32))
    for between in (nn.Sigmoid(), nn.BatchNorm2d(4), nn.ReLU6()):
        assert equalize(nn.Sequential(nn.Conv2d(2, 4, 1), between, nn.Conv2d(4, 2, 1)).eval(), x) == []


def test_equalising_helps_one_scale_for_a_whole_tensor(rng):
    def error(equalised):
        model, x = make("simple", np.random.default_rng(4))
        fold_batch_norm(model, x)
        spread = minicnn.tensor(np.float32(10.0) ** np.random.default_rng(1).uniform(-1.5, 0, 32))
        model.conv1.weight.detach().mul_(spread.reshape(32, 1, 1, 1))
        model.conv1.bias.detach().mul_(spread)
        model.conv2.weight.detach().mul_(1 / spread.reshape(1, 32, 1, 1))
        before = run(model, x)
        if equalised:
            equalize(model, x)
        quantize(model, [x], per_channel=False)
        return np.abs(run(model, x) - before).mean()

    assert error(True) < error(False) / 3


def test_a_quantized_model_is_not_equalised(rng):
    model, x = make("simple", rng)
    quantize(model, [x])
    before = state_of(model)
    with pytest.raises(ValueError, match="equalisation comes before"):
        equalize(model, x)
    assert_untouched(model, before)


# -- bias correction -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["simple", "resnet-20"])
def test_bias_correction_takes_the_mean_error_out(rng, name):
    model, x = make(name, rng)
    images = minicnn.tensor(rng.standard_normal((64, *x.shape[1:])).astype(np.float32))
    wanted = run(model, images).mean(0)
    quantize(model, [images], bits=4, activation_bits=8)
    before = np.abs(run(model, images).mean(0) - wanted).mean()
    names = correct_bias(model, [images[:32], images[32:]])
    after = np.abs(run(model, images).mean(0) - wanted).mean()
    assert after < before / 10
    assert names[0].startswith("conv")
    assert names[-1].startswith("fc")


def test_layers_without_bias_get_one_and_a_failure_takes_it_back(rng):
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3)).eval()
    x = rng.standard_normal((20, 6)).astype(np.float32)
    quantize(model, [x], bits=2, activation_bits=8)
    before = state_of(model)

    def broken():
        yield x
        raise OSError("the disk is gone")

    for batches, error in (
        (broken(), OSError),
        ([x, np.zeros((2, 7), np.float32)], ValueError),
        ([], ValueError),
    ):
        with pytest.raises(error):
            correct_bias(model, batches)
        assert_untouched(model, before)
        assert all(q.transform.enabled for q in attached(model, "quantize"))
    correct_bias(model, [x])
    assert model[0].bias is not None


def test_a_model_that_is_not_quantized_has_no_bias_to_correct(rng):
    model, x = make("simple", rng)
    with pytest.raises(ValueError, match="no quantized layer; expected `quantize` first"):
        correct_bias(model, [x])


# -- mixed bits ----------------------------------------------------------------------------------------


def scored(model, x):
    """How near the answers are to those of the model as it was."""
    wanted = run(model, x)
    return lambda model: -float(np.abs(run(model, x) - wanted).mean())


def test_mixed_bits_keep_to_the_budget_and_leave_the_model_alone(rng):
    model, x = make("simple", rng)
    before = state_of(model)
    sizes = {
        name: raw(model.get_submodule(name), "weight").numel() for name in ("conv1", "conv2", "fc1", "fc2")
    }
    total = sum(sizes.values())
    for budget in (total // 4 + 8, total // 3, total // 2, total * 2):
        chosen = mixed_bits(model, scored(model, x), budget=budget)
        assert chosen.nbytes == sum(-(-sizes[name] * bits // 8) for name, bits in chosen.bits.items())
        assert chosen.nbytes <= budget
        assert_untouched(model, before)
    assert set(chosen.bits.values()) == {8}
    assert chosen.score == 0
    quantize(model, [x], layers_bits=mixed_bits(model, scored(model, x), budget=total // 2).bits)


def test_mixed_bits_spend_where_a_layer_is_sensitive():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    price = {"0": 0.0, "1": 10.0, "2": 1.0}

    def evaluate(model):
        worth = {8: 0, 4: 1, 2: 3}
        return -sum(worth[one.transform.bits] * price[one.path] for one in attached(model, "quantize"))

    assert mixed_bits(model, evaluate, budget=64 + 64 + 16).bits == {"0": 2, "1": 8, "2": 8}
    assert mixed_bits(model, evaluate, budget=64 + 32 + 16).bits == {"0": 2, "1": 8, "2": 4}
    assert mixed_bits(model, evaluate, budget=3 * 16).bits == {"0": 2, "1": 2, "2": 2}


def test_mixed_bits_restore_the_model_when_evaluation_fails(rng):
    model, _ = make("simple", rng)
    before, calls = state_of(model), []

    def evaluate(model):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        mixed_bits(model, evaluate, budget=10**9)
    assert_untouched(model, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 10}, "budget of at least 23432 bytes, what the fewest of"),
        ({"budget": 10**6, "choices": ()}, "at least one number of bits to choose from"),
        ({"budget": 10**6, "choices": (8, 1)}, "bits from 2 to 16, got 1"),
        ({"budget": 10**6, "layers": ["fc9"]}, "no layer 'fc9'"),
    ],
)
def test_bad_options_of_mixed_bits_are_told(rng, options, message):
    model, _ = make("simple", rng)
    before = state_of(model)
    with pytest.raises(ValueError, match=message):
        mixed_bits(model, lambda model: 0.0, **options)
    assert_untouched(model, before)
