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
# # 03 Pooling, dense layers, losses: the rest of a network
#
# Convolutions find patterns (notebook 02). To make a decision out of patterns, three more things are needed: *pooling*, which makes
# the picture smaller; a *dense* layer, which weighs everything that was found; and a *loss*, which says in one number how wrong the
# answer is. At the end we put them together and look inside the whole network.

# %% tags=["setup"]
import os

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import minicnn
import minicnn.nn.functional as F
from minicnn import data, graph, nn, optim, viz

FAST = os.environ.get("MINICNN_FAST") == "1"  # a short run: fewer images
generator = minicnn.manual_seed(0)

# %% [markdown]
# ## Pooling
#
# *Max pooling* takes the largest number of each window, for each channel alone; *average pooling* takes the mean. Usually the windows are
# 2 x 2 and do not overlap (stride 2), so height and width are halved:
#
# $$ x: (N, C, H, W) \;\to\; y: (N, C, H/2, W/2), \qquad y_{n,c,i,j} = \max_{0 \le p, q < 2} x_{n,\,c,\,2i+p,\,2j+q}. $$
#
# Nothing is learnt here. It makes the next layer's work four times less, lets it see twice as far, and forgets *exactly* where
# a pattern was, which is what we want for "is there a sleeve?".

# %%
test_set = data.FashionMNIST(train=False)
shirt = np.asarray(test_set.images[4], np.float32).reshape(1, 1, 28, 28) / 255
picture = minicnn.tensor(shirt)
steps = [picture, F.max_pool2d(picture, 2), F.max_pool2d(picture, 4), F.avg_pool2d(picture, 4)]
with viz.style.sheet(width=9, height=2.6) as sheet:
    for axes, step, title in zip(
        sheet.subplots(1, 4), steps, ("the image", "max 2 x 2", "max 4 x 4", "average 4 x 4"), strict=True
    ):
        axes.imshow(step.numpy()[0, 0], cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"{title}: {step.shape[2]} x {step.shape[3]}", fontsize=9)
        viz.style.bare(axes)
sheet

# %% [markdown]
# ### Exercise 1: max pooling


# %% tags=["exercise"]
def max_pool(x, size):
    """The largest number of each window of size x size, windows side by side. x: (N, C, H, W)."""
    # <solution: Take every size-th window of sliding_window_view(x, (size, size), axis=(2, 3)), then the maximum over the last two axes.>
    windows = sliding_window_view(x, (size, size), axis=(2, 3))[:, :, ::size, ::size]
    return windows.max(axis=(-2, -1))
    # </solution>


# %% tags=["check"]
sample = np.array([[1.0, 2, 5, 0], [3, 4, 0, 6], [7, 0, 0, 0], [0, 0, 0, 9]]).reshape(1, 1, 4, 4)
answer = max_pool(np.concatenate([sample, -sample], axis=1), 2)
assert answer.shape == (1, 2, 2, 2), (
    f"4 x 4 pixels become 2 x 2 and both channels stay: (1, 2, 2, 2), got {answer.shape}"
)
assert answer[0, 0].tolist() == [[4, 6], [7, 9]], (
    f"the largest of each quarter are 4 6 7 9, yours {answer[0, 0].tolist()}"
)
assert answer[0, 1].tolist() == [[-1, 0], [0, 0]], "each channel for itself"
print("right")

# %% [markdown]
# **Backward.** Only the largest number of a window moved the result. So its pixel gets the whole gradient, and the others none. Average
# pooling gives each pixel an equal share.

# %%
x = minicnn.tensor(sample, requires_grad=True)
F.max_pool2d(x, 2).sum().backward()
print("gradient of max pooling:\n", x.grad.numpy()[0, 0])
x.grad = None
F.avg_pool2d(x, 2).sum().backward()
print("of average pooling:\n", x.grad.numpy()[0, 0])

# %% [markdown]
# ## The bend: ReLU
#
# Convolutions and dense layers are *linear*: twice the input gives twice the output. A chain of linear maps is one linear map, however
# long. So after each comes a bend. $\mathrm{relu}(x) = \max(0, x)$ costs nothing, and its slope is 1 wherever it lets something through.
# (GELU is a smooth relative.) Older bends flatten out at both ends, and where a curve is flat no gradient comes through.

# %%
x = np.linspace(-4, 4, 201)
bends = {"ReLU": F.relu, "sigmoid": minicnn.sigmoid, "tanh": minicnn.tanh, "GELU": F.gelu}
values, slopes = {}, {}
for name, bend in bends.items():
    point = minicnn.tensor(x, requires_grad=True)
    result = bend(point)
    result.sum().backward()
    values[name], slopes[name] = (x, result.detach().numpy()), (x, point.grad.numpy())
with viz.style.sheet(width=10, height=3.2) as sheet:
    left, right = sheet.subfigures(1, 2)
    viz.curves(values, xlabel="x", ylabel="value", title="Four bends", figure=left)
    viz.curves(slopes, xlabel="x", ylabel="slope", title="and their slopes", figure=right)
sheet

# %% [markdown]
# ## Dense layers
#
# After the last pooling each image is a small stack of maps, $(N, C, H, W)$. *Flatten* makes one long row of each image, $(N, I)$ with $I = C H W$, and a
# dense (*fully connected*) layer gives every output a weight for every input:
#
# $$ Y = X W^\top + b, \qquad X: (N, I), \quad W: (O, I), \quad b: (O), \quad Y: (N, O). $$
#
# One row of $W$ is one question, "how much does the image look like this?", and its answer is a sum of products. The last layer has
# as many outputs as there are classes. These scores are called *logits*: any number, large for "yes".
#
# ### Exercise 2: flatten and dense


# %% tags=["exercise"]
def dense(images, W, b):
    """Scores (N, O) of images (N, C, H, W), with W (O, C H W) and b (O)."""
    # <solution: Reshape images to (N, -1), multiply by the transpose of W, add b.>
    return images.reshape(len(images), -1) @ W.T + b
    # </solution>


# %% tags=["check"]
rng = np.random.default_rng(0)
some, W, b = rng.normal(size=(5, 2, 3, 3)), rng.normal(size=(4, 18)), rng.normal(size=4)
scores = dense(some, W, b)
assert scores.shape == (5, 4), f"5 images with 4 scores each: (5, 4), got {scores.shape}"
assert np.isclose(scores[2, 3], (some[2].ravel() * W[3]).sum() + b[3]), (
    "score 3 of image 2 is the sum of its pixels times row 3 of W, plus b[3]"
)
engine = F.linear(minicnn.tensor(some).flatten(1), minicnn.tensor(W), minicnn.tensor(b))
assert np.allclose(scores, engine.numpy()), "not what the engine computes"
print("right")

# %% [markdown]
# ## From scores to probabilities: softmax
#
# Scores become positive numbers that sum to one by the exponential function and a division, for each image (row) alone:
#
# $$ p_k = \frac{e^{z_k}}{\sum_j e^{z_j}}, \qquad z, p: (N, K) \text{ for } K \text{ classes}. $$
#
# Adding the same number to all scores changes nothing, and that is useful: $e^{1000}$ is too large for any computer, so one
# subtracts the largest score first.
#
# ## Cross-entropy
#
# How wrong is a row of probabilities, if the true class is $t$? The loss is $-\ln p_t$: 0 if the network is sure and right, 2.3 for a guess among
# ten, and growing without bound the surer it is of something wrong. Averaged over the batch it is called *cross-entropy*. Together
# with softmax its gradient is strikingly simple:
#
# $$ L = -\frac1N \sum_n \ln p_{n, t_n}, \qquad \frac{\partial L}{\partial z_{n,k}} = \frac{1}{N} \big( p_{n,k} - [k = t_n] \big), $$
#
# where $[k = t]$ is 1 for the true class and 0 for the others: what was said minus what should have been said.
#
# ### Exercise 3: cross-entropy and its gradient


# %% tags=["exercise"]
def cross_entropy(z, targets):
    """(loss, gradient by z) for scores z (N, K) and true classes (N,)."""
    # <solution: Subtract each row's maximum, exponentiate, normalize; loss from the true columns; gradient (p - one_hot) / N.>
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    rows = np.arange(len(z))
    loss = -np.log(p[rows, targets]).mean()
    p[rows, targets] -= 1
    return loss, p / len(z)
    # </solution>


# %% tags=["check"]
z, targets = np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), np.array([0, 2])
loss, gradient = cross_entropy(z.copy(), targets)
assert abs(loss - (0.40760596 + np.log(3)) / 2) < 1e-6, f"the mean of 0.4076 and ln 3 is 0.7531, yours {loss}"
assert gradient.shape == z.shape, "one number for each score"
assert np.allclose(gradient[1], [1 / 6, 1 / 6, -1 / 3]), (
    f"for the guess: (1/3, 1/3, 1/3 - 1) / 2, yours {gradient[1]}"
)
with np.errstate(over="raise", invalid="raise"):
    assert np.isfinite(cross_entropy(np.array([[1000.0, 0.0]]), np.array([0]))[0]), (
        "scores of 1000 must not overflow"
    )
scores = minicnn.tensor(z, requires_grad=True)
F.cross_entropy(scores, minicnn.tensor(targets)).backward()
assert np.allclose(gradient, scores.grad.numpy()), "not the engine's gradient"
print("right")

# %% [markdown]
# ### Other losses
#
# For *numbers* instead of classes one takes the squared distance (MSE, pulled about by outliers), the absolute distance (L1), or Huber's: a
# parabola near zero and a straight line beyond.

# %%
errors = np.linspace(-3, 3, 121)
zero = minicnn.tensor(0.0)
losses = {
    name: (errors, [function(minicnn.tensor(float(e)), zero).item() for e in errors])
    for name, function in (("squared", F.mse_loss), ("absolute", F.l1_loss), ("Huber", F.huber_loss))
}
viz.curves(losses, xlabel="prediction minus target", title="Three losses for numbers")

# %% [markdown]
# ## A whole network, looked through
#
# Convolution, bend, pooling; again; then dense. The *graph* is what the engine recorded of one run: each box an operation, with the shape of
# its result and its number of multiplications (*MAC*: a product that is added to a sum).

# %%
model = nn.Sequential(
    nn.Conv2d(1, 8, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(8, 16, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(16 * 7 * 7, 10),
)  # fmt: skip
print(sum(p.numel() for p in model.parameters()), "parameters")
viz.graph(graph.trace(model, picture))

# %% [markdown]
# We train it for a moment (notebook 04 explains how), and look at what its layers answer to one image.

# %%
train_set = data.Subset(data.FashionMNIST(train=True), range(3_000 if FAST else 10_000))
optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
minicnn.fit(
    model, data.DataLoader(train_set, 64, shuffle=True), optimizer=optimizer, epochs=3, progress=False
)
result = minicnn.evaluate(model, data.DataLoader(data.Subset(test_set, range(2_000)), 500))
print(f"test accuracy {result.accuracy:.1%}")
seen = next(iter(data.DataLoader(test_set, 5)))[
    0
]  # as the network sees images: normalized to mean 0 and spread 1
viz.feature_maps(model, seen[4], ["0", "2", "3", "5"])

# %% [markdown]
# Some maps of the first layer show edges from above, some the surface. Those of the second are coarser, and harder to name. The last row is
# what the dense layer gets to see: $16 \times 7 \times 7$ numbers.
#
# Which *pixels* speak for the answer? The gradient of the right class's score by each pixel says how much it would move.

# %%
images, labels = next(iter(data.DataLoader(test_set, 8)))
names = test_set.class_names
viz.saliency(model, images, labels, [names[label] for label in labels.tolist()])

# %% [markdown]
# And is everything in it of use? A *dead* unit (a neuron, or a filter with its whole map) answers zero to every image: its ReLU never opens, so no gradient comes through, and it
# will never learn again. A learning rate that is too large can kill many at once.

# %%
many = next(iter(data.DataLoader(test_set, 500)))[0]
viz.dead_units(model, many)

# %% [markdown]
# With `MINICNN_FAST=1` the network sees 3,000 images, on the web 10,000.
#
# ## What was learnt
#
# - Max pooling keeps the strongest answer of each window; backward, only that pixel gets the gradient.
# - Without a bend between them, layers are no deeper than one.
# - A dense layer weighs every number for every output; a logit is a score, softmax makes probabilities of scores.
# - Cross-entropy is $-\ln$ of the probability of the truth; by the scores its gradient is $p$ minus the truth.
#
# ## Questions
#
# 1. Where do more weights lie in the network above, in its two convolutions or in its dense layer? And where is more work?
# 2. What does max pooling do with ties, two largest numbers in a window? Find out with the engine. Does it matter?
# 3. A network gives each of 10 classes the score 0, for every image. What is its loss, and what its gradient at the last bias, if all classes
#    are equally frequent?
