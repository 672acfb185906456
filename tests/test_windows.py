"""Convolution and pooling for windows of any kind, against the definition and against PyTorch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import minicnn
from minicnn.nn import functional as F

DTYPES = [np.float32, np.float64]


def tensor(array: np.ndarray, requires_grad: bool = False) -> minicnn.Tensor:
    return minicnn.tensor(array, requires_grad=requires_grad)


@st.composite
def windows(draw: Any) -> dict[str, Any]:
    """An image size and a window on it that fits."""
    pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))  # noqa: E731
    window = {
        "size": draw(pair(1, 9)),
        "kernel": draw(pair(1, 4)),
        "stride": draw(pair(1, 3)),
        "padding": draw(pair(0, 3)),
        "dilation": draw(pair(1, 3)),
    }
    spans = [d * (k - 1) + 1 for d, k in zip(window["dilation"], window["kernel"], strict=True)]
    padded = (n + 2 * p for n, p in zip(window["size"], window["padding"], strict=True))
    assume(all(span <= n for span, n in zip(spans, padded, strict=True)))
    return window


def naive_conv2d(
    x: np.ndarray, w: np.ndarray, stride: Any, padding: Any, dilation: Any, groups: int
) -> np.ndarray:
    """The definition, in loops."""
    (n, _, height, width), (outputs, per_group, kh, kw) = x.shape, w.shape
    out = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (w.shape[2 + i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    ]
    y = np.zeros((n, outputs, *out), x.dtype)
    for image, o, i, j, channel, p, q in np.ndindex(n, outputs, *out, per_group, kh, kw):
        row = i * stride[0] - padding[0] + p * dilation[0]
        column = j * stride[1] - padding[1] + q * dilation[1]
        if 0 <= row < height and 0 <= column < width:
            source = o // (outputs // groups) * per_group + channel
            y[image, o, i, j] += x[image, source, row, column] * w[o, channel, p, q]
    return y


@given(
    windows(),
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 2),
    st.sampled_from(DTYPES),
)
def test_conv2d_is_its_definition(
    window: dict[str, Any], n: int, groups: int, per_group: int, multiplier: int, dtype: Any
) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, groups * per_group, *window["size"])).astype(dtype)
    w = rng.standard_normal((groups * multiplier, per_group, *window["kernel"])).astype(dtype)
    options = (window["stride"], window["padding"], window["dilation"], groups)
    ours = F.conv2d(tensor(x), tensor(w), None, *options).numpy()
    np.testing.assert_allclose(ours, naive_conv2d(x, w, *options), rtol=1e-4, atol=1e-5)


@pytest.mark.peers
@given(
    windows(),
    st.integers(0, 2),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 2),
    st.sampled_from(DTYPES),
)
def test_conv2d_and_its_gradients_equal_pytorch(
    window: dict[str, Any], n: int, groups: int, per_group: int, multiplier: int, dtype: Any
) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, groups * per_group, *window["size"])).astype(dtype)
    w = rng.standard_normal((groups * multiplier, per_group, *window["kernel"])).astype(dtype)
    b = rng.standard_normal(groups * multiplier).astype(dtype)
    options = (window["stride"], window["padding"], window["dilation"], groups)
    equal_to_pytorch("conv2d", (x, w, b), options)


@pytest.mark.peers
@given(windows(), st.booleans(), st.booleans(), st.sampled_from(DTYPES))
def test_pools_and_their_gradients_equal_pytorch(
    window: dict[str, Any], ceil_mode: bool, count_include_pad: bool, dtype: Any
) -> None:
    rng = np.random.default_rng(0)
    shape = (2, 3, *window["size"])
    x = rng.permutation(np.arange(math.prod(shape))).reshape(shape).astype(dtype)
    padding = tuple(min(p, k // 2) for p, k in zip(window["padding"], window["kernel"], strict=True))
    sizes = list(zip(window["size"], window["kernel"], padding, window["dilation"], strict=True))
    assume(all(n + 2 * p >= k for n, k, p, _ in sizes))
    options = (window["kernel"], window["stride"], padding)
    equal_to_pytorch("avg_pool2d", (x,), (*options, ceil_mode, count_include_pad))
    # PyTorch reads beyond the image where a dilated window leaps over all of it.
    if all(n + 2 * p >= d * (k - 1) + 1 and (p == 0 or n >= d) for n, k, p, d in sizes):
        equal_to_pytorch("max_pool2d", (x,), (*options, window["dilation"], ceil_mode))


def equal_to_pytorch(name: str, arrays: tuple[np.ndarray, ...], options: tuple[Any, ...]) -> None:
    """Result and all gradients."""
    torch = pytest.importorskip("torch")
    ours = [tensor(array, requires_grad=True) for array in arrays]
    theirs = [torch.from_numpy(array.copy()).requires_grad_() for array in arrays]
    y, expected = getattr(F, name)(*ours, *options), getattr(torch.nn.functional, name)(*theirs, *options)
    rtol, atol = (1e-4, 1e-4) if arrays[0].dtype == np.float32 else (1e-10, 1e-10)
    assert y.shape == tuple(expected.shape)
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=rtol, atol=atol)
    grad = np.random.default_rng(1).standard_normal(y.shape).astype(arrays[0].dtype)
    y.backward(grad)
    expected.backward(torch.from_numpy(grad))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=rtol, atol=atol)
