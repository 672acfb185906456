"""Bad arguments of `minicnn.nn.functional`: each message says what came, what fits, and often the fix."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minicnn
from minicnn import scope
from minicnn.nn import functional as F


def t(*shape: int, dtype: Any = np.float32) -> minicnn.Tensor:
    return minicnn.tensor(np.full(shape, 0.5, dtype))


def labels(*values: int) -> minicnn.Tensor:
    return minicnn.tensor(list(values))


IMAGES, KERNEL = t(2, 3, 8, 8), t(4, 3, 3, 3)

BAD_VALUES: list[tuple[str, Callable[[], Any], str]] = [
    # convolution
    (
        "conv2d ndim",
        lambda: F.conv2d(t(3, 8), KERNEL),
        "expected input (N, 3, H, W) or (3, H, W), got shape (3, 8)",
    ),
    (
        "conv2d channels",
        lambda: F.conv2d(t(2, 5, 8, 8), KERNEL),
        "expected input with 3 channels (N, 3, H, W), got (2, 5, 8, 8). Is a layer missing before it?",
    ),
    (
        "conv2d channels last",
        lambda: F.conv2d(t(2, 8, 8, 3), KERNEL),
        "Are the channels last? permute(0, 3, 1, 2)",
    ),
    (
        "conv2d weight",
        lambda: F.conv2d(IMAGES, t(4, 3, 3)),
        "expected weight (O, C/groups, kh, kw), got shape (4, 3, 3)",
    ),
    ("conv2d bias", lambda: F.conv2d(IMAGES, KERNEL, t(3)), "expected bias (4,), one per output, got (3,)"),
    (
        "conv2d groups",
        lambda: F.conv2d(t(2, 9, 8, 8), KERNEL, groups=3),
        "expected groups to divide the 4 outputs of the weight, got groups=3",
    ),
    (
        "conv2d groups 0",
        lambda: F.conv2d(IMAGES, KERNEL, groups=0),
        "expected groups to be an integer of at least 1, got 0",
    ),
    (
        "conv2d stride 0",
        lambda: F.conv2d(IMAGES, KERNEL, stride=(1, 0)),
        "expected stride to be an integer of at least 1, or 2 of them, got (1, 0)",
    ),
    (
        "conv2d stride -1",
        lambda: F.conv2d(IMAGES, KERNEL, stride=-1),
        "expected stride to be an integer of at least 1",
    ),
    (
        "conv2d stride 1.5",
        lambda: F.conv2d(IMAGES, KERNEL, stride=1.5),
        "expected stride to be an integer of at least 1",
    ),
    (
        "conv2d three strides",
        lambda: F.conv2d(IMAGES, KERNEL, stride=(1, 1, 1)),
        "or 2 of them, got (1, 1, 1)",
    ),
    (
        "conv2d dilation",
        lambda: F.conv2d(IMAGES, KERNEL, dilation=0),
        "expected dilation to be an integer of at least 1",
    ),
    (
        "conv2d padding",
        lambda: F.conv2d(IMAGES, KERNEL, padding=-1),
        "expected padding to be an integer of at least 0",
    ),
    (
        "conv2d padding name",
        lambda: F.conv2d(IMAGES, KERNEL, padding="full"),
        "'valid' or 'same', got 'full'",
    ),
    (
        "conv2d same, strided",
        lambda: F.conv2d(IMAGES, KERNEL, stride=2, padding="same"),
        "padding='same' needs stride 1",
    ),
    (
        "conv2d kernel too large",
        lambda: F.conv2d(t(2, 3, 3, 8), KERNEL, dilation=2),
        "kernel of size (5, 5) (dilation included) is larger than the padded input (3, 8)",
    ),
    (
        "conv1d ndim",
        lambda: F.conv1d(IMAGES, t(4, 3, 3)),
        "expected input (N, 3, L) or (3, L), got shape (2, 3, 8, 8)",
    ),
    ("conv1d kernel too large", lambda: F.conv1d(t(2, 3, 2), t(4, 3, 3)), "kernel of size (3,)"),
    (
        "conv_transpose2d channels",
        lambda: F.conv_transpose2d(IMAGES, KERNEL),
        "expected input with 4 channels (N, 4, H, W), got (2, 3, 8, 8)",
    ),
    (
        "conv_transpose2d output_padding",
        lambda: F.conv_transpose2d(t(2, 4, 8, 8), KERNEL, stride=2, output_padding=2),
        "expected output_padding smaller than stride or dilation, got (2, 2)",
    ),
    (
        "conv_transpose2d padding",
        lambda: F.conv_transpose2d(t(2, 4, 1, 1), KERNEL, padding=2),
        "padding (2, 2) leaves nothing",
    ),
    (
        "conv_transpose2d groups",
        lambda: F.conv_transpose2d(t(2, 4, 8, 8), KERNEL, groups=3),
        "expected groups to divide the 4 channels of input, got groups=3",
    ),
    ("unfold", lambda: F.unfold(t(2, 3, 2, 2), 3), "kernel of size (3, 3)"),
    ("fold", lambda: F.fold(t(2, 12, 7), (4, 4), 2), "expected input (N, C*4, 9) for output_size (4, 4)"),
    # dense
    (
        "linear after images",
        lambda: F.linear(t(2, 3, 4, 4), t(10, 48)),
        "expected input with 48 features (..., 48), got (2, 3, 4, 4). Is a Flatten missing before it?",
    ),
    ("linear", lambda: F.linear(t(2, 5), t(10, 48)), "got (2, 5). Is a layer missing before it?"),
    ("linear weight", lambda: F.linear(t(2, 5), t(5)), "expected weight (out, in), got shape (5,)"),
    (
        "linear bias",
        lambda: F.linear(t(2, 5), t(3, 5), t(5)),
        "expected bias (3,) for weight (3, 5), got (5,)",
    ),
    ("bilinear", lambda: F.bilinear(t(2, 5), t(2, 4), t(3, 4, 5)), "got (2, 5), (2, 4) and (3, 4, 5)"),
    (
        "matmul",
        lambda: minicnn.matmul(t(2, 3), t(2, 3)),
        "expected (..., M, K) and (..., K, N) with one K, got (2, 3)",
    ),
    ("matmul of a number", lambda: minicnn.matmul(t(), t(2, 3)), "use * for numbers"),
    ("embedding", lambda: F.embedding(labels(0, 7), t(5, 2)), "expected indices in [0, 5), got 7"),
    ("embedding below", lambda: F.embedding(labels(0, -1), t(5, 2)), "expected indices in [0, 5), got -1"),
    (
        "embedding padding",
        lambda: F.embedding(labels(0), t(5, 2), 5),
        "expected padding_idx from -5 to 4, got 5",
    ),
    # pooling
    ("max_pool2d ndim", lambda: F.max_pool2d(t(8, 8), 2), "expected input (N, C, H, W) or (C, H, W)"),
    (
        "max_pool2d no pixels",
        lambda: F.max_pool2d(t(2, 3, 0, 8), 2),
        "with pixels in it, got shape (2, 3, 0, 8)",
    ),
    (
        "max_pool2d padding",
        lambda: F.max_pool2d(IMAGES, 2, padding=2),
        "expected padding of at most half the kernel, got (2, 2)",
    ),
    (
        "max_pool2d kernel too large",
        lambda: F.max_pool2d(t(2, 3, 4, 4), 5),
        "kernel of size (5, 5) is larger than the padded input (4, 4)",
    ),
    (
        "max_pool2d kernel 0",
        lambda: F.max_pool2d(IMAGES, 0),
        "expected kernel_size to be an integer of at least 1",
    ),
    (
        "max_pool2d stride 0",
        lambda: F.max_pool2d(IMAGES, 2, 0),
        "expected stride to be an integer of at least 1",
    ),
    (
        "avg_pool2d padding",
        lambda: F.avg_pool2d(IMAGES, 3, padding=2),
        "expected padding of at most half the kernel",
    ),
    (
        "avg_pool2d divisor",
        lambda: F.avg_pool2d(IMAGES, 2, divisor_override=0),
        "divisor_override other than 0",
    ),
    ("max_pool1d ndim", lambda: F.max_pool1d(IMAGES, 2), "expected input (N, C, L) or (C, L)"),
    (
        "adaptive size",
        lambda: F.adaptive_avg_pool2d(IMAGES, (0, 2)),
        "expected output_size to be an integer of at least 1",
    ),
    ("adaptive sizes", lambda: F.adaptive_avg_pool2d(IMAGES, (1, 2, 3)), "or 2 of them, got (1, 2, 3)"),
    # normalization
    (
        "batch_norm of one value",
        lambda: F.batch_norm(t(1, 3), None, None, training=True),
        "expected more than one value per channel in training, got shape (1, 3); use a larger batch",
    ),
    (
        "batch_norm ndim",
        lambda: F.batch_norm(t(3), None, None, training=True),
        "expected input (N, C, ...), got shape (3,)",
    ),
    (
        "batch_norm without statistics",
        lambda: F.batch_norm(t(2, 3), None, None),
        "running_mean and running_var are missing",
    ),
    (
        "batch_norm channels",
        lambda: F.batch_norm(IMAGES, t(4), t(4)),
        "expected input with 4 channels (N, 4, ...) as running_mean (4,) has, got (2, 3, 8, 8)",
    ),
    ("batch_norm weight", lambda: F.batch_norm(IMAGES, t(3), t(3), t(2)), "as weight (2,) has"),
    (
        "instance_norm of one pixel",
        lambda: F.instance_norm(t(2, 3, 1, 1)),
        "more than one position per image and channel",
    ),
    ("layer_norm", lambda: F.layer_norm(t(2, 5), (4,)), "expected input (..., 4), got (2, 5)"),
    ("layer_norm weight", lambda: F.layer_norm(t(2, 5), (5,), t(4)), "expected weight (5,), got (4,)"),
    ("group_norm", lambda: F.group_norm(t(2, 5), 2), "expected num_groups to divide 5 channels, got 2"),
    (
        "local_response_norm",
        lambda: F.local_response_norm(t(2, 5), 2),
        "expected input (N, C, ...) of three dimensions",
    ),
    # dropout and activations
    ("dropout", lambda: F.dropout(t(3), 1.5), "expected p in [0, 1], got 1.5"),
    ("dropout2d", lambda: F.dropout2d(t(3, 4)), "expected input (N, C, H, W)"),
    ("softmax without dim", lambda: F.softmax(t(2, 3)), "dim is missing; for scores (N, classes) it is 1"),
    ("softmax dim", lambda: F.softmax(t(2, 3), 2), "expected dim to be an integer from -2 to 1, got 2"),
    ("gelu", lambda: F.gelu(t(3), approximate="sigmoid"), "expected approximate to be one of 'none', 'tanh'"),
    ("hardtanh", lambda: F.hardtanh(t(3), 1.0, -1.0), "expected min_val <= max_val, got 1.0 and -1.0"),
    # losses
    (
        "cross_entropy target",
        lambda: F.cross_entropy(t(3, 5), labels(1, 5, 2)),
        "expected targets in [0, 5), got 5 at position 1; is the number of outputs right",
    ),
    ("cross_entropy target below", lambda: F.cross_entropy(t(2, 5), labels(1, -1)), "got -1 at position 1"),
    (
        "cross_entropy target shape",
        lambda: F.cross_entropy(t(2, 5), labels(1, 2, 3)),
        "expected target of shape (2,) for input (2, 5), got (3,)",
    ),
    (
        "cross_entropy weight",
        lambda: F.cross_entropy(t(2, 5), labels(1, 2), t(4)),
        "expected weight (5,), one per class",
    ),
    (
        "cross_entropy reduction",
        lambda: F.cross_entropy(t(2, 5), labels(1, 2), reduction="avg"),
        "expected reduction to be one of 'none', 'mean', 'sum', got 'avg'",
    ),
    (
        "cross_entropy smoothing",
        lambda: F.cross_entropy(t(2, 5), labels(1, 2), label_smoothing=2),
        "expected label_smoothing in [0, 1], got 2",
    ),
    (
        "cross_entropy of probabilities, ignoring",
        lambda: F.cross_entropy(t(2, 5), t(2, 5), ignore_index=1),
        "ignore_index is for targets of class indices",
    ),
    ("nll_loss target", lambda: F.nll_loss(t(3, 5), labels(1, 2, 9)), "got 9 at position 2"),
    (
        "mse_loss",
        lambda: F.mse_loss(t(8, 1), t(8)),
        "expected one shape, got input (8, 1) and target (8,); reshape one of them",
    ),
    ("huber_loss", lambda: F.huber_loss(t(3), t(3), delta=0), "expected delta above 0, got 0"),
    ("smooth_l1_loss", lambda: F.smooth_l1_loss(t(3), t(3), beta=-1), "expected beta of at least 0, got -1"),
    (
        "binary_cross_entropy of logits",
        lambda: F.binary_cross_entropy(t(3) * 4, t(3)),
        "expected probabilities in [0, 1]; logits go to binary_cross_entropy_with_logits",
    ),
    (
        "binary_cross_entropy shapes",
        lambda: F.binary_cross_entropy_with_logits(t(3), t(3, 1)),
        "expected one shape",
    ),
    ("kl_div reduction", lambda: F.kl_div(t(3), t(3), reduction="sample"), "'batchmean', got 'sample'"),
    (
        "focal_loss",
        lambda: F.focal_loss(t(2, 3), labels(0, 1), gamma=-1),
        "expected gamma of at least 0, got -1",
    ),
    (
        "sigmoid_focal_loss",
        lambda: F.sigmoid_focal_loss(t(3), t(3), alpha=2),
        "expected alpha in [0, 1], or -1",
    ),
    ("triplet_margin_loss", lambda: F.triplet_margin_loss(t(2, 3), t(2, 3), t(2, 4)), "negative (2, 4)"),
    (
        "cosine_embedding_loss",
        lambda: F.cosine_embedding_loss(t(2, 3), t(2, 3), labels(1)),
        "target (N,), got (2, 3)",
    ),
    ("l1_penalty", lambda: F.l1_penalty([]), "got no parameters; a generator such as model.parameters()"),
    # images
    (
        "pad count",
        lambda: F.pad(IMAGES, (1, 2, 3)),
        "expected two counts for each of up to 4 dimensions, got (1, 2, 3)",
    ),
    (
        "pad reflect",
        lambda: F.pad(IMAGES, (8, 0), mode="reflect"),
        "expected counts from 0 to 7 in mode 'reflect' for size 8",
    ),
    ("pad mode", lambda: F.pad(IMAGES, (1, 1), mode="edge"), "expected mode to be one of 'constant'"),
    ("pad cuts", lambda: F.pad(t(3), (-4, 0)), "(-4, 0) cuts off more than there is in shape (3,)"),
    (
        "interpolate both",
        lambda: F.interpolate(IMAGES, size=3, scale_factor=2),
        "expected size or scale_factor, one of them",
    ),
    (
        "interpolate mode",
        lambda: F.interpolate(IMAGES, size=3, mode="cubic"),
        "expected mode to be one of 'nearest', 'bilinear'",
    ),
    ("interpolate to nothing", lambda: F.interpolate(IMAGES, scale_factor=0.01), "leaves nothing of shape"),
    (
        "pixel_shuffle",
        lambda: F.pixel_shuffle(IMAGES, 2),
        "expected input (..., C*4, H, W), got shape (2, 3, 8, 8)",
    ),
    ("pixel_unshuffle", lambda: F.pixel_unshuffle(IMAGES, 3), "expected input (..., C, H*3, W*3)"),
]

BAD_TYPES: list[tuple[str, Callable[[], Any], str]] = [
    (
        "mixed dtypes",
        lambda: F.conv2d(t(2, 3, 8, 8, dtype=np.float64), KERNEL),
        "got input float64 and weight float32; convert one, for example with input.to(minicnn.float32)",
    ),
    (
        "bytes",
        lambda: F.conv2d(t(2, 3, 8, 8, dtype=np.uint8), KERNEL),
        "expected input of float32 or float64, got uint8",
    ),
    (
        "an array",
        lambda: F.relu(np.zeros(3)),
        "expected input to be a Tensor, got ndarray; wrap it in minicnn.tensor(...)",
    ),
    (
        "float targets",
        lambda: F.cross_entropy(t(2, 5), t(2)),
        "expected target of class indices (int64), got float32; convert it with .long()",
    ),
    ("float indices", lambda: F.embedding(t(2), t(5, 2)), "expected input of integers, got float32"),
    ("mixed statistics", lambda: F.batch_norm(IMAGES, t(3, dtype=np.float64), t(3)), "running_mean float64"),
]


@pytest.mark.parametrize(("call", "message"), [pytest.param(c, m, id=name) for name, c, m in BAD_VALUES])
def test_a_bad_value_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        call()
    assert re.match(r"\w+: ", str(caught.value)), "the message begins with the op"


@pytest.mark.parametrize(("call", "message"), [pytest.param(c, m, id=name) for name, c, m in BAD_TYPES])
def test_a_bad_type_is_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        call()


def test_the_message_begins_with_the_layer() -> None:
    scope.push("Net", "")
    scope.push("Conv2d", "features.3")
    try:
        with pytest.raises(
            ValueError, match=re.escape("Conv2d 'features.3': expected input with 3 channels")
        ):
            F.conv2d(t(2, 5, 8, 8), KERNEL)
    finally:
        scope.pop()
        scope.pop()


def test_inplace_on_a_leaf_is_refused() -> None:
    with pytest.raises(RuntimeError, match="relu: inplace=True on a leaf that requires a gradient"):
        F.relu(minicnn.tensor([1.0], requires_grad=True), inplace=True)
