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
# # 06 Pruning: which weights does a network need?
#
# A trained network has far more weights than its answers need. *Pruning* sets the unimportant ones to zero and keeps them
# there. This notebook prunes a network by hand and with the engine, finds out what each layer bears, and looks
# soberly at what zeros are worth: in a file much, in the time of one answer nothing, unless whole filters go.

# %% tags=["setup"]
import copy
import os
import tempfile
import time
from pathlib import Path

import numpy as np

import minicnn
from minicnn import compress, data, deploy, graph, models, optim, viz

FAST = os.environ.get("MINICNN_FAST") == "1"  # a short run: fewer images
generator = minicnn.manual_seed(0)

# %% [markdown]
# ## A network to prune
#
# Two convolutions and two dense layers, trained for a few epochs on a part of Fashion-MNIST.

# %%
train_set = data.Subset(data.FashionMNIST(train=True), range(2_000 if FAST else 8_000))
test_set = data.Subset(data.FashionMNIST(train=False), range(1_000 if FAST else 2_000))
test_loader = data.DataLoader(test_set, 250)


def accuracy(model):
    return minicnn.evaluate(model, test_loader).accuracy


def train(model, epochs, lr=0.05, callbacks=()):
    loader = data.DataLoader(train_set, 64, shuffle=True, seed=1)
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))
    options = {"scheduler": schedule, "scheduler_step": "batch", "progress": False, "callbacks": callbacks}
    return minicnn.fit(model, loader, optimizer=optimizer, epochs=epochs, **options)


dense = models.create("simple", width=0.5)
train(dense, epochs=3)
print(f"test accuracy {accuracy(dense):.1%}, {sum(p.numel() for p in dense.parameters()):,} parameters")

# %%
viz.weight_histograms(dense)

# %% [markdown]
# Each layer's weights crowd around zero. The idea: a weight near zero hardly moves the result, so it may as well *be* zero.
# How near is decided by a *rate*: the share of weights that go.
#
# ## A mask by rate
#
# A *mask* $m$ has the shape of the weight $w$ and holds a 1 for what stays and a 0 for what goes. The layer uses $m \odot w$
# (product entry by entry). Two details matter. The number of zeros should be exactly round(rate x size), also if many weights
# are equally large. And the *shape stays*: throwing entries out of a matrix leaves no matrix.
#
# ### Exercise 1: the mask


# %% tags=["exercise"]
def mask_by_rate(weight, rate):
    """An array of 0 and 1 like `weight` with exactly round(rate * size) zeros, where |weight| is smallest."""
    # <solution: Sort positions by absolute value with np.argsort, and put a zero at the first round(rate * size) of them.>
    mask = np.ones(weight.size)
    order = np.argsort(np.abs(weight).ravel(), kind="stable")
    mask[order[: round(rate * weight.size)]] = 0
    return mask.reshape(weight.shape)
    # </solution>


# %% tags=["check"]
sample = np.array([[0.1, -3.0, 0.2], [-0.05, 1.0, 2.0]])
mask = mask_by_rate(sample, 0.5)
assert mask.shape == sample.shape, f"a mask has the shape of the weight, {sample.shape}, got {mask.shape}"
assert mask.tolist() == [[0, 1, 0], [0, 1, 1]], (
    f"the three smallest in size are 0.05, 0.1 and 0.2; your mask: {mask}"
)
assert (mask_by_rate(np.ones((4, 5)), 0.3) == 0).sum() == 6, (
    "round(0.3 * 20) = 6 zeros, also if all are equally large"
)
print("right")

# %% [markdown]
# The engine's `prune` does the same and *attaches* the mask to the layer: the raw weights stay behind it, and the optimizer
# knows. That matters: with plain momentum, a weight set to zero moves again at the next step, because its velocity is not zero.

# %%
pruned = copy.deepcopy(dense)
compress.prune(pruned, 0.7)
same = (pruned.conv2.weight.detach().numpy() != 0) == (
    mask_by_rate(dense.conv2.weight.detach().numpy(), 0.7) == 1
)
print("the same mask as by hand:", same.all())
print(
    "share of zeros in each layer:",
    {name: round(share, 3) for name, share in compress.sparsities(pruned).items()},
)
train(pruned, epochs=1, lr=0.01)
print(
    "after an epoch with momentum:",
    f"{compress.sparsity(pruned):.4f} zeros, test accuracy {accuracy(pruned):.1%}",
)

# %%
viz.weight_histograms(pruned)

# %% [markdown]
# The grey bar in the middle are the zeros, cut off at the top. The rest kept its place.
#
# ## How far can one go?
#
# We prune copies at rising rates: once by magnitude, once at random, and once by magnitude with an epoch of training
# afterwards (*fine-tuning*), which lets the remaining weights take over the work.

# %%
rates = [0.5, 0.7, 0.8, 0.9, 0.95, 0.98]
lines = {"at random": [], "by magnitude": [], "by magnitude, then one epoch": []}
for rate in rates:
    for score in ("random", "l1"):
        trial = copy.deepcopy(dense)
        compress.prune(trial, rate, score=score)
        lines["at random" if score == "random" else "by magnitude"].append(100 * accuracy(trial))
    train(trial, epochs=1, lr=0.02)
    lines["by magnitude, then one epoch"].append(100 * accuracy(trial))
picture = viz.curves(
    {name: (rates, values) for name, values in lines.items()},
    xlabel="share of weights pruned, in every layer",
    ylabel="test accuracy, %",
    title="Choice matters, and so does training afterwards",
)
picture.axes[0].axhline(100 * accuracy(dense), color=viz.style.GREY, linestyle=":")
picture

# %% [markdown]
# The dotted line is the unpruned network. Chosen at random, half of the weights are already too many. By magnitude one may
# take far more; and with one epoch of training afterwards, eight in ten are gone at little cost.
#
# ## Layers differ
#
# A *sensitivity scan* prunes one layer at a time and leaves all others alone.

# %%
found = compress.sensitivity(dense, accuracy, rates=(0.5, 0.7, 0.8, 0.9, 0.95))
picked = found.pick(max_drop=0.01)
print("highest rate that costs at most one point:", picked)
viz.sensitivity(found)

# %% [markdown]
# The first convolution has only 144 weights and is the most sensitive: all else depends on it. The large dense layer
# hardly notices. So one rate for all is wasteful. Either take the picked rates, or rank the weights of *all* layers in one
# list (`scope="global"`).

# %%
layerwise, picked_rates, together = (copy.deepcopy(dense) for _ in range(3))
compress.prune(picked_rates, picked)
rate = compress.sparsity(picked_rates)
compress.prune(layerwise, rate)
compress.prune(together, rate, scope="global")
print(f"{rate:.1%} of all weights pruned, no training afterwards:")
for name, model in (
    ("the same rate everywhere", layerwise),
    ("rates picked from the scan", picked_rates),
    ("one ranking for all", together),
):
    print(f"  {name:28} {accuracy(model):.1%}")

# %% [markdown]
# ## Little by little
#
# At high rates it pays to prune in steps and to train between them. A proven schedule takes much at first, when there is
# much to take, and little in the end. With $t$ from 0 to 1 between begin and end (Zhu and Gupta, 2017):
#
# $$ r(t) = r_1 + (r_0 - r_1)(1 - t)^3. $$
#
# ### Exercise 2: the schedule


# %% tags=["exercise"]
def pruning_rate(progress, initial, final):
    """The rate at `progress`, which runs from 0 to 1 (and may be outside: before the begin, after the end)."""
    # <solution: Limit progress to 0 ... 1 first, then use the formula above.>
    progress = min(max(progress, 0.0), 1.0)
    return final + (initial - final) * (1 - progress) ** 3
    # </solution>


# %% tags=["check"]
assert abs(pruning_rate(0, 0.2, 0.9) - 0.2) < 1e-12, "at progress 0 it is the initial rate"
assert abs(pruning_rate(1, 0.2, 0.9) - 0.9) < 1e-12, "at progress 1 it is the final rate"
assert abs(pruning_rate(0.5, 0.0, 0.8) - 0.7) < 1e-12, (
    "half way, 0 to 0.8: already at 0.7, for (1 - 0.5)^3 = 1/8 is left"
)
assert abs(pruning_rate(2, 0.2, 0.9) - 0.9) < 1e-12, "after the end it stays at the final rate"
print("right")

# %%
at_once, by_steps = copy.deepcopy(dense), copy.deepcopy(dense)
compress.prune(at_once, 0.97, scope="global")
train(at_once, epochs=3, lr=0.02)
slowly = compress.PolynomialPruning(
    0, 2, initial=0.5, final=0.97, every=f"{len(train_set) // 64 // 8} batches", scope="global"
)
train(by_steps, epochs=3, lr=0.02, callbacks=[slowly])
print(
    f"97% pruned, three epochs each: at once {accuracy(at_once):.1%}, by the schedule {accuracy(by_steps):.1%}"
)

# %% [markdown]
# ## What zeros are worth
#
# In a *file* a lot: only the others need to be written, with their places. `deploy.save` chooses the shortest form for each
# array.

# %%
folder = Path(tempfile.mkdtemp())
images = next(iter(test_loader))[0]


def file_size(model):
    return deploy.save(model.eval(), folder / "model.mcnn", images[:2])


for name, model in (("unpruned", dense), ("70% pruned", pruned), ("97% pruned", by_steps)):
    print(f"{name:12} {file_size(model) / 1024:7.1f} KiB, test accuracy {accuracy(model):.1%}")

# %% [markdown]
# In *time*, nothing: a processor multiplies sixteen neighbouring numbers at once, and skipping single ones in
# between costs more than it saves (up to 95% zeros and more). Most articles about pruning leave this out.
#
# ## Whole filters
#
# What does save time is to remove *whole* filters. A filter that is gone is one channel less in the result, and one channel
# less in every filter of the next layer. First decide which: by the sum of the absolute weights of each filter.
#
# ### Exercise 3: scores of filters


# %% tags=["exercise"]
def weakest_filters(weight, count):
    """The numbers of the `count` filters of weight (O, C, k, k) with the smallest sum of |w|, in rising order."""
    # <solution: Sum absolute values over all axes but the first, sort with np.argsort, take the first few, sort their numbers.>
    scores = np.abs(weight).sum(axis=(1, 2, 3))
    return sorted(np.argsort(scores, kind="stable")[:count].tolist())
    # </solution>


# %% tags=["check"]
weights = np.ones((4, 2, 3, 3)) * np.array([3.0, -1, 2, -0.5]).reshape(4, 1, 1, 1)
answer = weakest_filters(weights, 2)
assert list(answer) == [1, 3], f"filters 1 and 3 have the smallest sums of absolute values, you say {answer}"
print("right")

# %%
filters = copy.deepcopy(dense)
compress.prune(filters, 0.5, unit="filter")
gone = np.flatnonzero(np.abs(filters.conv2.weight.detach().numpy()).sum(axis=(1, 2, 3)) == 0).tolist()
print("the same filters as by hand:", gone == weakest_filters(dense.conv2.weight.detach().numpy(), len(gone)))
before = accuracy(filters)


def close(layers):
    """Give every filter or neuron without weights a negative bias, so that the ReLU behind it answers zero."""
    with minicnn.no_grad():
        for layer in layers:
            sizes = np.abs(layer.weight.detach().numpy()).reshape(len(layer.weight), -1).sum(axis=1)
            bias = np.where(sizes == 0, -1, layer.bias.detach().numpy())
            layer.bias.copy_(minicnn.tensor(bias.astype(np.float32)))


close([filters.conv1, filters.conv2, filters.fc1])
train(filters, epochs=2, lr=0.02)
print(
    f"half of all filters and neurons pruned: {before:.1%} at once, {accuracy(filters):.1%} after two epochs"
)

# %% [markdown]
# A filter of zeros still answers its bias, the same number everywhere, and the next layer makes something of that. With a negative bias its ReLU stays shut and answers zero: it is a dead unit (notebook 03), on purpose, and as no gradient comes through, it stays one.
#
# So far these filters only hold zeros. `deploy.save` takes them out of the *graph*, the recorded computation, and makes the
# arrays smaller. (It also does so where a bias is positive. Then the next layer has to add the constant, and much of the gain is gone.)

# %%
file_size(dense)
whole = deploy.load(folder / "model.mcnn")
file_size(filters)
small = deploy.load(folder / "model.mcnn")


def work(artefact):
    """Multiplications for one image."""
    return sum(cost.macs for cost in graph.cost(artefact.graph))


def milliseconds(artefacts):
    """The median time of each for a batch of 250 on one thread, called in turn, so that what disturbs disturbs all."""
    times = [[] for _ in artefacts]
    for _ in range(9 if FAST else 25):
        for artefact, measured in zip(artefacts, times, strict=True):
            started = time.perf_counter()
            artefact(images)
            measured.append(time.perf_counter() - started)
    return [1000 * np.median(measured) for measured in times]


with minicnn.no_grad():
    difference = np.abs(small(images) - filters(images).numpy()).max()
print(f"with zeros or without the filters: the answers differ by {difference:.1e} at most")
threads = minicnn.get_num_threads()
minicnn.set_num_threads(1)
measured = milliseconds([whole, small])
minicnn.set_num_threads(threads)
for name, artefact, duration in zip(("all filters", "half of them"), (whole, small), measured, strict=True):
    print(
        f"{name:12} {work(artefact) / 1e6:.2f} million multiplications an image, {duration:.1f} ms for 250 images"
    )

# %%
viz.graph(small.graph)

# %% [markdown]
# The time falls less than the multiplications: in layers as small as these much of it goes into the rest, reading and writing maps, pooling, the addition. Notebook 12 times larger ones.
#
# The accuracies on the web come from the long run (8,000 images). With `MINICNN_FAST=1` all of them are lower. On all 60,000 images nine in ten weights of this kind of network go without a loss:
# `minicnn compress --recipe prune-90`.
#
# ## What was learnt
#
# - Weights near zero can go: by magnitude far more than by chance, and with training afterwards more still.
# - Layers bear different rates; a scan or one common ranking finds them.
# - Zeros make files smaller, not answers faster. Removing filters does both, at lower rates.
# - A mask must hold against momentum, and must have the shape of its weight.
#
# ## Questions
#
# 1. Half of the filters of every layer are removed. Why do the multiplications of the second convolution fall to a quarter?
# 2. Where would a score by the *change of the loss* choose another weight than magnitude? (`score="taylor"` does that: try it
#    at 95% without training.)
# 3. A file of a sparse layer stores positions, too. At which rate is it as large as the full array, if a position takes as
#    many bits as a weight?
