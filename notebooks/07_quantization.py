# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 Quantization: from rounding to bit-exact integers
#
# Weights and activations are stored with 32 bits each. Eight are enough, often four. *Quantization* rounds them to few
# values, makes files four times smaller and more, and lets a processor compute in whole numbers. This notebook starts with
# rounding one number and ends with a network whose answers, computed in integers, are the *same bits* as those that were
# tested.

# %% tags=["setup"]
import copy
import os
import tempfile
from pathlib import Path

import numpy as np

import minicnn
from minicnn import compress, data, deploy, models, optim, viz
from minicnn.nn import transform

FAST = os.environ.get("MINICNN_FAST") == "1"  # a short run: fewer images
generator = minicnn.manual_seed(0)

# %% [markdown]
# ## Rounding to a lattice
#
# Choose a *scale* $s$. Every value becomes the nearest multiple of it: $q = \mathrm{round}(x / s)$ is a whole number, and
# $s\,q$ stands for $x$. With $b$ bits and both signs there are whole numbers from $-(2^{b-1} - 1)$ to $2^{b-1} - 1$, for 8
# bits from $-127$ to $127$. What lies beyond must be *saturated*, that is, take the largest number there is. If the
# largest $|x|$ just fits,
#
# $$ s = \frac{\max |x|}{2^{b-1} - 1}, \qquad q = \mathrm{clip}\big(\mathrm{round}(x / s),\, -(2^{b-1}-1),\, 2^{b-1}-1\big), $$
#
# then nothing saturates, and the error is at most $s / 2$. Zero stays zero, which pruned weights need.
#
# ### Exercise 1: quantize symmetrically


# %% tags=["exercise"]
def quantize(x, scale, bits=8):
    """Whole numbers for the values x (array), rounded and saturated."""
    # <solution: Divide, round with np.rint, and limit with np.clip to -(2^(bits-1) - 1) ... 2^(bits-1) - 1.>
    limit = 2 ** (bits - 1) - 1
    return np.clip(np.rint(x / scale), -limit, limit).astype(np.int32)
    # </solution>


# %% tags=["check"]
values = np.array([0.0, 0.04, -0.06, 1.0, -3.0])
found = quantize(values, 0.1, bits=4)
assert found.tolist() == [0, 0, -1, 7, -7], (
    f"with scale 0.1 and 4 bits (-7 to 7) these are 0 0 -1 7 -7, yours {found.tolist()}"
)
numbers = np.random.default_rng(0).normal(size=1000)
scale = np.abs(numbers).max() / 127
assert np.abs(quantize(numbers, scale) * scale - numbers).max() <= scale / 2 + 1e-12, (
    "the error must be at most half a step"
)
print("right")

# %% [markdown]
# A network to work with, and what four bits do to the weights of its second convolution:

# %%
train_set = data.Subset(data.FashionMNIST(train=True), range(2_000 if FAST else 8_000))
test_set = data.Subset(data.FashionMNIST(train=False), range(1_000 if FAST else 2_000))
test_loader = data.DataLoader(test_set, 250)


def accuracy(model):
    return minicnn.evaluate(model, test_loader).accuracy


def train(model, epochs, lr=0.05):
    loader = data.DataLoader(train_set, 64, shuffle=True, seed=1)
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))
    minicnn.fit(
        model,
        loader,
        optimizer=optimizer,
        epochs=epochs,
        scheduler=schedule,
        scheduler_step="batch",
        progress=False,
    )


network = models.create("simple", width=0.5)
train(network, epochs=3)
weight = network.conv2.weight.detach().numpy()
print(f"test accuracy in 32-bit floats: {accuracy(network):.2%}")
viz.quantization_grid(weight, np.abs(weight).max() / 7, low=-7, high=7)

# %% [markdown]
# ### The scale is everything
#
# Two wrong ways that one can find in print. A *fixed* scale that does not look at the weights: multiply by 2 and round.
# And storing negative numbers as unsigned bytes, where they *wrap around* to large positive ones.

# %%
print("round(2 w): different values left in the layer:", np.unique(np.rint(2 * weight)))
wrapped = np.round(np.array([-0.01]) * 256).astype(np.int64) % 256
print("-0.01 as an unsigned byte:", wrapped[0], "(of at most 255)")

# %% [markdown]
# ## With a zero point
#
# After a ReLU there are no negative values, and half of a symmetric lattice would be wasted. An *affine* lattice moves
# zero: whole numbers $q$ from 0 to $2^b - 1$, and a *zero point* $z$ among them stands for 0:
#
# $$ x \approx s\,(q - z), \qquad q = \mathrm{clip}(\mathrm{round}(x / s) + z,\ 0,\ 2^b - 1). $$
#
# For values from $x_{min} \le 0$ to $x_{max} \ge 0$ (zero must be in the range, for padding is zero):
# $s = (x_{max} - x_{min}) / (2^b - 1)$ and $z = \mathrm{round}(-x_{min} / s)$.
#
# ### Exercise 2: scale and zero point


# %% tags=["exercise"]
def affine_lattice(x, bits=8):
    """(scale, zero_point) of the affine lattice for the values x."""
    # <solution: Widen the range of x so that it holds 0, then use the two formulas above.>
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = (high - low) / (2**bits - 1)
    return scale, round(-low / scale)
    # </solution>


# %% tags=["check"]
scale, zero_point = affine_lattice(np.array([-1.0, 3.0]), bits=2)
assert abs(scale - 4 / 3) < 1e-9, f"from -1 to 3 in three steps: the scale is 4/3, yours {scale}"
assert zero_point == 1, f"zero lies one step above the bottom, yours {zero_point}"
scale, zero_point = affine_lattice(np.array([2.0, 5.0]))
assert zero_point == 0, "the range must hold 0 even if no value is near it: then zero is the lowest point"
assert abs(scale - 5 / 255) < 1e-9, "from 0 to 5 in 255 steps"
print("right")

# %% [markdown]
# ## One scale for a layer, or one for each filter?
#
# Filters differ in size. With one scale for all, the largest decides, and small filters get only a few of the points. A scale
# *per output channel* costs four bytes for each filter, and nothing in the computation.

# %%
print("bits   error with one scale   with one for each filter   (root mean square, relative)")
for bits in (8, 6, 4, 3, 2):
    limit = 2 ** (bits - 1) - 1
    one = np.abs(weight).max() / limit
    each = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / limit
    errors = [
        np.sqrt(np.mean((quantize(weight, s, bits) * s - weight) ** 2)) / weight.std() for s in (one, each)
    ]
    print(f"{bits:4} {errors[0]:18.2%} {errors[1]:25.2%}")

# %% [markdown]
# ## Computing in whole numbers
#
# A dense layer computes $y_o = \sum_i w_{oi} x_i + b_o$. With $x_i = s_x (q_i - z)$ and $w_{oi} = s_o\, p_{oi}$ the scales can
# be taken out of the sum:
#
# $$ y_o = s_x s_o \Big( \sum_i p_{oi}\,(q_i - z) + \beta_o \Big), \qquad \beta_o = \mathrm{round}\big(b_o / (s_x s_o)\big). $$
#
# In the bracket are only whole numbers: products of bytes, added up in 32 bits, *exactly*. No rounding, and so no
# dependence on the order. One multiplication at the end brings the sum to the lattice of the next layer, with scale $s_y$:
#
# $$ q_y = \mathrm{clip}\big(\mathrm{round}(a \cdot s_x s_o / s_y) + z_y,\ 0,\ 255\big), \qquad a = \text{the bracket}. $$
#
# This step is called *requantization*. As numbers below 0 are cut off anyway when $z_y = 0$, it does the work of ReLU, too.
#
# ### Exercise 3: requantize
#
# To agree with other programs to the last bit, everybody must round alike: multiply in 32-bit floats, round halves to the
# nearest *even* number (`np.rint` does).


# %% tags=["exercise"]
def requantize(sums, factor, zero_point=0):
    """Sums (int) to bytes 0 ... 255. factor: s_x s_o / s_y, float32, one number or one for each column."""
    # <solution: Turn sums into np.float32, multiply by factor, np.rint, add the zero point, clip to 0 ... 255.>
    scaled = sums.astype(np.float32) * np.asarray(factor, np.float32)
    return np.clip(np.rint(scaled) + zero_point, 0, 255).astype(np.int32)
    # </solution>


# %% tags=["check"]
answer = requantize(np.array([5, 7, -3, 100_000]), np.float32(0.5))
assert answer.tolist() == [2, 4, 0, 255], (
    f"2.5 and 3.5 round to the even 2 and 4, -1.5 becomes 0, 50000 becomes 255; yours {answer}"
)
print("right")

# %% [markdown]
# ## A whole network in integers, by hand
#
# We let the engine quantize a small dense network (784 - 64 - 10) and look at what it chose: for each layer the scales
# of weights and of what flows in and out. To find the ranges of activations it runs some images through: *calibration*.

# %%
small = models.MLP(hidden=(64,))
train(small, epochs=2)
calibration = [batch for batch, _ in zip(data.DataLoader(train_set, 100), range(5), strict=False)]
compress.quantize(small, calibration, bits=8).eval()
lattices = {f"{at.path}.{at.place}": at.transform for at in transform.attached(small, "quantize")}
for name, lattice in lattices.items():
    print(f"{name:12} {lattice}")

# %%
images, labels = next(iter(test_loader))


def scale_of(name):
    return lattices[name].scale.numpy()


pixels = images.numpy().reshape(len(images), -1)
zero_point = int(lattices["fc1.input"].zero_point.numpy())
x = np.clip(np.rint(pixels / scale_of("fc1.input")) + zero_point, 0, 255).astype(np.int64)


def integer_sums(x, zero_point, layer, x_scale, w_scale):
    """The bracket of the formula: exact integers (N, O). Scales are float32, as they are in the file."""
    p = np.rint(transform.raw(layer, "weight").detach().numpy() / w_scale[:, None]).astype(np.int64)
    beta = np.rint(layer.bias.detach().numpy() / (x_scale * w_scale)).astype(np.int64)
    return (x - zero_point) @ p.T + beta


s_x, s_1, s_y, s_2 = (scale_of(name) for name in ("fc1.input", "fc1.weight", "fc1.output", "fc2.weight"))
hidden = requantize(integer_sums(x, zero_point, small.fc1, s_x, s_1), s_x * s_1 / s_y)
sums = integer_sums(hidden, 0, small.fc2, s_y, s_2)
by_hand = sums.astype(np.float32) * (s_y * s_2)

with minicnn.no_grad():
    engine = small(images).numpy()
print("hidden layer, bytes of the first image:", hidden[0, :12])
print("the engine's logits are the same bits as ours:", np.array_equal(engine, by_hand))

# %% [markdown]
# Not "nearly": equal. That is a promise of this engine. A quantized layer in eval mode computes on its lattice in exact
# integers, so what you tested is what you ship.
#
# ## The convolutional network
#
# Now the real thing: *post-training quantization* at several numbers of bits, without any further training.

# %%
bits_tried = (8, 6, 5, 4, 3, 2)
after_training = []
for bits in bits_tried:
    trial = copy.deepcopy(network)
    compress.quantize(trial, calibration, bits=bits, activation_bits=8)
    after_training.append(100 * accuracy(trial))
    print(f"{bits} bits for weights, 8 for activations: {after_training[-1]:.2f}%")

# %% [markdown]
# Down to four or five bits it costs nearly nothing. At two, the network is broken. Then it must learn *while* it is rounded:
# *quantization-aware training*. The forward pass uses rounded weights. But rounding is a staircase: its slope is zero nearly
# everywhere, and nothing would ever be learnt. The trick is to pretend in the backward pass that rounding was not there,
# and to let the gradient *straight through* to the raw weight behind it (Bengio et al., 2013). The raw weights move by
# little steps, and now and then one crosses over to the next point of the lattice.

# %%
aware = []
for bits in bits_tried:
    if bits > 4:
        aware.append(np.nan)
        continue
    trial = copy.deepcopy(network)
    compress.quantize(trial, calibration, bits=bits, activation_bits=8, learned=True)
    train(trial, epochs=2, lr=0.01)
    aware.append(100 * accuracy(trial))
    if bits == 4:
        four_bits = trial
picture = viz.curves(
    {"rounded after training": (bits_tried, after_training), "trained while rounded": (bits_tried, aware)},
    xlabel="bits of a weight",
    ylabel="test accuracy, %",
    title="Few bits need training",
)
picture.axes[0].axhline(100 * accuracy(network), color=viz.style.GREY, linestyle=":")
picture

# %% [markdown]
# The dotted line is the network in floats. (`learned=True` also learns the scales: Esser et al., 2020.)
#
# ## One file, the same bits
#
# `deploy.save` writes the quantized network into one file, packed; `deploy.load` runs it. We compare every answer on every
# test image, bit for bit.

# %%
compress.freeze_quantizers(four_bits)
four_bits.eval()
eight_bits = compress.quantize(copy.deepcopy(network), calibration, bits=8).eval()
folder = Path(tempfile.mkdtemp())
for name, model in (("32-bit floats", network.eval()), ("8 bits", eight_bits), ("4-bit weights", four_bits)):
    size = deploy.save(model, folder / "model.mcnn", images[:2])
    loaded = deploy.load(folder / "model.mcnn")
    with minicnn.no_grad():
        equal = sum((loaded(batch) == model(batch).numpy()).all(axis=1).sum() for batch, _ in test_loader)
    print(
        f"{name:14} {size / 1024:6.1f} KiB, test accuracy {accuracy(model):.2%}, equal answers: {equal} of {len(test_set)}"
    )

# %% [markdown]
# For floats equality is luck (another batch size or another processor may round differently). For integers it is arithmetic.
#
# The accuracies on the web come from the long run (8,000 images). With `MINICNN_FAST=1` they are some points lower.
#
# ## What was learnt
#
# - Quantization is rounding to a lattice: a scale, perhaps a zero point, and saturation at the ends.
# - Scales come from the values: one per filter for weights, from calibration images for activations.
# - The sums of a layer are exact integers; one float multiplication, rounded in an agreed way, leads to the next lattice.
# - Eight bits are free. Few bits need training with straight-through gradients.
#
# ## Questions
#
# 1. A layer sums 800 products of an unsigned byte with a signed one. How large can the sum be, and does it fit into 32 bits?
#    Into 16?
# 2. One outlier among 100,000 weights is ten times as large as all others. What happens to the scale, and what would you do?
# 3. Why does the lattice for weights leave out $-128$?
