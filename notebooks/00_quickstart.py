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
# # Quickstart: from a gradient to a trained network
#
# In a few minutes this notebook takes one gradient by hand, trains a small convolutional network on real images,
# and looks inside it. It runs offline; the data is part of the package.
#
# A *tensor* is an array that can remember how it was computed. From that memory, the *tape*, the engine works out
# derivatives. Everything else in a deep-learning engine stands on this.

# %%
import os

import minicnn
import minicnn.nn.functional as F
from minicnn import data, models, optim, viz

FAST = os.environ.get("MINICNN_FAST") == "1"  # a short run: fewer images and epochs
generator = minicnn.manual_seed(0)

# %% [markdown]
# ## One gradient
#
# For $y = (w x + b)^2$ the chain rule gives $\partial y / \partial w = 2 (w x + b) x$.
# With $w = 3$, $x = 2$, $b = 1$ that is $2 \cdot 7 \cdot 2 = 28$.

# %%
w = minicnn.tensor(3.0, requires_grad=True)
b = minicnn.tensor(1.0, requires_grad=True)
x = minicnn.tensor(2.0)

y = (w * x + b) ** 2
y.backward()
print(f"y = {y.item()}, dy/dw = {w.grad.item()}, dy/db = {b.grad.item()}")

# %% [markdown]
# ## The data
#
# Fashion-MNIST: 60,000 grey images of 28 x 28 pixels to learn from and 10,000 to be tested on, ten kinds of clothes.

# %%
train_set = data.FashionMNIST(train=True)
test_set = data.FashionMNIST(train=False)
names = test_set.class_names
if FAST:
    train_set = data.Subset(train_set, range(12_000))
print(len(train_set), "images to learn from,", len(test_set), "to test on")

# %%
loader = data.DataLoader(test_set, batch_size=10)
images, labels = next(iter(loader))
print("a batch:", images.shape, images.dtype, "with labels", labels.tolist())

viz.images(images, [names[i] for i in labels.tolist()])

# %% [markdown]
# ## The network
#
# Two *convolutions* look for patterns of 3 x 3 pixels; after each, ReLU drops negative answers and *max-pooling* keeps
# the strongest answer of every 2 x 2 pixels. Two *dense* layers turn what was found into ten scores (*logits*), one per class.

# %%
model = models.create("simple", in_channels=1, image_size=28, num_classes=10, dropout=0.3)
print(model)
print(sum(p.numel() for p in model.parameters()), "parameters")

# %% [markdown]
# Before training, the scores are noise: the loss is near $\ln 10 \approx 2.303$, that of guessing.

# %%
with minicnn.no_grad():
    print("loss before training:", round(F.cross_entropy(model(images), labels).item(), 3))

# %% [markdown]
# ## Training
#
# One step: compute the loss of a batch, walk the tape backward, move each weight a little against its gradient.
# `fit` is this loop with progress, validation and checkpoints; here is the loop itself, for five steps.

# %%
batches = data.DataLoader(train_set, batch_size=64, shuffle=True, seed=0)
optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for _, (inputs, targets) in zip(range(5), batches, strict=False):
    loss = F.cross_entropy(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"loss {loss.item():.3f}")

# %% [markdown]
# And now in earnest.

# %%
epochs = 2 if FAST else 3
schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(batches))
history = minicnn.training.fit(
    model,
    batches,
    optimizer=optimizer,
    scheduler=schedule,
    scheduler_step="batch",
    epochs=epochs,
    validation=data.DataLoader(test_set, batch_size=250),
    progress=False,
)
for row in history.rows:
    print(f"epoch {row['epoch']}: loss {row['loss']:.3f}, test accuracy {row['validation_accuracy']:.3f}")

# %% [markdown]
# What you read on the web comes from the long run, three epochs over all 60,000 images. With `MINICNN_FAST=1` in the
# environment it is two over 12,000, and ends some points lower. `minicnn train` on the command line ends near 92.8%.
#
# ## Looking
#
# What does the network get wrong, and how sure is it?

# %%
result = minicnn.training.evaluate(model, data.DataLoader(test_set, batch_size=250))
print(f"test accuracy {result.accuracy:.4f}")

viz.confusion(result.confusion, names)

# %% [markdown]
# The first layer's 32 filters are 3 x 3 pixels each: small edge and blob detectors.

# %%
viz.filters(model.conv1.weight)

# %% [markdown]
# ## What was learnt
#
# - A tensor remembers how it was computed; `backward` walks that memory and leaves gradients in the leaves.
# - Training is: forward, loss, backward, a small step. `fit` is that loop with the conveniences.
# - The confusion matrix says more than one number: shirts and T-shirts are hard, trousers are not.
#
# ## Questions
#
# 1. In the first cell, what is $\partial y / \partial x$? Set `requires_grad=True` for `x` and check.
# 2. Why is the loss before training near 2.303? What would it be with 100 classes?
# 3. Which two classes are confused most often? Look at ten such images: would you have known?
