"""The lattice of one tensor: properties of fake quantization, and its gradients as the papers write them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minicnn
import minicnn_kernels as kernels
from minicnn import nn
from minicnn.compress import FakeQuantize
from minicnn.functions.quantization import fake_quantize
from minicnn.nn.transform import attach

BACKENDS = ("reference", "cpu")

numbers = st.floats(-1e4, 1e4, width=32)
bit_widths = st.integers(2, 16)


@st.composite
def lattices(draw, channels: int | None = None) -> tuple[np.ndarray, FakeQuantize]:
    """Values, and a quantizer that has taken its lattice from some of them."""
    rows = channels or draw(st.integers(1, 4))
    x = np.array(draw(st.lists(numbers, min_size=rows, max_size=8 * rows)), np.float32)
    x = x[: len(x) // rows * rows].reshape(rows, -1)
    symmetric = channels is not None or draw(st.booleans())
    quantizer = FakeQuantize(
        draw(bit_widths),
        signed=draw(st.booleans()),
        symmetric=symmetric,
        channels=channels,
        power_of_two=draw(st.booleans()),
    ).eval()
    quantizer.observe(minicnn.tensor(x * np.float32(draw(st.sampled_from([0.3, 1.0, 3.0])))))
    return x, quantizer


def steps(quantizer: FakeQuantize, y: np.ndarray) -> np.ndarray:
    """The whole numbers that stand for y, which must be such points."""
    scale, zero_point = (part.numpy() for part in quantizer.lattice())
    scale = scale[:, None] if scale.ndim else scale
    q = np.rint(y / scale)
    np.testing.assert_array_equal((q * scale).astype(np.float32), y)
    return q + zero_point.reshape(scale.shape)


@given(lattices())
def test_quantizing_twice_is_quantizing_once(case):
    x, quantizer = case
    once = quantizer(minicnn.tensor(x))
    np.testing.assert_array_equal(quantizer(once).numpy(), once.numpy())


@given(lattices(channels=3))
def test_quantizing_twice_is_quantizing_once_per_channel(case):
    x, quantizer = case
    once = quantizer(minicnn.tensor(x))
    np.testing.assert_array_equal(quantizer(once).numpy(), once.numpy())


@given(lattices())
def test_values_are_whole_numbers_of_so_many_bits_and_never_wrap(case):
    x, quantizer = case
    extreme = np.concatenate([x.reshape(-1), np.float32([-np.inf, -3e38, 3e38, np.inf])])
    q = steps(quantizer, quantizer(minicnn.tensor(extreme)).numpy())
    assert q.min() == q[-4] == q[-3] == quantizer.quant_min
    assert q.max() == q[-1] == q[-2] == quantizer.quant_max
    assert quantizer.quant_max - quantizer.quant_min <= 2**quantizer.bits - 1
    order = np.argsort(extreme)
    assert (np.diff(q[order]) >= 0).all()


@given(lattices())
def test_zero_is_exact(case):
    _, quantizer = case
    assert quantizer(minicnn.zeros(2)).numpy().tolist() == [0, 0]


@given(bit_widths, st.booleans(), st.lists(numbers, min_size=1, max_size=20))
def test_what_was_observed_errs_by_half_a_step_at_most(bits, symmetric, values):
    quantizer = FakeQuantize(bits, symmetric=symmetric).eval()
    x = minicnn.tensor(values)
    quantizer.observe(x)
    scale = float(quantizer.scale.numpy())
    # An affine range is moved by up to half a step so that 0 is a point of it (Jacob et al. 2018, section 3).
    allowed = 0.5 if symmetric else 1.0
    assert (abs(quantizer(x) - x).numpy() <= allowed * scale * (1 + 1e-4) + 1e-30).all()


@given(bit_widths, st.floats(0.0009765625, 1e4, width=32), st.sampled_from([-1, 1]))
def test_a_constant_tensor_keeps_its_value(bits, size, sign):
    x = minicnn.full((3, 2), sign * size)
    for quantizer in (FakeQuantize(bits), FakeQuantize(bits, signed=False, symmetric=False)):
        quantizer.eval().observe(x)
        np.testing.assert_allclose(quantizer(x).numpy(), x.numpy(), rtol=1e-6)


@given(lattices(channels=3))
def test_a_dead_channel_stays_zero_and_troubles_no_other(case):
    x, quantizer = case
    x[1] = 0
    quantizer.observe(minicnn.tensor(x))
    scale = quantizer.scale.numpy()
    assert (scale > 0).all()
    assert np.isfinite(scale).all()
    y = quantizer(minicnn.tensor(x)).numpy()
    assert not y[1].any()
    alone = FakeQuantize(quantizer.bits, signed=quantizer.signed, power_of_two=quantizer.power_of_two).eval()
    biggest = int(np.argmax(scale))
    if x[biggest].any():
        alone.observe(minicnn.tensor(x[biggest]))
        np.testing.assert_array_equal(alone(minicnn.tensor(x[biggest])).numpy(), y[biggest])


@given(lattices(channels=4))
def test_no_channel_is_finer_than_a_256th_of_the_coarsest(case):
    """A folded batch norm with gamma near 0 leaves weights so small that a bias in their steps overflows."""
    _, quantizer = case
    scale = quantizer.scale.numpy()
    assert scale.max() <= 512 * scale.min()  # 256 before it is rounded to powers of two


@given(bit_widths, st.lists(numbers, min_size=1, max_size=20))
def test_power_of_two_scales_are_the_smallest_that_hold_the_range(bits, values):
    quantizer, exact = FakeQuantize(bits, power_of_two=True), FakeQuantize(bits)
    for one in (quantizer, exact):
        one.observe(minicnn.tensor(values))
    scale, wanted = float(quantizer.scale.numpy()), float(exact.scale.numpy())
    assert math.frexp(scale)[0] == 0.5
    assert scale >= wanted * (1 - 1e-6)
    assert scale / 2 < wanted


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [None, 2])
def test_nan_stays_nan_and_does_not_widen_the_range(backend, channels):
    x = minicnn.tensor([[1.0, float("nan"), -2.0], [0.5, 4.0, float("nan")]])
    with kernels.use(backend):
        quantizer = FakeQuantize(8, channels=channels).eval()
        quantizer.observe(x)
        y = quantizer(x).numpy()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x.numpy()))
    assert np.isfinite(quantizer.scale.numpy()).all()
    np.testing.assert_allclose(y[~np.isnan(y)], [1.0, -2.0, 0.5, 4.0], atol=0.02)


@pytest.mark.parametrize("axis", [None, 0, 1, 3])
@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("images", [False, True], ids=["rows", "channels last"])
def test_cpu_equals_reference_bit_for_bit(rng, axis, bits, images):
    x = rng.standard_normal((5, 6, 7, 8)).astype(np.float32)
    if images:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    grad = rng.standard_normal(x.shape).astype(np.float32)
    reference, cpu = (kernels.backend(name) for name in BACKENDS)
    qmin, qmax = -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1
    for one, other in zip(reference.value_range(x, axis), cpu.value_range(x, axis), strict=True):
        np.testing.assert_array_equal(one, other)
    low, high = reference.value_range(x * np.float32(0.7), axis)
    scale, zero_point = reference.choose_scale(low, high, qmin, qmax, axis is not None, False)
    lattice = scale, zero_point, qmin, qmax, axis
    np.testing.assert_array_equal(
        reference.fake_quantize_forward(x, *lattice), cpu.fake_quantize_forward(x, *lattice)
    )
    np.testing.assert_array_equal(
        reference.fake_quantize_backward(grad, x, *lattice), cpu.fake_quantize_backward(grad, x, *lattice)
    )
    np.testing.assert_allclose(  # a sum, so only nearly
        reference.fake_quantize_backward_scale(grad, x, *lattice),
        cpu.fake_quantize_backward_scale(grad, x, *lattice),
        rtol=1e-4,
        atol=1e-4 * qmax,
    )


# -- gradients, as the papers write them ----------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_straight_through_gradient_is_that_of_the_clamp(backend, rng):
    """Jacob et al. 2018, eq. 12: q(r; a, b, n) rounds clamp(r; a, b); rounding counts as the identity.

    So a gradient passes where a <= r <= b, with a = (qmin - z) s and b = (qmax - z) s.
    """
    r = rng.uniform(-3, 3, 50).astype(np.float32)
    s, z, qmin, qmax = np.float32(0.25), 3, 0, 15
    a, b = (qmin - z) * s, (qmax - z) * s
    upstream = rng.standard_normal(50).astype(np.float32)
    with kernels.use(backend):
        x = minicnn.tensor(r, requires_grad=True)
        y = fake_quantize(x, minicnn.tensor(s), minicnn.tensor(np.int32(z)), qmin, qmax)
        y.backward(minicnn.tensor(upstream))
    np.testing.assert_array_equal(y.detach().numpy(), np.rint(np.clip(r, a, b) / s) * s)
    np.testing.assert_array_equal(x.grad.numpy(), np.where((r >= a) & (r <= b), upstream, 0))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("signed", [True, False])
def test_gradient_of_a_learned_step_is_lsq_equation_3(backend, bits, signed, rng):
    """Esser et al. 2020: with v / s for v, Q_N = 2^(b-1) - 1 here (symmetric) and Q_P = 2^(b-1) - 1, or

    0 and 2^b - 1 for unsigned data: d v_hat / d s is -v/s + round(v/s) if -Q_N < v/s < Q_P, -Q_N if
    v/s <= -Q_N, Q_P if v/s >= Q_P (eq. 3), and d v_hat / d v is 1 in between, else 0 (eq. 5). The gradient
    of s is multiplied by g = 1 / sqrt(N_W Q_P) for weights (section 2.2).
    """
    q_n, q_p = (2 ** (bits - 1) - 1, 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    s = 0.13
    w = (rng.standard_normal((4, 6)) * s * q_p * 0.7).astype(np.float32)
    upstream = rng.standard_normal((4, 6)).astype(np.float32)
    layer = nn.Linear(6, 4, bias=False)
    layer.weight.detach().copy_(minicnn.tensor(w))
    quantizer = attach(layer, "weight", FakeQuantize(bits, signed=signed, learned=True))
    quantizer.scale.detach().fill_(s)
    with kernels.use(backend):
        layer.weight.backward(minicnn.tensor(upstream))

    by_scale, by_value = 0.0, np.zeros_like(w)
    for i, v in np.ndenumerate(w.astype(np.float64) / np.float32(s)):
        if v <= -q_n:
            derivative = -q_n
        elif v >= q_p:
            derivative = q_p
        else:
            derivative = -v + np.rint(v)
            by_value[i] = upstream[i]
        by_scale += upstream[i] * derivative
    g = 1 / math.sqrt(w.size * q_p)
    np.testing.assert_allclose(quantizer.scale.grad.numpy(), by_scale * g, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(layer._parameters["weight"].grad.numpy(), by_value)


def test_gradient_scale_of_an_activation_counts_the_features_of_one_image():
    """LSQ, section 2.2: g = 1 / sqrt(N_F Q_P) with N_F features, however many images are in the batch."""
    grads = []
    for images in (1, 7):
        layer = nn.Identity()
        quantizer = attach(layer, "output", FakeQuantize(4, signed=False, learned=True))
        x = minicnn.full((images, 3, 2), 100.0)
        layer(x).backward(minicnn.ones(images, 3, 2) / images)
        grads.append(quantizer.scale.grad.item())
    assert grads[0] == pytest.approx(grads[1], rel=1e-5)
    assert grads[0] == pytest.approx(6 * 15 / math.sqrt(6 * 15), rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_range_is_a_moving_average_of_the_batches_ranges(backend, rng):
    """Jacob et al. 2018, section 3.1: exponential moving averages; the first batch is taken as it is."""
    quantizer = FakeQuantize(8, symmetric=False, momentum=0.1)
    low = high = None
    with kernels.use(backend):
        for _ in range(4):
            x = rng.standard_normal(30).astype(np.float32)
            y = quantizer(minicnn.tensor(x)).numpy()
            low = x.min() if low is None else low + 0.1 * (x.min() - low)
            high = x.max() if high is None else high + 0.1 * (x.max() - high)
            scale, zero_point = (high - low) / 255, np.rint(-128 - low / ((high - low) / 255))
            np.testing.assert_allclose(quantizer.low.numpy(), low, rtol=1e-5)
            np.testing.assert_allclose(quantizer.scale.numpy(), scale, rtol=1e-5)
            assert quantizer.zero_point.numpy() == zero_point
            assert len(np.unique(y)) <= 256
    before = quantizer.scale.numpy().copy()
    quantizer.eval()(minicnn.tensor([1000.0]))
    np.testing.assert_array_equal(quantizer.scale.numpy(), before)


def test_the_largest_weight_gets_its_gradient():
    """Its quotient by a scale that was rounded must not lie a hair outside of the range."""
    for i in range(300):
        w = minicnn.tensor(np.float32([0.1 + i * 1e-3, -0.05]), requires_grad=True)
        FakeQuantize(8, momentum=1.0)(w).sum().backward()
        assert w.grad.numpy().tolist() == [1, 1], w


# -- bad arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 1}, "bits from 2 to 16, got 1"),
        ({"bits": 17}, "bits from 2 to 16, got 17"),
        ({"bits": 8.0}, "bits from 2 to 16, got 8.0"),
        ({"bits": True}, "bits from 2 to 16, got True"),
        ({"momentum": 0.0}, "momentum in"),
        ({"learned": True, "symmetric": False}, "learned scale is symmetric"),
        ({"learned": True, "power_of_two": True}, "learned scale is symmetric"),
    ],
)
def test_a_quantizer_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FakeQuantize(**options)


# -- the listings of the articles, put right ------------------------------------------------------


def test_article_000_sections_3_5_and_4_5_a_layer_of_small_weights_survives(rng):
    """Their round(w 255/128) makes every weight below 0.25 zero, and the text's "modulo" wraps large ones."""
    w = (rng.standard_normal((32, 32, 3, 3)) * 0.05).astype(np.float32)
    theirs = np.round(w / 2**7 * (2**8 - 1))
    assert not theirs.any()
    quantizer = FakeQuantize(8).eval()
    quantizer.observe(minicnn.tensor(w))
    assert quantizer.scale.item() == pytest.approx(abs(w).max() / 127, rel=1e-5)
    error = quantizer(minicnn.tensor(w)).numpy() - w
    assert abs(error).max() <= quantizer.scale.item() * 0.5001
    assert quantizer(minicnn.tensor([1e6])).item() == pytest.approx(abs(w).max(), rel=1e-5)  # no wrapping


def test_article_002_uint8_negative_weights_stay_negative():
    """Their round(w 256) as uint8 turns -0.01 into 253, and nothing turns the numbers back into weights."""
    w = np.float32([-0.01, 0.02, 0.5, -0.3])
    theirs = np.round(w * 256).astype(np.int64).astype(np.uint8)
    assert theirs[0] == 253
    for quantizer in (FakeQuantize(8), FakeQuantize(8, signed=False, symmetric=False)):
        quantizer.eval().observe(minicnn.tensor(w))
        np.testing.assert_allclose(quantizer(minicnn.tensor(w)).numpy(), w, atol=0.004)


def test_article_003_section_3_2_fixed_point_saturates():
    """Their round(w 2^p) has no clamp; ours is the fixed point whose range holds the weights."""
    quantizer = FakeQuantize(8, power_of_two=True).eval()
    quantizer.observe(minicnn.tensor([0.9, -0.4]))
    assert quantizer.scale.item() == 2**-7
    y = quantizer(minicnn.tensor([0.9, -0.4, 5.0, -5.0])).numpy()
    np.testing.assert_array_equal(y * 2**7, [115, -51, 127, -127])
