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
# # 13 Five articles made true
#
# Five articles about making convolutional networks better and smaller stood at the beginning of this project. Their ideas are
# good; most of their listings do not run, or run and do something else than their text says. Reading broken code is a good
# school. For each listing this notebook says what it wants, shows why it fails, and runs the right thing.
#
# The articles are called 000 to 004, their listings by their section. The wrong ones are retold in a few lines of NumPy, so that
# you see the failure itself. You should know notebooks 01 to 07.

# %% tags=["setup"]
import copy
import math
import os
import tempfile
from pathlib import Path

import numpy as np

import minicnn
import minicnn.nn.functional as F
from minicnn import compress, data, deploy, graph, models, nn, optim, viz

FAST = os.environ.get("MINICNN_FAST") == "1"  # a short run: fewer images
generator = minicnn.manual_seed(0)
rng = np.random.default_rng(0)

# %%
train_set = data.Subset(data.FashionMNIST(train=True), range(1_500 if FAST else 6_000))
test_set = data.Subset(data.FashionMNIST(train=False), range(1_000))
test_loader = data.DataLoader(test_set, 250)


def accuracy(model):
    return minicnn.evaluate(model, test_loader).accuracy


def train(model, epochs=2, lr=0.05, dataset=None, **options):
    loader = data.DataLoader(dataset or train_set, 64, shuffle=True, seed=1)
    optimizer = options.pop("optimizer", None) or optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    return minicnn.fit(model, loader, optimizer=optimizer, epochs=epochs, progress=False, **options)


def fresh(seed=0, **options):
    minicnn.manual_seed(seed)
    return models.create("simple", width=0.5, **options)


trained = fresh()
train(trained, epochs=3)
images, labels = next(iter(test_loader))
print(f"a network to work on: {accuracy(trained):.1%}")

# %% [markdown]
# # Article 000: the layers, and four ways to make them smaller
#
# ## 4.1 and 4.2: a convolution and a pooling on random images
#
# **Says:** make 32 images of 32 x 32 pixels in three colours, and send them through a layer.
# **Fails:** the array has the shape (32, 32, 3, 3). That is how *kernels* are stored, and read as images it is 32 images of
# 32 x 3 pixels with three channels. A window of 3 x 3 then fits into the width exactly once.
# **Right:** N images come first, and the layer says what it got.

# %%
layer = nn.Conv2d(3, 32, kernel_size=3)
# Batch, height, width, channels: as that article's library has it.
mistaken = rng.standard_normal((32, 32, 3, 3)).astype(np.float32)
as_read = minicnn.tensor(np.moveaxis(mistaken, 3, 1))
print("what the listing computes:", F.relu(layer(as_read)).shape, "- one column of results for each image")
right = minicnn.randn(32, 3, 32, 32)
print("what it meant:            ", F.relu(layer(right)).shape)
print("and its pooling:          ", F.max_pool2d(right, 2).shape)
try:
    layer(minicnn.tensor(mistaken))
except ValueError as error:
    print("our layer, given the array as it is:", error)

# %% [markdown]
# ## 4.3: a dense layer with softmax
#
# **Says:** ten outputs that are probabilities. **It runs.** But when a network is *trained*, the softmax belongs into the loss:
# cross-entropy on *logits* (the scores before) is exact where softmax and logarithm one after the other underflow.

# %%
dense = nn.Linear(32, 10)
probabilities = F.softmax(dense(minicnn.randn(32, 32)), dim=1)
print("rows sum to 1:", np.allclose(probabilities.detach().numpy().sum(1), 1, atol=1e-6))
far = minicnn.tensor([[0.0, 200.0]])
with np.errstate(divide="ignore"):
    print(
        "softmax, then logarithm:",
        -np.log(F.softmax(far, dim=1).numpy()[0, 0]),
        "  cross-entropy on logits:",
        F.cross_entropy(far, minicnn.tensor([0])).item(),
    )

# %% [markdown]
# ## 4.4: weight clipping
#
# **Says** (text): set weights below a threshold to zero. **Does** (code): limits weights *above* the threshold to it. With 0.01
# nearly all weights become +0.01 or -0.01, and not one becomes zero.
# **Right:** two things with two names. *Clipping* saturates large values; *pruning by threshold* zeroes small ones.

# %%
threshold = 0.01
weight = trained.fc1.weight.detach().numpy()
listing = np.where(np.abs(weight) > threshold, np.sign(weight) * threshold, weight)
print(
    f"the listing: {np.mean(listing == 0):.0%} zeros, {np.mean(np.abs(listing) == np.float32(threshold)):.0%} of the weights at the limit"
)

clipped, pruned = copy.deepcopy(trained), copy.deepcopy(trained)
optim.clip_weights_([p for p in clipped.parameters() if p.ndim > 1], threshold)
compress.prune_below(pruned, threshold)
print(f"clipped at {threshold}: accuracy {accuracy(clipped):.1%}")
print(
    f"pruned below {threshold}: accuracy {accuracy(pruned):.1%}, {compress.sparsity(pruned):.0%} zeros (before: {accuracy(trained):.1%})"
)

# %% [markdown]
# ## 4.5: quantization
#
# **Says:** make eight-bit integers. **Does:** multiplies by 255/128 and rounds, which is about round(2 w). A layer's weights
# are a few hundredths: nearly all become 0. The text's "modulo" would let large ones wrap around to small ones.
# **Right:** a scale from the weights, rounding, *saturation*, and the way back (notebook 07).

# %%
listing = np.round(weight / 2**7 * (2**8 - 1))
scale = np.abs(weight).max() / 127
q = np.clip(np.rint(weight / scale), -127, 127)
print("the listing leaves the values", np.unique(listing), f"of weights with a spread of {weight.std():.3f}")
print(
    f"ours uses {len(np.unique(q))} values, and is off by {np.abs(q * scale - weight).max() / scale:.2f} steps at most"
)
quantized = compress.quantize(copy.deepcopy(trained), [(images, labels)], bits=8)
print(f"the network in eight bits: {accuracy(quantized):.1%}")

# %% [markdown]
# ## 4.6: transfer of knowledge
#
# **Says:** take what a trained network knows over to a new one. **Fails:** it calls the network on noise of the wrong shape and
# sets the *answers* as *weights* of another network (which also lacks the layer that flattens images).
# **Right:** load the weights by name, freeze them, put a new last layer in place, and train that. Here: from six kinds of
# clothes to four others.

# %%
everything, everything_test = data.FashionMNIST(train=True), data.FashionMNIST(train=False)


def only(dataset, classes, count):
    chosen = np.flatnonzero(np.isin(dataset.labels, classes))[:count]
    names = np.array([classes.index(label) for label in dataset.labels[chosen]])
    return data.ArrayDataset(dataset.images[chosen], names)


old_classes, new_classes = [0, 1, 2, 3, 5, 7], [4, 6, 8, 9]
few, judge = only(everything, new_classes, 100), data.DataLoader(only(everything_test, new_classes, 600), 200)
source = fresh(num_classes=6)
train(source, epochs=2, dataset=only(everything, old_classes, 1_500 if FAST else 5_000))

target = fresh(seed=1, num_classes=4)
print(compress.load_matching(target, source))
compress.freeze(target, ["conv1", "conv2"])
train(target, epochs=10, lr=0.02, dataset=few)
scratch = fresh(seed=1, num_classes=4)
train(scratch, epochs=10, lr=0.02, dataset=few)
print(
    f"with 100 images of the new classes: from scratch {minicnn.evaluate(scratch, judge).accuracy:.1%}, transferred {minicnn.evaluate(target, judge).accuracy:.1%}"
)

# %% [markdown]
# ## 5 and 6.2: size against accuracy
#
# **Says** (text): optimisation is a balance of size and accuracy. **Right:** measure both and draw them. Where no other result is
# better in both, a network is on the *Pareto front*; choose from there.

# %%
folder, results = Path(tempfile.mkdtemp()), {}
for name, make in {
    "float": lambda m: m,
    "8 bits": lambda m: compress.quantize(m, [(images, labels)], bits=8),
    "4 bits": lambda m: compress.quantize(m, [(images, labels)], bits=4, activation_bits=8),
    "2 bits": lambda m: compress.quantize(m, [(images, labels)], bits=2, activation_bits=8),
    "70% pruned": lambda m: compress.prune(m, 0.7) and m,
    "70% pruned, 4 bits": lambda m: (
        compress.prune(m, 0.7) and compress.quantize(m, [(images, labels)], bits=4, activation_bits=8)
    ),
}.items():
    model = make(copy.deepcopy(trained))
    size = deploy.save(model.eval(), folder / "model.mcnn", images[:1])
    results[name] = {"accuracy": accuracy(model), "bytes": size}
print("the best of at most 60,000 bytes:", compress.pick(results, bytes=60_000))
viz.pareto(results, label="bytes of the file")

# %% [markdown]
# # Article 001: seven tricks
#
# ## The network of every listing
#
# **Says:** two convolutions and two dense layers. **Fails:** a name is not imported; after two poolings 32 pixels are 8, not 16;
# and because `view(-1, 64 * 16 * 16)` asks for too many numbers per row, four images are *mixed* into one row, without an error.
# It trains on noise, where nothing can be learnt. **Right:** flatten by image.

# %%
features = np.zeros((64, 64, 8, 8))
print(
    "the listing makes of 64 images", features.reshape(-1, 64 * 16 * 16).shape[0], "rows: four images in each"
)
colour = models.SimpleCNN(in_channels=3, image_size=32)
print(
    "ours reads",
    colour.fc1.in_features,
    "= 64 x 8 x 8 numbers of each image, and answers",
    colour(minicnn.randn(64, 3, 32, 32)).shape,
)
viz.graph(graph.trace(colour, minicnn.randn(1, 3, 32, 32)))

# %% [markdown]
# ## 4.1: "pruning"
#
# **Says:** remove unimportant weights in each epoch. **Does:** multiplies every tensor by 0.01 / norm. All keep their
# direction, none becomes zero, and a network whose weights are all tiny answers the same for everything. It also changes
# arrays under the tape, which is refused.
# **Right**, (a) prune by rate and retrain; (b) if a limit on the norm was meant: $w \cdot \min(1, c / \lVert w \rVert)$, which leaves
# small weights alone.

# %%
spoilt = copy.deepcopy(trained)
with minicnn.no_grad():
    for p in spoilt.parameters():
        p.copy_(p * max(0, 0.01 / np.linalg.norm(p.detach().numpy())))
zeros = sum(int((p.detach().numpy() == 0).sum()) for p in spoilt.parameters())
print(f"the listing: {zeros} zeros, accuracy {accuracy(spoilt):.1%}")
leaf = minicnn.tensor([1.0], requires_grad=True)
try:
    leaf *= 0.5
except RuntimeError as error:
    print("in place, as written:", error)

step_by_step = copy.deepcopy(trained)
compress.iterative_pruning(step_by_step, (0.5, 0.8, 0.9), lambda m: train(m, epochs=1, lr=0.02))
print(f"(a) pruned in three steps to {compress.sparsity(step_by_step):.0%}: {accuracy(step_by_step):.1%}")
limited = copy.deepcopy(trained)
optim.max_norm_(limited.parameters(), 1.5)
longest = max(np.linalg.norm(row) for row in limited.fc1.weight.detach().numpy())
print(f"(b) norm of each unit at most 1.5 (longest {longest:.2f}): {accuracy(limited):.1%}")

# %% [markdown]
# ## 3.1: importance by L1 and L2
#
# **Says:** a weight matters by its absolute value or its square; the formulas are **sound**. For single weights both give the
# same order. For whole *filters* they may differ: one large weight counts more in L2.

# %%
filters = np.array([[3.0, 0, 0, 0], [1.0, 1, 1, 1]])
print(
    "sum of |w|:",
    np.abs(filters).sum(1),
    " sum of w^2:",
    (filters**2).sum(1),
    " - another filter is the weaker one",
)

# %% [markdown]
# ## 3.2 and 4.2: L1 and L2 regularization
#
# **Says:** add $\lambda_1 \sum |w| + \lambda_2 \sum w^2$ to the loss. **Fails:** there is no `functional.norm`, a list of parameters
# has none, and the L2 norm was to be squared. **Right:** penalties over the weights (not the biases).

# %%
model = fresh()
weights = [p for p in model.parameters() if p.ndim > 1]
loss = F.cross_entropy(model(images), labels)
total = loss + nn.l1_penalty(weights, 0.001) + nn.l2_penalty(weights, 0.0001)
flat = np.concatenate([p.detach().numpy().ravel() for p in weights]).astype(np.float64)
print(
    f"penalty {total.item() - loss.item():.5f}, by the formula {0.001 * np.abs(flat).sum() + 0.0001 * (flat**2).sum():.5f}"
)

# %% [markdown]
# ## 3.3 and 4.3: batch normalization
#
# **Says:** subtract the batch's mean, divide by its spread. **Misses:** after that each channel gets its own scale $\gamma$ and shift
# $\beta$, learnt, or a layer could not even leave its input as it is. And for single images there is no batch: *running
# statistics* take its place. In a finished network all of it is one linear map, and is *folded* into the convolution.

# %%
norm = nn.BatchNorm2d(3)
x = minicnn.randn(64, 3, 8, 8) * 5 + 2
y = norm(x).detach().numpy()
print(
    f"in training: mean {y.mean():.4f}, spread {y.std():.3f}; running mean after one batch {norm.running_mean.numpy().mean():.2f}"
)
normed = fresh(batch_norm=True)
train(normed, epochs=2)
normed.eval()
with minicnn.no_grad():
    before = normed(images).numpy()
    compress.fold_batch_norm(normed, images[:1])
    after = normed(images).numpy()
print(f"folded: the answers differ by {np.abs(before - after).max():.1e}")

# %% [markdown]
# ## 3.4 and 4.4: dropout
#
# **Says:** drop random units in training. **Does** it to the ten scores of the answer as well: then, half of the time, the right
# class has none. And nowhere is it switched off for testing. **Right:** before the last dense layer, scaled by $1/(1 - p)$, and
# off in `eval`.

# %%
scores = minicnn.tensor(np.full((10_000, 10), 5.0, np.float32))
print(
    f"on the scores: the right class is lost in {np.mean(F.dropout(scores, 0.5).numpy()[:, 0] == 0):.0%} of all images"
)
hidden = minicnn.ones(1000, 64)
print(
    f"inverted dropout keeps the mean: {F.dropout(hidden, 0.5).numpy().mean():.3f}; in eval it does nothing:",
    np.array_equal(nn.Dropout(0.5).eval()(hidden).numpy(), hidden.numpy()),
)

# %% [markdown]
# ## 4.5: the deep network, and its missing residuals
#
# **Says:** four convolutions with batch norm, and *residual connections* (in the text). **Fails:** four poolings leave 2 x 2 pixels of
# 32, not 8 x 8; residual connections are not in the code. **Right:** 256 x 2 x 2, with and without.

# %%
for residual in (False, True):
    deep = models.create("deep", in_channels=3, image_size=32, residual=residual)
    print(
        f"residual={residual}: the dense layer reads {deep.fc1.in_features} = 256 x 2 x 2 numbers, {sum(p.numel() for p in deep.parameters()):,} parameters"
    )

# %% [markdown]
# ## 2.5: smaller kernels
#
# **Says** (text): smaller kernels in deeper networks. **Right**, and it can be counted: two layers of 3 x 3 see a window of 5 x 5,
# with 18 instead of 25 multiplications for each pair of channels, and one more bend between them.

# %%
for name, stack in {
    "one 5 x 5": nn.Sequential(nn.Conv2d(32, 32, 5, padding=2)),
    "two 3 x 3": nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)),
}.items():
    macs = sum(cost.macs for cost in graph.cost(graph.trace(stack, minicnn.randn(1, 32, 14, 14))))
    print(
        f"{name}: {sum(p.numel() for p in stack.parameters()):,} parameters, {macs / 1e6:.2f} million multiplications"
    )

# %% [markdown]
# # Article 002: one listing with everything
#
# ## The network 32-64-10
#
# **Says:** a dense network trained with Adam. **Fails:** the data is nowhere defined. **Right:** real data of 32 numbers: here each
# image shrunk to 4 x 8 means.


# %%
def shrunk(dataset, count):
    """Images of 28 x 28, without 2 columns at each side, as 4 x 8 means."""
    pictures = dataset.images[:count].reshape(-1, 28, 28)[:, :, 2:26].astype(np.float32) / 255
    means = pictures.reshape(-1, 4, 7, 8, 3).mean(axis=(2, 4))
    return data.ArrayDataset(means, dataset.labels[:count])


small_train, small_test = (
    shrunk(everything, 1_500 if FAST else 6_000),
    data.DataLoader(shrunk(everything_test, 1_000), 250),
)
minicnn.manual_seed(0)
mlp = models.MLP(image_size=(4, 8), hidden=(64,))
train(mlp, epochs=5, dataset=small_train, optimizer=optim.Adam(mlp.parameters(), lr=0.003))
print(
    f"{sum(p.numel() for p in mlp.parameters()):,} parameters, {minicnn.evaluate(mlp, small_test).accuracy:.1%} from 32 numbers an image"
)

# %% [markdown]
# ## Cut or prune?
#
# **Says:** two methods, "cut" what is unimportant and "prune" what does not change the result; its questions and answers tell
# them apart. **Fails:** the two formulas are the same to the letter. **Right:** the difference is the *score*. Magnitude looks at the
# weight; the *change of the loss* looks at what it does. A large weight on an input that is always zero is kept by one, and not by
# the other.

# %%
toy = nn.Sequential(nn.Linear(3, 2, bias=False))
toy[0].weight = nn.Parameter([[9.0, 0.5, -0.4], [8.0, -0.3, 0.6]])
x = rng.standard_normal((64, 3)).astype(np.float32)
x[:, 0] = 0  # the input of the two large weights
examples = [(minicnn.tensor(x), minicnn.tensor((x[:, 1] < x[:, 2]).astype(np.int64)))]
for score in ("l1", "taylor"):
    trial = copy.deepcopy(toy)
    compress.prune(trial, 1 / 3, score=score, data=examples if score == "taylor" else None)
    print(
        f"{score:7}",
        trial[0].weight.detach().numpy().astype(float).round(1).tolist(),
        f"loss {F.cross_entropy(trial(examples[0][0]), examples[0][1]).item():.3f}",
    )

# %% [markdown]
# ## The threshold
#
# **Does:** goes through the *rows* of the matrix and asks whether a row is larger than a number: an error. If it worked, it would
# leave out rows and change the shape; and it would put one array back into a network that has four.
# **Right:** a mask of the same shape, for every layer.

# %%
matrix = mlp.fc1.weight.detach().numpy().T
try:
    kept = np.array([w for w in matrix if np.abs(w) > 0.01])
except ValueError as error:
    print("the listing:", error)
compress.prune_below(mlp, 0.05)
print({name: (mask.shape, f"{1 - mask.mean():.0%} zeros") for name, mask in compress.masks(mlp).items()})

# %% [markdown]
# ## "LassoLasso"
#
# **Says:** prune with the LASSO. **Fails:** there is no such class, and regressing *labels* on *images* makes a linear model's
# weights, which are no layer's. **Right:** two things. (a) Train with an L1 penalty by the *proximal* step, which makes weights
# exactly zero: after each step, move every weight towards zero by $\eta\lambda$ and stop at zero. (b) *Reconstruct a layer*: choose
# input channels by a LASSO such that the layer's output stays as it was (He et al., 2017).


# %% tags=["exercise"]
def soft_threshold(w, amount):
    """The proximal step of amount * sum |w|: towards zero by `amount`, and not beyond."""
    # <solution: sign(w) times max(|w| - amount, 0).>
    return np.sign(w) * np.maximum(np.abs(w) - amount, 0)
    # </solution>


# %% tags=["check"]
answer = soft_threshold(np.array([0.5, -0.5, 0.05, -0.05]), 0.1)
assert np.allclose(answer, [0.4, -0.4, 0, 0]), f"0.5 moves to 0.4, and 0.05 stops at 0; yours {answer}"
print("right")

# %%
sparse = copy.deepcopy(trained)
train(sparse, epochs=2, lr=0.02, callbacks=[compress.Proximal(0.02)])
layers = [p.detach().numpy() for p in sparse.parameters() if p.ndim > 1]
print(
    f"(a) {sum((w == 0).sum() for w in layers) / sum(w.size for w in layers):.0%} exact zeros, accuracy {accuracy(sparse):.1%}"
)
rebuilt = copy.deepcopy(trained)
error = compress.lasso_reconstruction(rebuilt, "conv2", 0.25, [images])
cut = copy.deepcopy(trained)
compress.prune(cut, 0.25, unit="channel", layers=["conv2"])
print(
    f"(b) a quarter of the input channels of conv2: {accuracy(cut):.1%} by magnitude, {accuracy(rebuilt):.1%} reconstructed (error {error:.1%})"
)

# %% [markdown]
# ## Quantization to unsigned bytes
#
# **Does:** round(256 w) as *unsigned* bytes, and never divides again. A weight of -0.01 becomes 253, that is, plus 253. The formula
# before it, round(w x scale), is **sound** once one says what the scale is (here it *multiplies*; ours divides: $q = w / s$).
# **Right:** a zero point for unsigned, or signed symmetric.

# %%
print("the listing: -0.01 becomes", int(np.round(-0.01 * 256)) % 256)
low, high = weight.min(), weight.max()
s = (high - low) / 255
z = np.rint(-low / s)
unsigned = np.clip(np.rint(weight / s) + z, 0, 255)
print(
    f"with a zero point of {int(z)}: off by {np.abs((unsigned - z) * s - weight).max() / s:.2f} steps at most"
)

# %% [markdown]
# ## "Knowledge distillation"
#
# **Does:** copies the weights into an equal network and trains on. There is no teacher, and nothing becomes smaller.
# **Right:** a *smaller* student learns from the teacher's *soft* answers: which classes it holds for similar. With temperature $T$:
#
# $$ L = \alpha\, T^2\, \mathrm{KL}\big(\mathrm{softmax}(t / T) \,\Vert\, \mathrm{softmax}(s / T)\big) + (1 - \alpha)\, \mathrm{CE}(s, y). $$

# %%
teacher, students = copy.deepcopy(trained), {}
train(teacher, epochs=2, lr=0.01)
for name, loss in (
    ("alone", None),
    ("with the teacher", compress.Distillation(teacher, temperature=2, alpha=0.5)),
):
    minicnn.manual_seed(3)
    student = models.create("simple", width=0.125)
    train(student, epochs=4, lr=0.02, loss=loss)
    students[name] = accuracy(student)
size = sum(p.numel() for p in student.parameters()) / sum(p.numel() for p in trained.parameters())
print(
    f"a student of {size:.0%} of the teacher's size:",
    {name: f"{value:.1%}" for name, value in students.items()},
)

# %% [markdown]
# ## The outlook
#
# *Adaptive*: let measurements choose rates and bits (`compress.sensitivity`, `compress.mixed_bits`). *Interpretable*: look at
# what moves an answer. *Secure*: an attacker moves every pixel a little in the worst direction (FGSM, Goodfellow 2015); does
# compression make that easier? *On many devices*: `model.to("cuda")`, to which notebook 11 leads.

# %%
names = data.FashionMNIST(train=False).class_names
picked = [0, 1, 2, 4, 6, 7]
viz.saliency(
    trained.eval(),
    images.numpy()[picked],
    [int(labels.numpy()[i]) for i in picked],
    [names[int(labels.numpy()[i])] for i in picked],
)


# %%
def attacked(model, strength=0.02):
    """Accuracy when every pixel has moved by this share of the range in the direction that raises the loss."""
    low, high = images.numpy().min(), images.numpy().max()
    model.eval()
    x = minicnn.tensor(images.numpy().copy(), requires_grad=True)
    F.cross_entropy(model(x), labels).backward()
    moved = np.clip(images.numpy() + strength * (high - low) * np.sign(x.grad.numpy()), low, high)
    with minicnn.no_grad():
        return float((model(minicnn.tensor(moved)).numpy().argmax(1) == labels.numpy()).mean())


for name, model in (("before", trained), ("90% pruned", step_by_step)):
    print(f"{name:11} {accuracy(model):.1%}, under attack {attacked(model):.1%}")

# %% [markdown]
# # Article 003: compression and optimisation
#
# ## 3.1: three ways to choose
#
# **Says** (text): pick weights at random, by rank, or split the ranking into equal parts. **Right:** random is the *baseline* that any
# ranking must beat; and "equal parts" of a ranking are rates: the threshold of 25% is the first quartile.

# %%
lines = {"at random": [], "smallest first": []}
for rate in (0.25, 0.5, 0.75):
    for name, score in (("at random", "random"), ("smallest first", "l1")):
        trial = copy.deepcopy(trained)
        compress.prune(trial, rate, score=score)
        lines[name].append(f"{accuracy(trial):.1%}")
    print(
        f"rate {rate}: threshold of fc1 {np.quantile(np.abs(weight), rate):.4f}, random {lines['at random'][-1]}, ranked {lines['smallest first'][-1]}"
    )

# %% [markdown]
# ## 4.1: weight_pruning(rate)
#
# **Does:** sorts along the last axis, then takes *rows* by these numbers: out of range in two dimensions. In one dimension it keeps
# the *smallest*, and the array gets shorter. **Right:** exactly $k = \mathrm{round}(\text{rate} \times \text{size})$ smallest become zero, in each
# layer or in one common ranking.

# %%
one_row = np.array([0.1, -5.0, 0.2, 3.0])
order = np.argsort(np.abs(one_row))
print("the listing keeps of", one_row, "the part", one_row[order[: -int(0.5 * 4)]])
try:
    weight[np.argsort(np.abs(weight))[: -int(0.5 * len(weight))]]
except IndexError as error:
    print("and of a matrix:", error)
for scope in ("layer", "global"):
    trial = copy.deepcopy(trained)
    compress.prune(trial, 0.8, scope=scope)
    print(
        f"80% of each {scope:6}: {accuracy(trial):.1%}",
        {name: round(value, 2) for name, value in compress.sparsities(trial).items()},
    )

# %% [markdown]
# ## 3.2: powers of two
#
# **Says:** $\mathrm{round}(w \cdot 2^p)$. **Misses:** saturation. **Right:** with it, this is *fixed point*, and its beauty is that requantization becomes a
# *shift* of bits, which the smallest processors can do.

# %%
p = 7 - math.ceil(math.log2(np.abs(weight).max()))
fixed = np.clip(np.rint(weight * 2.0**p), -127, 127)
print(f"p = {p}: error at most {np.abs(fixed / 2.0**p - weight).max() * 2**p:.2f} steps")
sums = rng.integers(-(2**20), 2**20, 100_000)
print(
    "a shift by 9 with rounding is a division by 512:",
    np.array_equal((sums + 256) >> 9, np.floor(sums / 512 + 0.5)),
)
shifting = compress.quantize(copy.deepcopy(trained), [(images, labels)], bits=8, power_of_two=True)
print(f"the network with scales that are powers of two: {accuracy(shifting):.1%}")

# %% [markdown]
# ## 4.2: QuantizationLayer
#
# **Says:** a layer that quantizes a network. **Fails:** the library has no such layer, and the new network has no other. **Right:** *fake
# quantization* on the tape: attached to each weight and activation, after training or during it.

# %%
two_bits = compress.quantize(
    copy.deepcopy(trained), [(images, labels)], bits=2, activation_bits=8, learned=True
)
at_first = accuracy(two_bits)
train(two_bits, epochs=2, lr=0.01)
print(f"weights of two bits: {at_first:.1%} at first, {accuracy(two_bits):.1%} after training with them")

# %% [markdown]
# ## 3.3: f_target = f_source + delta f
#
# **Says:** a formula. **Right:** freeze the source and train only a small addition, a product of two thin matrices for each layer, zero at
# first (it is known as LoRA today). Here the target is the same clothes, upside down.


# %%
def turned(dataset):
    """The first thousand images upside down, normalized as the others are."""
    return data.ArrayDataset(
        dataset.images[:1_000, :, ::-1].copy(), dataset.labels[:1_000], transform=dataset.transform
    )


upside_down, judge = turned(everything), data.DataLoader(turned(everything_test), 250)
adapted = copy.deepcopy(trained)
at_first = minicnn.evaluate(adapted, judge).accuracy
compress.low_rank_residual(adapted, rank=4)
trainable = [p for p in adapted.parameters() if p.requires_grad]
train(adapted, epochs=3, dataset=upside_down, optimizer=optim.Adam(trainable, lr=0.005))
print(
    f"upside down: {at_first:.1%} at first, {minicnn.evaluate(adapted, judge).accuracy:.1%} with {sum(p.numel() for p in trainable):,} new numbers"
)

# %% [markdown]
# ## 3.4: importance by the error of the output
#
# **Says** (text): important is what changes the output. **Right:** to first order, removing $w$ changes the loss by $|w \cdot \partial L / \partial w|$:
# the *Taylor score*, one backward pass for all weights.

# %%
for score in ("l1", "taylor"):
    trial = copy.deepcopy(trained)
    compress.prune(
        trial, 0.4, unit="filter", score=score, data=[(images, labels)] if score == "taylor" else None
    )
    print(f"40% of all filters by {score:6}: {accuracy(trial):.1%}, before any training")

# %% [markdown]
# ## 4.3: the pruning schedule
#
# **Says:** prune by a schedule. **Fails:** neither of its two names exists, and it would begin *after* `fit`. **Right:** a callback of `fit`.

# %%
scheduled = copy.deepcopy(trained)
schedule = compress.PolynomialPruning(
    0, 2, initial=0.5, final=0.9, every=f"{max(len(train_set) // 64 // 5, 1)} batches"
)
train(scheduled, epochs=3, lr=0.02, callbacks=[schedule])
print(f"{compress.sparsity(scheduled):.0%} zeros, {accuracy(scheduled):.1%}")

# %% [markdown]
# ## 2.2 and the questions: which hyper-parameters, which method?
#
# **Says** (text): choose well. **Right:** search, and pick by a constraint. (`compress.pick` was used above.)


# %%
def trial(lr, rate, seed):
    model = copy.deepcopy(trained)
    compress.prune(model, rate)
    train(model, epochs=1, lr=lr)
    return {"accuracy": accuracy(model)}


print(compress.search(trial, {"lr": [0.01, 0.05], "rate": [0.8, 0.95]}))

# %% [markdown]
# # Article 004: accuracy and speed
#
# ## 4.1: convolution
#
# **Says:** the result is as large as the image. **Does:** only windows that fit, so it is smaller by $k - 1$; two dimensions only, no stride, no
# padding, one channel. **Right:** $\lfloor (H + 2p - k)/s \rfloor + 1$ (notebook 02).

# %%
x = minicnn.randn(1, 1, 28, 28)
for padding, stride in ((0, 1), (1, 1), (1, 2)):
    result = F.conv2d(x, minicnn.randn(1, 1, 3, 3), padding=padding, stride=stride)
    print(
        f"padding {padding}, stride {stride}: {result.shape[2]} rows, by the law {(28 + 2 * padding - 3) // stride + 1}"
    )

# %% [markdown]
# ## 4.2: pooling
#
# **Does:** ignores its argument `padding`; and on an image with channels it takes the largest number over *all channels*, so that three colours become
# one number. **Right:** channel by channel, padding with minus infinity for the maximum.

# %%
picture = np.arange(2 * 2 * 3.0).reshape(2, 2, 3)  # height, width, channels
print(
    "the listing: one number",
    picture.max(),
    "- ours, one for each channel:",
    F.max_pool2d(minicnn.tensor(np.moveaxis(picture, 2, 0)[None]), 2).numpy().ravel(),
)
edge = minicnn.tensor(np.full((1, 1, 2, 2), -1.0))
print("padding is honoured, and is no zero that wins:", F.max_pool2d(edge, 2, padding=1).numpy().ravel())
print(
    "average pooling, where padded zeros count or not:",
    F.avg_pool2d(edge, 2, padding=1).numpy().ravel()[0],
    F.avg_pool2d(edge, 2, padding=1, count_include_pad=False).numpy().ravel()[0],
)

# %% [markdown]
# ## 4.3: the fully connected layer
#
# **Says:** $y = Wx + b$. **Does:** multiplies *each single weight* with the *sum of all inputs*. The result has the shape of the weights, and shuffling the
# input changes nothing. **Right:** row times input.

# %%
x, W, b = np.array([1.0, 2.0, 3.0]), np.array([[1.0, 0, 0], [0, 0, 1.0]]), np.array([10.0, 20.0])
listing = np.array([[np.sum(x * W[i, j]) for j in range(3)] for i in range(2)])
print("the listing:", listing.tolist(), "is W times the sum:", np.array_equal(listing, W * x.sum()))
print(
    "right:",
    (W @ x + b).tolist(),
    "=",
    F.linear(minicnn.tensor(x), minicnn.tensor(W), minicnn.tensor(b)).tolist(),
)

# %% [markdown]
# ## 6.2: six methods of training
#
# **Says** (text): gradient descent, in batches, stochastic, with momentum, gradient clipping, decay of the learning rate. **Right:** all six are in
# notebook 04; here together in four lines.

# %%
model = fresh()
optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
decay = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)
history = train(model, epochs=2, optimizer=optimizer, scheduler=decay, clip_norm=1.0)
print(
    f"mini-batches of 64 in random order, momentum, clipping and decay: {accuracy(model):.1%} after two epochs"
)

# %% [markdown]
# ## 5.1: augmentation
#
# **Says** (text): more data by changing images, and faster hardware (notebook 11). **Right:** flips, shifts, rotations, holes, drawn anew each time a picture is seen.

# %%
augment = data.Compose(
    [data.RandomHorizontalFlip(), data.RandomShift(3), data.RandomRotation(15), data.Cutout(8)]
)
again = data.DataLoader(data.Subset(everything, [7] * 10), 10, transform=augment, seed=2)
viz.images(next(iter(again))[0])

# %% [markdown]
# ## The list of uses and of references
#
# Classification runs all through this course. The nets and blocks of the reference list are in `minicnn.models` and `minicnn.nn`, with
# the published numbers of parameters, and the focal loss is there, too:

# %%
for name, model, published in (
    ("LeNet-5 (Caffe's)", models.create("lenet-5"), "431 thousand"),
    ("Inception block 3a", models.Inception(192, 64, 96, 128, 16, 32, 32), "163,696"),
    ("DenseNet-BC, L = 100, k = 12", models.DenseNet(3, 32, layers=(16, 16, 16)), "0.8 million"),
    ("ResNet-20", models.create("resnet-20"), "0.27 million"),
):
    print(f"{name:30} {sum(p.numel() for p in model.parameters()):>9,} parameters, published {published}")
sure = minicnn.tensor([[4.0, 0.0]])
print(
    f"an easy image: cross-entropy {F.cross_entropy(sure, minicnn.tensor([0])).item():.4f}, focal loss {nn.FocalLoss()(sure, minicnn.tensor([0])).item():.6f}"
)

# %% [markdown]
# The accuracies on the web come from the long run (6,000 images). With `MINICNN_FAST=1` they are lower, and the comparisons are the same.
#
# ## What was learnt
#
# - Print shapes, and check one number by hand: most of these listings fail at that.
# - "Clip", "cut" and "prune", or "transfer" and "distil", are different things. A name is not an explanation.
# - A compressed network needs a measurement: how many zeros, how many bytes, how accurate. Several listings change everything and compress nothing.
# - The ideas behind the listings are sound, and all of them run here.
#
# ## Questions
#
# 1. Which of the failures would a test on a single made-up example have found? Write that test for one of them.
# 2. Two failures give no error and a plausible shape. Which? What would have revealed them?
# 3. Take an article or a blog that you trust, and run its first listing. What did you have to guess?
