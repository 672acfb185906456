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
# # 08 Sharing, Huffman, Deep Compression
#
# Pruning leaves few weights (notebook 06). They still are 32-bit numbers, each at its own place. *Deep Compression* (Han, Mao and Dally,
# 2016) goes on: let many weights *share* one value, and write the numbers of the values in an alphabet where frequent letters are short.
# Together that makes networks thirty times smaller and more. We build each piece, count real bits, and let the engine do all of it.

# %% tags=["setup"]
import copy
import heapq
import os
import tempfile
from pathlib import Path

import numpy as np

import minicnn
from minicnn import compress, data, deploy, models, optim, viz

FAST = os.environ.get("MINICNN_FAST") == "1"  # a short run: fewer images
generator = minicnn.manual_seed(0)

# %%
train_set = data.Subset(data.FashionMNIST(train=True), range(2_000 if FAST else 8_000))
test_loader = data.DataLoader(data.Subset(data.FashionMNIST(train=False), range(2_000)), 250)
images = next(iter(test_loader))[0]
folder = Path(tempfile.mkdtemp())


def accuracy(model):
    return minicnn.evaluate(model, test_loader).accuracy


def train(model, epochs, lr=0.05, **options):
    loader = data.DataLoader(train_set, 64, shuffle=True, seed=1)
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    minicnn.fit(
        model, loader, optimizer=optimizer, scheduler=schedule, epochs=epochs, progress=False, **options
    )


def file_size(model, **options):
    return deploy.save(model.eval(), folder / "model.mcnn", images[:1], **options)


network = models.create("lenet-300-100")
train(network, epochs=8)
print(
    f"{sum(p.numel() for p in network.parameters()):,} parameters, {file_size(network) / 1024:.0f} KiB, test accuracy {accuracy(network):.1%}"
)

# %% [markdown]
# This is LeNet-300-100, three dense layers, one of the two networks of the paper.
#
# ## Step 1: prune

# %%
pruned = copy.deepcopy(network)
schedule = compress.PolynomialPruning(0, 2, initial=0.5, final=0.92, every="30 batches", scope="global")
train(pruned, epochs=3, lr=0.02, callbacks=[schedule])
weight = pruned.fc1.weight.detach().numpy()
left = weight[weight != 0]
print(
    f"{compress.sparsity(pruned):.0%} pruned, {file_size(pruned) / 1024:.0f} KiB, test accuracy {accuracy(pruned):.1%}"
)
print(f"{len(left):,} weights are left in the first layer")

# %% [markdown]
# ## Step 2: share values
#
# Sort the remaining weights into $K$ groups and give all weights of a group the same value, the group's mean. For each weight only the *number* of its
# group has to be kept, $\log_2 K$ bits, and once the list of $K$ values, the *codebook*. Which groups are best? Those for which the squared
# distance of all weights to their value is smallest. The classical way there is *k-means*:
#
# 1. begin with $K$ values (evenly between smallest and largest, say);
# 2. put each weight to its nearest value;
# 3. move each value to the mean of its weights; go back to 2 until nothing changes.
#
# Both steps can only make the distance smaller, so it comes to an end.
#
# ### Exercise 1: one round of k-means


# %% tags=["exercise"]
def kmeans_round(weights, values):
    """(group of each weight, new values) after one round. weights: (n,), values: (K,). An empty group keeps its value."""
    # <solution: argmin over |weights[:, None] - values|; then the mean of each group that has members.>
    group = np.abs(weights[:, None] - values).argmin(axis=1)
    moved = values.copy()
    for k in range(len(values)):
        if (group == k).any():
            moved[k] = weights[group == k].mean()
    return group, moved
    # </solution>


# %% tags=["check"]
group, moved = kmeans_round(np.array([0.0, 0.2, 1.0, 1.4]), np.array([0.1, 1.1, 9.0]))
assert group.tolist() == [0, 0, 1, 1], (
    f"0 and 0.2 are nearest to 0.1, 1 and 1.4 to 1.1; yours {group.tolist()}"
)
assert np.allclose(moved[:2], [0.1, 1.2]), f"the values move to the means 0.1 and 1.2, yours {moved}"
assert moved[2] == 9.0, "nobody chose the third value, so it stays"
print("right")

# %%
sample = left[:: max(len(left) // 4_000, 1)]
values = np.linspace(sample.min(), sample.max(), 8)
distances = []
for _ in range(30):
    group, moved = kmeans_round(sample, values)
    distances.append(float(((sample - values[group]) ** 2).mean()))
    values = moved
with viz.style.sheet(width=10, height=3) as sheet:
    left_half, right_half = sheet.subfigures(1, 2)
    viz.curves(
        {"k-means": distances},
        xlabel="round",
        ylabel="mean squared distance",
        title="It only goes down",
        figure=left_half,
    )
    axes = right_half.subplots()
    axes.hist(sample, bins=80, color=viz.style.BLUE, alpha=0.5, label="weights that are left")
    for i, value in enumerate(values):
        axes.axvline(
            value, color=viz.style.VERMILION, linewidth=1.5, label="shared values" if i == 0 else None
        )
    axes.set_xlabel("weight")
    axes.set_title("8 shared values")
    axes.legend()
sheet

# %% [markdown]
# The hole in the middle is where the pruned weights were. The values lie where the weights are, unlike the even steps of notebook 07.
#
# The values can be trained further: the gradient of a shared value is the *sum* of the gradients of all weights that use it (uses add up,
# notebook 01).

# %%
shared = copy.deepcopy(pruned)
books = compress.share(shared, clusters=16)
print("codebooks:", {name: f"{book.clusters} values, {book.bits} bits" for name, book in books.items()})
at_first = accuracy(shared)
train(shared, epochs=1, lr=0.002)
print(
    f"test accuracy {at_first:.1%} at once, {accuracy(shared):.1%} after one epoch of training the 48 values"
)

# %% [markdown]
# ## Step 3: Huffman coding
#
# The numbers 0 to 15 of the groups take four bits each, if all are equally long. But they are not equally frequent. A *Huffman code*
# gives frequent ones short words and rare ones long words, such that no word is the beginning of another; so no separators are needed.
# To build it, take the two rarest symbols, join them to one with the sum of their counts, and repeat until one is left. A symbol's word is as
# long as it was joined times.
#
# ### Exercise 2: lengths of the words


# %% tags=["exercise"]
def huffman_lengths(counts):
    """Bits of the word of each symbol, for symbols that occur `counts` times (all at least once)."""
    # <solution: A heap of (count, tie-break, symbols); pop two, lengthen all their symbols by 1, push the union.>
    lengths = [0] * len(counts)
    heap = [(count, i, [i]) for i, count in enumerate(counts)]
    heapq.heapify(heap)
    while len(heap) > 1:
        (a, first, some), (b, _, others) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in some + others:
            lengths[symbol] += 1
        heapq.heappush(heap, (a + b, first, some + others))
    return lengths
    # </solution>


# %% tags=["check"]
lengths = huffman_lengths([10, 1, 1, 2])
assert sorted(lengths) == [1, 2, 3, 3], f"one word of one bit, one of two, two of three; yours {lengths}"
assert lengths[0] == 1, "the most frequent symbol has the shortest word"
assert sum(2.0**-n for n in huffman_lengths([5, 9, 12, 13, 16, 45])) == 1, (
    "the words of a full tree fill the whole space: sum of 2^-length = 1"
)
print("right")

# %%
numbers = books["fc1"].index.numpy()[weight != 0]
counts = np.bincount(numbers, minlength=16)
used = counts[counts > 0]
bits = np.array(huffman_lengths(used.tolist()))
share = used / used.sum()
entropy = -(share * np.log2(share)).sum()
print(
    f"equal words: 4 bits a weight; Huffman: {(share * bits).sum():.3f}; no code can do better than {entropy:.3f} (the entropy)"
)
picture = viz.curves(
    {},
    xlabel="shared value (number of its group)",
    ylabel="weights that use it",
    title="Bits of the Huffman words",
)
axes = picture.axes[0]
axes.bar(np.flatnonzero(counts), used, color=viz.style.BLUE)
for place, count, n in zip(np.flatnonzero(counts), used, bits, strict=True):
    axes.text(place, count, f"{n}", ha="center", va="bottom")
axes.margins(y=0.12)
picture

# %% [markdown]
# The *places* of the remaining weights are coded the same way: as distances from one to the next, short ones frequent, long ones rare.
#
# ## All together
#
# `deploy.save` writes each array in its shortest form. The sizes below are those of real files, with tables, names and all:

# %%
rows = {
    "as trained": network,
    "pruned": pruned,
    "pruned and shared": shared,
}
full = file_size(network)
results = {}
for name, model in rows.items():
    for huffman in (False, True):
        size = file_size(model, huffman=huffman)
        label = name + (" + Huffman" if huffman else "")
        if huffman:
            results[label] = {"accuracy": accuracy(model), "bytes": size}
        print(
            f"{label:32} {size / 1024:8.1f} KiB   {full / size:5.1f} times smaller   test accuracy {accuracy(model):.1%}"
        )
viz.pareto(results, label="bytes of the file")

# %%
loaded = deploy.load(folder / "model.mcnn")
with minicnn.no_grad():
    print(
        "the file answers as the model does:", np.allclose(loaded(images), shared(images).numpy(), atol=1e-4)
    )
print(f"{(folder / 'model.mcnn').stat().st_size:,} bytes on disk")

# %% [markdown]
# The accuracies on the web come from 8,000 images and few epochs, those with `MINICNN_FAST=1` from 2,000. With the whole of MNIST and careful
# schedules the paper reached 40 times for this network without a loss; `python -m bench.experiments deep-compression` measures that here, on real files.
#
# ## What was learnt
#
# - Sharing replaces numbers by short indices into a codebook; k-means finds the values, and training improves them.
# - Huffman's code spends bits by frequency, and comes close to the entropy, the least there can be.
# - The three steps multiply: few weights, few bits for each, and frequent ones the shortest.
# - Count the bytes of the *file*. Tables and positions count, too.
#
# ## Questions
#
# 1. Why does the list of zeros not need a group of its own in the codebook?
# 2. A layer of 30,000 weights, $K = 16$: how many bytes are the codebook, and how many the indices? At which size of a layer is a codebook of 256
#    floats as large as its indices?
# 3. All groups are equally frequent. What does Huffman's code look like then, and what does it gain?
