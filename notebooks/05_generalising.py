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
# # 05 Generalising: right on what was never seen
#
# A network with more parameters than training images can learn all of them by heart. We want something else: that it is right
# on images that it has never seen. The distance between the two is called *overfitting*, and there are many remedies. This
# notebook tries them one by one on too few images, where overfitting is worst.

# %% tags=["setup"]
import os

import numpy as np

import minicnn
import minicnn.nn.functional as F
from minicnn import data, graph, models, nn, optim, viz

FAST = os.environ.get("MINICNN_FAST") == "1"  # a short run: fewer epochs
generator = minicnn.manual_seed(0)

# %% [markdown]
# ## Overfitting, seen
#
# 800 images to learn from, 2,000 to be judged by, and a dense network with 200,000 parameters.

# %%
train_set = data.Subset(data.FashionMNIST(train=True), range(800))
test_set = data.Subset(data.FashionMNIST(train=False), range(2_000))
test_loader = data.DataLoader(test_set, 500)
epochs = 12 if FAST else 40


def run(make, lr=0.1, epochs=epochs, transform=None, **options):
    """Train a new network; gives it and its history, with 'validation_accuracy' on the test images."""
    minicnn.manual_seed(0)
    model = make()
    loader = data.DataLoader(train_set, 32, shuffle=True, seed=0, transform=transform)
    decay = options.pop("weight_decay", 0)
    groups = optim.parameter_groups(model, weight_decay=decay) if decay else model.parameters()
    optimizer = optim.SGD(groups, lr=lr)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    options |= {"optimizer": optimizer, "scheduler": schedule, "epochs": epochs}
    history = minicnn.fit(model, loader, validation=test_loader, progress=False, **options)
    return model, history


def dense(dropout=0.0):
    return models.MLP(hidden=(256,), dropout=dropout)


plain, history = run(dense)
viz.curves(
    {"on the 800 training images": history["loss"], "on test images": history["validation_loss"]},
    title="It learns the training images by heart",
)

# %% [markdown]
# The loss on the training images goes on falling. That on test images stops, and then *rises*: the network becomes more and more
# sure of its mistakes. (A *validation set*, images kept apart to watch this and to choose by, should be another one than the
# final test. We are less strict here.)
#
# The cheapest remedy is to stop at the lowest point: *early stopping*. The others change what is learnt.
#
# ## Small weights: L2 and L1
#
# A network that reacts strongly to small differences has large weights. So add their size to the loss:
#
# $$ L + \lambda_2 \sum_i w_i^2 \qquad \text{or} \qquad L + \lambda_1 \sum_i |w_i|. $$
#
# The gradient of the first is $2 \lambda_2 w$: every step takes a small *share* of each weight away, so it is also called *weight
# decay*. The gradient of the second is $\pm \lambda_1$: every step takes the same small *amount*, down to zero. So L1 makes
# many weights exactly or nearly zero (notebook 06 uses that), L2 makes all of them small. Biases are left alone: they
# do not multiply anything.
#
# ### Exercise 1: one step with both


# %% tags=["exercise"]
def regularized_step(w, gradient, lr, l1=0.0, l2=0.0):
    """One step of gradient descent on L + l1 sum |w| + l2 sum w^2, where `gradient` is that of L alone."""
    # <solution: Add l1 times the sign of w and 2 times l2 times w to the gradient before the step.>
    return w - lr * (gradient + l1 * np.sign(w) + 2 * l2 * w)
    # </solution>


# %% tags=["check"]
w = np.array([1.0, -2.0])
assert np.allclose(regularized_step(w, np.zeros(2), 0.1, l2=0.5), [0.9, -1.8]), (
    "L2 alone: each weight loses a tenth of itself here"
)
assert np.allclose(regularized_step(w, np.zeros(2), 0.1, l1=0.5), [0.95, -1.95]), (
    "L1 alone: each weight moves 0.05 towards zero"
)
assert np.allclose(regularized_step(w, np.ones(2), 0.1), [0.9, -2.1]), "without both it is the plain step"
print("right")

# %% [markdown]
# ## Dropout
#
# In training, set each hidden unit to zero with probability $p$, drawn anew for each image. No unit can then rely on a particular
# other one. So that the next layer gets sums of the usual size, the others are divided by $1 - p$ (*inverted dropout*). For
# answers it is switched off: `model.eval()`.
#
# ### Exercise 2: inverted dropout


# %% tags=["exercise"]
def dropout(x, p, training, rng):
    """x with each entry zero with probability p and the others scaled, or x itself if not training."""
    # <solution: If not training, give back x. Else draw rng.random(x.shape) >= p as a mask and divide by 1 - p.>
    if not training:
        return x
    return x * (rng.random(x.shape) >= p) / (1 - p)
    # </solution>


# %% tags=["check"]
random = np.random.default_rng(0)
ones = np.ones((1000, 20))
assert dropout(ones, 0.4, False, random) is ones, "without training nothing happens"
dropped = dropout(ones, 0.4, True, random)
assert abs((dropped == 0).mean() - 0.4) < 0.02, (
    f"with p = 0.4 about 40% are zero, yours {np.mean(dropped == 0):.0%}"
)
assert abs(dropped.mean() - 1) < 0.03, (
    f"the mean should stay 1: divide what is left by 1 - p; yours {dropped.mean():.2f}"
)
print("right")

# %% [markdown]
# ## More images: augmentation
#
# A boot that is mirrored, moved by a pixel or has a hole is still a boot. So show the network a slightly changed picture each time.
# It never sees the same one twice. One must know what may be changed: a mirrored letter is no letter.

# %%
augment = data.Compose([data.RandomHorizontalFlip(), data.RandomShift(1), data.Cutout(4)])
ten = data.DataLoader(data.Subset(data.FashionMNIST(train=True), [0, 5] * 5), 10, transform=augment, seed=3)
viz.images(next(iter(ten))[0])

# %%
remedies = {
    "nothing": run(dense)[1],
    "L2": run(dense, weight_decay=0.01)[1],
    "L1": run(dense, l1=0.0003)[1],
    "dropout": run(lambda: dense(dropout=0.5))[1],
    "augmentation": run(dense, transform=augment)[1],
}
for name, history in remedies.items():
    print(
        f"{name:13} training {history['accuracy'][-1]:.1%}, test {history['validation_accuracy'][-1]:.1%}, test loss {history['validation_loss'][-1]:.3f}"
    )
viz.curves(
    {name: history["validation_loss"] for name, history in remedies.items()},
    ylabel="loss on test images",
    title="Remedies",
    legend_beside=True,
)

# %% [markdown]
# Look at the distance between the two accuracies, and at how the test loss ends. Without a remedy the network is right on nearly every training
# image, and its test loss is the worst of all; each remedy gives up some of the former and wins some of the latter. The accuracy on
# test images moves little: from 800 images there is only so much to be learnt. Remedies can be combined.
#
# ## Normalizing: batch norm
#
# Each layer changes while the one before it changes: it learns from inputs whose size and middle drift. *Batch normalization*
# fixes that. For each channel it subtracts the mean $\mu$ over the batch (and all pixels), divides by the spread $\sigma$ (the root of the variance
# $\sigma^2$, the mean square distance from $\mu$), and then lets the network choose a scale $\gamma$ and a shift $\beta$ itself:
#
# $$ y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta, \qquad x, y: (N, C, H, W), \quad \mu, \sigma^2, \gamma, \beta: (C). $$
#
# The tiny $\varepsilon = 10^{-5}$ keeps the division from one by zero. A single image has no batch. So in training the layer keeps *running* means of $\mu$ and $\sigma^2$, and uses these in `eval`.
#
# ### Exercise 3: batch norm


# %% tags=["exercise"]
def batch_norm(x, gamma, beta, eps=1e-5):
    """Batch norm in training, for x (N, C, H, W) and gamma, beta (C)."""
    # <solution: Mean and variance over axes 0, 2, 3 with keepdims=True; gamma and beta reshaped to (1, C, 1, 1).>
    mean = x.mean(axis=(0, 2, 3), keepdims=True)
    variance = x.var(axis=(0, 2, 3), keepdims=True)
    scale, shift = gamma.reshape(1, -1, 1, 1), beta.reshape(1, -1, 1, 1)
    return scale * (x - mean) / np.sqrt(variance + eps) + shift
    # </solution>


# %% tags=["check"]
x = np.random.default_rng(0).normal(3, 5, (8, 2, 4, 4))
mine = batch_norm(x, np.array([1.0, 2.0]), np.array([0.0, -1.0]))
assert mine.shape == x.shape, f"the shape stays {x.shape}, got {mine.shape}"
assert np.allclose(mine.mean(axis=(0, 2, 3)), [0, -1], atol=1e-6), "each channel's mean becomes its beta"
assert np.allclose(mine.std(axis=(0, 2, 3)), [1, 2], atol=1e-3), "each channel's spread becomes its gamma"
engine = nn.BatchNorm2d(2).double()
assert np.allclose(batch_norm(x, np.ones(2), np.zeros(2)), engine(minicnn.tensor(x)).detach().numpy()), (
    "not what the engine gives"
)
print("right")

# %% [markdown]
# Its effect is largest on speed: learning begins at once, and depends less on the learning rate. Two small convolutional networks, with and without:

# %%
lines = {}
for normalized in (False, True):
    for lr in (0.02, 0.1):
        _, history = run(
            lambda b=normalized: models.create("simple", width=0.25, batch_norm=b),
            lr=lr,
            epochs=4 if FAST else 8,
        )
        lines[f"{'batch norm' if normalized else 'plain'}, learning rate {lr}"] = history["loss"]
viz.curves(lines, title="With batch norm, learning begins at once", ylabel="training loss")

# %% [markdown]
# ## Deep networks: residual connections
#
# Deeper should be better, but a plain chain of many layers hardly learns. The gradient that reaches the first layer is a product
# of as many factors as there are layers; if each is a little below one, nothing arrives. *Residual* connections (He et al.,
# 2016) let every block only *add* something to its input, $y = x + f(x)$. The derivative is $1 + f'$, and the gradient has a way around
# all blocks.
#
# Sixteen layers of 64 units, once as a chain and once with residuals. The lines show the gradient of each layer's weights beside the
# weights themselves, before any training.


# %%
class Deep(nn.Module):
    """784 - 64, then layers of 64 units, then 10. residual: each layer adds to its input."""

    def __init__(self, layers=16, residual=False):
        super().__init__()
        self.residual = residual
        self.first, self.last = nn.Linear(784, 64), nn.Linear(64, 10)
        self.blocks = nn.ModuleList([nn.Linear(64, 64) for _ in range(layers)])

    def forward(self, x):
        x = F.relu(self.first(x.flatten(1)))
        for block in self.blocks:
            x = x + F.relu(block(x)) if self.residual else F.relu(block(x))
        return self.last(x)


images, labels = next(iter(data.DataLoader(train_set, 64)))
norms = {}
for name, residual in (("chain", False), ("residual", True)):
    minicnn.manual_seed(0)
    deep = Deep(residual=residual)
    F.cross_entropy(deep(images), labels).backward()
    weights = [deep.first.weight, *(block.weight for block in deep.blocks), deep.last.weight]
    norms[name] = [np.linalg.norm(w.grad.numpy()) / np.linalg.norm(w.detach().numpy()) for w in weights]
viz.curves(
    norms,
    xlabel="layer",
    ylabel="norm of gradient / norm of weight",
    title="How much gradient reaches each layer",
    logarithmic=True,
)

# %%
lines, networks = {}, {}
for name, residual in (("chain", False), ("residual", True)):
    networks[name], history = run(lambda r=residual: Deep(residual=r), lr=0.02, epochs=8 if FAST else 20)
    lines[name] = history["loss"]
viz.curves(lines, title="Sixteen layers", ylabel="training loss")

# %% [markdown]
# What does the loss look like *around* a trained network? Walk from its weights in two random directions (each filter's direction as
# long as the filter, Li et al., 2018) and draw the lines of equal loss. The chain never left its plateau: the loss is that of guessing, 2.3, wherever one
# looks, and no slope leads anywhere. The residual network lies at the bottom of a bowl.


# %%
def loss_of(model):
    with minicnn.no_grad():
        return F.cross_entropy(model(images), labels).item()


with viz.style.sheet(width=10, height=4) as sheet:
    for half, name in zip(sheet.subfigures(1, 2), ("chain", "residual"), strict=True):
        found = viz.landscape(networks[name], loss_of, steps=9 if FAST else 17, radius=0.8)
        viz.loss_landscape(found, title=name, figure=half)
sheet

# %% [markdown]
# ## Small kernels
#
# A layer of 5 x 5 kernels sees windows of 25 pixels. Two layers of 3 x 3 see the same windows, with $2 \cdot 9 = 18$ weights for each pair of
# channels instead of 25, and with one more bend in between. (With 800 images, differences of a point in accuracy are chance; the
# difference in work is not.)


# %%
def net(*kernels):
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    for k in kernels:
        layers += [nn.Conv2d(16, 16, k, padding=k // 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 49, 10))


for name, kernels in (("one 5 x 5", (5,)), ("two 3 x 3", (3, 3))):
    model, history = run(lambda k=kernels: net(*k), lr=0.1, epochs=4 if FAST else 12)
    middle = [module for module in model if isinstance(module, nn.Conv2d)][1:]
    recorded = graph.cost(graph.trace(model, images[:1]))
    print(
        f"{name}: {sum(m.weight.numel() for m in middle):,} weights in the middle, "
        f"{sum(cost.macs for cost in recorded) / 1e6:.2f} million multiplications, test {history['validation_accuracy'][-1]:.1%}"
    )

# %% [markdown]
# The figures on the web come from the long run, 40 epochs. With `MINICNN_FAST=1` it is 12: overfitting has then only begun.
#
# ## What was learnt
#
# - Training loss says how well a network remembers; only unseen images say what it has understood.
# - L2 keeps weights small, L1 makes many of them zero; dropout and augmentation make learning by heart hard.
# - Batch norm makes learning fast and less dependent on the learning rate; in `eval` it uses running statistics.
# - Residual connections give the gradient a short way, so that depth helps instead of harming.
# - Two small kernels see as much as a large one, for less.
#
# ## Questions
#
# 1. Dropout gives different answers for the same image, if one forgets `model.eval()`. How would you notice, and when might one want it?
# 2. A batch has one single image of one pixel. What does batch norm in training make of it?
# 3. With $f' = -0.1$ in each of 16 blocks, what does the gradient shrink to in a chain ($f'$ alone), and what with residuals?
