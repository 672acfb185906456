"""What the op table can't show of `minicnn.nn.functional`: state, chance, extremes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import minicnn
import minicnn_kernels as kernels
from minicnn.nn import functional as F

DTYPES = [np.float32, np.float64]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)


def tensor(array: Any, requires_grad: bool = False) -> minicnn.Tensor:
    return minicnn.tensor(np.asarray(array), requires_grad=requires_grad)


# -- batch norm and its running statistics --------------------------------------------------------


@pytest.mark.peers
@every_dtype
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (4, 3, 5, 2)], ids=str)
@pytest.mark.parametrize("cumulative", [False, True], ids=["momentum", "cumulative average"])
def test_batch_norm_keeps_the_statistics_that_pytorch_keeps(
    shape: tuple[int, ...], cumulative: bool, dtype: Any, rng: np.random.Generator
) -> None:
    torch = pytest.importorskip("torch")
    kind = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}[len(shape)]
    theirs = kind(3, momentum=None if cumulative else 0.3, eps=1e-3).to(
        torch.from_numpy(np.zeros(0, dtype)).dtype
    )
    mean, var = tensor(np.zeros(3, dtype)), tensor(np.ones(3, dtype))
    weight, bias = tensor(np.ones(3, dtype)), tensor(np.zeros(3, dtype))
    tolerance = 1e-4 if dtype == np.float32 else 1e-12
    for step in range(1, 5):
        x = (rng.standard_normal(shape) * 2 + step).astype(dtype)
        momentum = 1 / step if cumulative else 0.3
        ours = F.batch_norm(tensor(x), mean, var, weight, bias, True, momentum, 1e-3)
        np.testing.assert_allclose(
            ours.numpy(), theirs(torch.from_numpy(x)).detach().numpy(), rtol=tolerance, atol=tolerance
        )
        np.testing.assert_allclose(mean.numpy(), theirs.running_mean.numpy(), rtol=tolerance)
        np.testing.assert_allclose(var.numpy(), theirs.running_var.numpy(), rtol=tolerance)
    theirs.eval()
    before = mean.numpy().copy(), var.numpy().copy()
    x = rng.standard_normal(shape).astype(dtype)
    ours = F.batch_norm(tensor(x), mean, var, weight, bias, False, 0.3, 1e-3)
    np.testing.assert_allclose(
        ours.numpy(), theirs(torch.from_numpy(x)).detach().numpy(), rtol=tolerance, atol=tolerance
    )
    np.testing.assert_array_equal(mean.numpy(), before[0])
    np.testing.assert_array_equal(var.numpy(), before[1])


@every_dtype
def test_running_variance_is_the_unbiased_one(dtype: Any) -> None:
    mean, var = tensor(np.zeros(1, dtype)), tensor(np.zeros(1, dtype))
    F.batch_norm(tensor(np.array([[1.0], [3.0]], dtype)), mean, var, training=True, momentum=1.0)
    np.testing.assert_allclose(mean.numpy(), [2.0])
    np.testing.assert_allclose(var.numpy(), [2.0], rtol=1e-5)


@pytest.mark.peers
@every_dtype
def test_instance_norm_keeps_the_statistics_that_pytorch_keeps(dtype: Any, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    mean, var = np.zeros(3, dtype), np.ones(3, dtype)
    their_mean, their_var = torch.from_numpy(mean.copy()), torch.from_numpy(var.copy())
    our_mean, our_var = tensor(mean), tensor(var)
    tolerance = 1e-4 if dtype == np.float32 else 1e-12
    for training in (True, True, False):
        x = (rng.standard_normal((4, 3, 5, 2)) + 1).astype(dtype)
        ours = F.instance_norm(tensor(x), our_mean, our_var, use_input_stats=training)
        theirs = torch.nn.functional.instance_norm(
            torch.from_numpy(x), their_mean, their_var, use_input_stats=training
        )
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(our_mean.numpy(), their_mean.numpy(), rtol=tolerance)
        np.testing.assert_allclose(our_var.numpy(), their_var.numpy(), rtol=tolerance)


def test_an_empty_batch_leaves_running_statistics_alone() -> None:
    mean, var = tensor(np.full(3, 0.5, np.float32)), tensor(np.full(3, 2.0, np.float32))
    y = F.batch_norm(tensor(np.zeros((0, 3, 4, 4), np.float32)), mean, var, training=True)
    assert y.shape == (0, 3, 4, 4)
    np.testing.assert_array_equal(mean.numpy(), 0.5)
    np.testing.assert_array_equal(var.numpy(), 2.0)


def test_training_changes_the_statistics_in_sight_of_the_tape() -> None:
    mean, var = tensor(np.zeros(3, np.float32)), tensor(np.ones(3, np.float32))
    x = tensor(np.ones((4, 3), np.float32), requires_grad=True)
    y = F.batch_norm(x, mean, var)
    F.batch_norm(x, mean, var, training=True)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


# -- dropout --------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_one_minus_p_and_scales_it(p: float, dtype: Any) -> None:
    minicnn.manual_seed(3)
    n = 40_000
    y = F.dropout(tensor(np.ones(n, dtype)), p).numpy()
    assert y.dtype == dtype
    kept = np.count_nonzero(y)
    deviation = math.sqrt(n * p * (1 - p))
    assert abs(kept - n * (1 - p)) < 5 * deviation
    np.testing.assert_allclose(y[y != 0], 1 / (1 - p), rtol=1e-6)


@every_dtype
@pytest.mark.parametrize(
    ("op", "shape"), [(F.dropout, (5, 7)), (F.dropout2d, (4, 6, 3, 2)), (F.dropout1d, (4, 6, 3))]
)
def test_the_gradient_of_dropout_has_the_mask_of_its_result(
    op: Any, shape: tuple[int, ...], dtype: Any
) -> None:
    x = tensor(np.ones(shape, dtype), requires_grad=True)
    y = op(x, 0.4)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())


def test_dropout_is_off_in_evaluation_and_for_p_0() -> None:
    x = tensor(np.ones(9, np.float32))
    assert F.dropout(x, 0.5, training=False) is x
    assert F.dropout(x, 0.0) is x


def test_dropout_with_p_1_drops_everything() -> None:
    x = tensor(np.ones(9, np.float32), requires_grad=True)
    y = F.dropout(x, 1.0)
    y.sum().backward()
    np.testing.assert_array_equal(y.detach().numpy(), 0)
    np.testing.assert_array_equal(x.grad.numpy(), 0)


def test_the_same_seed_gives_the_same_mask_on_every_back_end_and_each_call_another() -> None:
    def masks(dtype: Any) -> list[np.ndarray]:
        minicnn.manual_seed(11)
        return [F.dropout(tensor(np.ones((13, 7, 5, 3), dtype)), 0.3).numpy() != 0 for _ in range(3)]

    first = masks(np.float32)
    for one, again, double in zip(first, masks(np.float32), masks(np.float64), strict=True):
        np.testing.assert_array_equal(one, again)
        np.testing.assert_array_equal(one, double)
    assert not np.array_equal(first[0], first[1])
    minicnn.manual_seed(12)
    assert not np.array_equal(
        F.dropout(tensor(np.ones((13, 7, 5, 3), np.float32)), 0.3).numpy() != 0, first[0]
    )


def test_dropout2d_drops_whole_channels() -> None:
    minicnn.manual_seed(0)
    y = F.dropout2d(tensor(np.ones((8, 16, 3, 4), np.float32)), 0.5).numpy()
    sums = y.sum(axis=(2, 3))
    assert set(np.unique(sums)) == {0.0, 24.0}


# -- in place -------------------------------------------------------------------------------------


def test_inplace_changes_the_tensor_and_not_the_gradients() -> None:
    for function in (F.relu, F.leaky_relu, F.relu6, F.hardtanh, F.elu, F.silu, F.hardswish, F.hardsigmoid):
        x = tensor(np.linspace(-2.05, 2, 8), requires_grad=True)
        z = x * 1.0
        function(z, inplace=True)  # as a statement
        (z * z).sum().backward()
        again = tensor(np.linspace(-2.05, 2, 8), requires_grad=True)
        y = function(again)
        (y * y).sum().backward()
        np.testing.assert_array_equal(z.detach().numpy(), y.detach().numpy())
        np.testing.assert_array_equal(x.grad.numpy(), again.grad.numpy())


def test_inplace_leaves_values_alone_that_the_tape_needs() -> None:
    x = tensor([-1.0, 2.0], requires_grad=True)
    z = x * 1.0
    square = z * z
    F.relu(z, inplace=True)
    square.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [-2.0, 4.0])


# -- extremes -------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize(
    "name",
    ["relu", "leaky_relu", "relu6", "hardtanh", "sigmoid", "tanh", "silu", "gelu", "elu", "softplus"]
    + ["logsigmoid", "hardswish", "hardsigmoid"],
)
def test_nan_stays_nan_in_activations(name: str, dtype: Any) -> None:
    y = getattr(F, name)(tensor(np.array([np.nan, 1.0], dtype))).numpy()
    assert np.isnan(y[0])
    assert np.isfinite(y[1])


@every_dtype
def test_losses_of_logits_are_exact_far_out(dtype: Any) -> None:
    logits = tensor(np.array([[1e4, -1e4], [-1e4, 1e4]], dtype), requires_grad=True)
    losses = F.cross_entropy(logits, minicnn.tensor([0, 0]), reduction="none")
    np.testing.assert_array_equal(losses.detach().numpy(), [0, 2e4])
    losses.sum().backward()
    np.testing.assert_array_equal(logits.grad.numpy(), [[0, 0], [-1, 1]])

    logits = tensor(np.array([1e4, -1e4, 1e4, -1e4], dtype), requires_grad=True)
    target = tensor(np.array([1, 1, 0, 0], dtype))
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    np.testing.assert_array_equal(losses.detach().numpy(), [0, 1e4, 1e4, 0])
    losses.sum().backward()
    np.testing.assert_array_equal(logits.grad.numpy(), [0, -1, 1, 0])


@every_dtype
def test_losses_of_logits_keep_their_digits(dtype: Any) -> None:
    x = tensor(np.array([12.0, -12.0], dtype))
    small = math.log1p(math.exp(-12))
    expected = [small, 12 + small]
    rtol = 1e-5 if dtype == np.float32 else 1e-14
    one = tensor(np.ones(2, dtype))
    losses = F.binary_cross_entropy_with_logits(x, one, reduction="none")
    np.testing.assert_allclose(losses.numpy(), expected, rtol=rtol)
    np.testing.assert_allclose((-F.logsigmoid(x)).numpy(), expected, rtol=rtol)


@every_dtype
def test_binary_cross_entropy_of_a_certain_mistake_is_finite(dtype: Any) -> None:
    x = tensor(np.array([0.0, 1.0, 1.0], dtype), requires_grad=True)
    losses = F.binary_cross_entropy(x, tensor(np.array([1.0, 0.0, 1.0], dtype)), reduction="none")
    np.testing.assert_array_equal(losses.detach().numpy(), [100, 100, 0])
    losses.sum().backward()
    assert np.isfinite(x.grad.numpy()).all()


@pytest.mark.parametrize("op", [F.cross_entropy, F.nll_loss, F.focal_loss])
def test_the_mean_over_no_target_is_nan(op: Any) -> None:
    loss = op(tensor(np.zeros((2, 3), np.float32)), minicnn.tensor([-100, -100]))
    assert math.isnan(loss.item())


def test_vectors_of_length_zero_have_no_gradient_and_no_nan() -> None:
    x = tensor(np.zeros((2, 3)), requires_grad=True)
    y = tensor(np.ones((2, 3)))
    (F.normalize(x).sum() + F.cosine_similarity(x, y).sum()).backward()
    assert np.isfinite(x.grad.numpy()).all()


# -- other behaviour ------------------------------------------------------------------------------


def test_focal_loss_is_its_formula(rng: np.random.Generator) -> None:
    scores = rng.standard_normal((6, 4))
    target = rng.integers(0, 4, 6)
    p = np.exp(scores)[np.arange(6), target] / np.exp(scores).sum(axis=1)
    ours = F.focal_loss(tensor(scores), tensor(target), gamma=2.5, reduction="none")
    np.testing.assert_allclose(ours.numpy(), -((1 - p) ** 2.5) * np.log(p))


def test_sigmoid_focal_loss_is_its_formula(rng: np.random.Generator) -> None:
    scores = rng.standard_normal((6, 4))
    target = rng.integers(0, 2, (6, 4)).astype(float)
    p = 1 / (1 + np.exp(-scores))
    expected = np.where(target == 1, -0.25 * (1 - p) ** 2 * np.log(p), -0.75 * p**2 * np.log(1 - p))
    np.testing.assert_allclose(F.sigmoid_focal_loss(tensor(scores), tensor(target)).numpy(), expected)


def test_the_padding_row_of_an_embedding_gets_no_gradient() -> None:
    weight = tensor(np.ones((4, 2)), requires_grad=True)
    F.embedding(minicnn.tensor([[1, 3, 3], [0, 1, 3]]), weight, padding_idx=-1).sum().backward()
    np.testing.assert_array_equal(weight.grad.numpy(), [[1, 1], [2, 2], [0, 0], [0, 0]])


def test_penalties_draw_weights_to_zero() -> None:
    for penalty, gradient in ((F.l1_penalty, [-0.5, 0.5]), (F.l2_penalty, [-3.0, 1.0])):
        w = tensor([-3.0, 1.0], requires_grad=True)
        penalty(iter([w]), 0.5).backward()
        np.testing.assert_array_equal(w.grad.numpy(), gradient)


def test_backward_computes_nothing_that_nobody_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = kernels.backend("reference")

    def refuse(*_: Any) -> None:
        raise AssertionError("a gradient was computed that nobody wants")

    for name in ("conv2d_backward_input", "linear_backward_input"):
        monkeypatch.setattr(reference, name, refuse)
    x = tensor(np.ones((2, 3, 5, 5)))
    weight = tensor(np.ones((4, 3, 3, 3)), requires_grad=True)
    F.conv2d(x, weight).sum().backward()
    dense = tensor(np.ones((2, 75)), requires_grad=True)
    F.linear(tensor(np.ones((1, 75))), dense).sum().backward()
    assert weight.grad is not None
    assert dense.grad is not None


def test_functional_has_every_name_that_it_lists_and_lists_what_is_public() -> None:
    from minicnn.functions import (
        activation,
        conv,
        distance,
        dropout,
        image,
        linear,
        loss,
        normalization,
        pooling,
    )

    families = (activation, conv, distance, dropout, image, linear, loss, normalization, pooling)
    names = {name for family in families for name in family.__all__}
    assert names - {"matmul", "quantized_avg_pool", "quantized_conv"} <= set(F.__all__)
    assert all(callable(getattr(F, name)) for name in F.__all__)
