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
# # 04 Training: walking downhill
#
# We can compute the gradient of a loss (notebook 01) by the weights of layers (02, 03). Training is what one does with it:
# step after step downhill. This notebook is about the step: how long, in which direction, with how much of the data, and
# what to do when it goes wrong.

# %% tags=["setup"]
import math
import os

import numpy as np

import minicnn
import minicnn.nn.functional as F
from minicnn import data, models, nn, optim, viz

FAST = os.environ.get("MINICNN_FAST") == "1"  # a short run: fewer images
generator = minicnn.manual_seed(0)

# %% [markdown]
# ## Gradient descent
#
# Let $\theta$ be all parameters in one long row, $L(\theta)$ the loss and $g = \nabla L(\theta)$ its gradient. *Gradient
# descent* repeats
#
# $$ \theta \leftarrow \theta - \eta \, g, $$
#
# with the *learning rate* $\eta$. Everything about it can be seen in two dimensions. Here is a valley, steep across and
# gently sloping along: $L = \frac12 (a^2 + 25\, b^2)$. Its gradient is $(a, 25 b)$.


# %%
def valley(point):
    return 0.5 * (point[0] ** 2 + 25 * point[1] ** 2)


def valley_gradient(point):
    return np.array([point[0], 25 * point[1]])


def descend(step, start=(-9.0, 1.6), steps=40):
    """The path of `steps` steps; step(point, memory) gives the next point."""
    path, memory = [np.array(start)], {}
    for _ in range(steps):
        path.append(step(path[-1], memory))
    return np.array(path)


def draw_paths(paths):
    picture = viz.curves({}, xlabel="a", ylabel="b", title="Paths into a valley (contours are equal loss)")
    axes = picture.axes[0]
    a, b = np.meshgrid(np.linspace(-10, 3, 120), np.linspace(-2.2, 2.2, 80))
    axes.contour(a, b, valley((a, b)), levels=np.geomspace(0.1, 60, 12), colors="#D9D9D9")
    for (name, path), colour, mark in zip(paths.items(), viz.style.COLOURS, viz.style.MARKERS, strict=False):
        axes.plot(*path.T, color=colour, marker=mark, markersize=3, linewidth=1, label=name)
    axes.set_ylim(-2.2, 2.2)
    axes.set_xlim(-10, 3)
    axes.legend(loc="lower right")
    return picture


draw_paths(
    {
        f"learning rate {rate}": descend(lambda p, _, rate=rate: p - rate * valley_gradient(p))
        for rate in (0.01, 0.07, 0.081)
    }
)

# %% [markdown]
# With 0.01 it creeps along the valley. With 0.07 it bounces from wall to wall across, and gets there. With 0.081 it bounces
# higher each time, and is lost. The limit is exact: across the valley the step multiplies $b$ by $1 - 25 \eta$, and
# that stays below 1 in size only if $\eta < 2/25 = 0.08$. The *steepest* direction limits the step, the *flattest*
# sets the time. Networks have directions of very different steepness, so this is their problem, too.
#
# ## Momentum
#
# A ball does not stop at every point: it keeps its speed. Keep a *velocity* $v$, of the same shape as $\theta$:
#
# $$ v \leftarrow \mu v + g, \qquad \theta \leftarrow \theta - \eta v. $$
#
# Across the valley the gradient changes its sign each time and cancels in $v$. Along the valley it always points the same
# way and adds up, to at most $1 / (1 - \mu)$ times: ten times for the usual $\mu = 0.9$.
#
# ### Exercise 1: one step with momentum


# %% tags=["exercise"]
def momentum_step(theta, gradient, velocity, lr, mu):
    """(new theta, new velocity). Arrays of one shape; the old ones are not changed."""
    # <solution: First the new velocity, mu times the old one plus the gradient; then a step of lr against it.>
    velocity = mu * velocity + gradient
    return theta - lr * velocity, velocity
    # </solution>


# %% tags=["check"]
theta, velocity = np.array([1.0, 2.0]), np.zeros(2)
for _ in range(3):
    theta, velocity = momentum_step(theta, np.array([1.0, -1.0]), velocity, lr=0.1, mu=0.5)
assert np.allclose(velocity, [1.75, -1.75]), (
    f"after gradients 1, 1, 1 with mu = 0.5 the velocity is 1.75, yours {velocity}"
)
assert np.allclose(theta, [1 - 0.1 * (1 + 1.5 + 1.75), 2 + 0.425]), (
    f"theta should have moved by 0.425, got {theta}"
)
print("right")


# %%
def with_momentum(point, memory):
    point, memory["v"] = momentum_step(
        point, valley_gradient(point), memory.get("v", np.zeros(2)), lr=0.02, mu=0.8
    )
    return point


draw_paths(
    {
        "plain, 0.07": descend(lambda p, _: p - 0.07 * valley_gradient(p)),
        "momentum 0.8, 0.02": descend(with_momentum),
    }
)

# %% [markdown]
# ## How much data for one step?
#
# The loss is a mean over all training images. Its gradient over *all* of them is exact and dear. A *mini-batch* of a few
# dozen gives a gradient that is right on average, with noise, and is a thousand times cheaper. *Stochastic gradient
# descent* (SGD) takes one batch after the other, in a new random order each time. One pass over all images is an *epoch*.
#
# We compare at equal cost: every line below has seen the same number of images.

# %%
count = 2_000 if FAST else 6_000
train_set = data.Subset(data.FashionMNIST(train=True), range(count))
test_set = data.Subset(data.FashionMNIST(train=False), range(1_000))
epochs = 3 if FAST else 5


def train(batch_size=64, lr=0.1, epochs=epochs, make=None, schedule=None, clip=None, seed=0):
    """Losses of every step of a small network: 784 inputs, 64 hidden neurons, 10 classes. And its test accuracy."""
    minicnn.manual_seed(seed)
    model = models.MLP(hidden=(64,))
    loader = data.DataLoader(train_set, batch_size, shuffle=True, seed=seed, drop_last=True)
    optimizer = make(model.parameters()) if make else optim.SGD(model.parameters(), lr=lr)
    scheduler = schedule(optimizer, epochs * len(loader)) if schedule else None
    losses = []
    for _ in range(epochs):
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if scheduler:
                scheduler.step()
            losses.append(loss.item())
    return losses, minicnn.evaluate(model, data.DataLoader(test_set, 500)).accuracy


def smooth(losses, batch_size):
    """(images seen, mean loss of the last fiftieth of the run), to see through the noise."""
    width = max(len(losses) // 50, 1)
    means = np.convolve(losses, np.ones(width) / width, "valid")
    return batch_size * np.arange(width, len(losses) + 1), means


lines = {}
for batch_size, lr in ((count, 0.3), (256, 0.1), (32, 0.1), (4, 0.02)):
    losses, accuracy = train(batch_size, lr, epochs=epochs)
    lines[f"batches of {batch_size}: test accuracy {accuracy:.1%}"] = smooth(losses, batch_size)
viz.curves(
    lines,
    xlabel="images seen",
    title="The same images, in steps of different size",
    logarithmic=True,
    legend_beside=True,
)

# %% [markdown]
# The full gradient makes only as many steps as there are epochs: exact, and nowhere. Small batches make many cheap steps.
# Very small ones are noisy (their learning rate had to be smaller), and a computer is slow with them, as it likes
# large products. Between 32 and 256 is a good place; 64 is our default.
#
# ## The learning rate
#
# It is the one number that must be right. Three powers of ten around a good one:

# %%
lines = {}
for lr in (0.001, 0.01, 0.1, 1.0):
    losses, accuracy = train(64, lr)
    lines[f"{lr}: test accuracy {accuracy:.1%}"] = smooth(losses, 64)
viz.curves(lines, xlabel="images seen", title="Learning rates", logarithmic=True, legend_beside=True)

# %% [markdown]
# Too small is slow; too large is rough, and a little more is a catastrophe. A good rate is often found just below the
# one that makes trouble.
#
# ### Decay
#
# Far away from the goal long steps are right, near it short ones. So one lets the rate fall during training. A *schedule*
# can halve it every few epochs (*step*), multiply it a little each time (*exponential*), or follow half a wave (*cosine*):
#
# $$ \eta_t = \tfrac12 \, \eta_0 \left(1 + \cos \frac{\pi t}{T} \right), \qquad t = 0 \ldots T. $$
#
# ### Exercise 2: the cosine schedule


# %% tags=["exercise"]
def cosine(step, total, start):
    """The learning rate at `step` of `total`, falling from `start` to 0."""
    # <solution: Put the formula above into Python; math.cos and math.pi are there.>
    return start * (1 + math.cos(math.pi * step / total)) / 2
    # </solution>


# %% tags=["check"]
assert abs(cosine(0, 100, 0.2) - 0.2) < 1e-12, "at step 0 it is the rate that one starts with"
assert abs(cosine(50, 100, 0.2) - 0.1) < 1e-12, "in the middle it is half of it"
assert abs(cosine(100, 100, 0.2)) < 1e-12, "at the end it is 0"
assert cosine(10, 100, 0.2) > 0.19, "it falls slowly at first"
print("right")

# %%
steps = np.arange(101)
optimizer = optim.SGD([nn.Parameter(minicnn.zeros(1))], lr=0.2)
schedules = {
    "step: halved every 25": optim.lr_scheduler.StepLR(optimizer, step_size=25, gamma=0.5),
    "exponential": optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.97),
    "cosine": optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100),
}
rates = {}
for name, schedule in schedules.items():
    optimizer.param_groups[0]["lr"] = 0.2
    rates[name] = []
    for _ in steps:
        rates[name].append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
viz.curves(
    {name: (steps, rate) for name, rate in rates.items()},
    xlabel="step",
    ylabel="learning rate",
    title="Three schedules",
)

# %% [markdown]
# All together, at equal cost. *Adam* is another idea: it divides each parameter's step by the usual size of its gradient,
# so steep and flat directions go at the same speed. It needs less search for a rate; SGD with momentum, well tuned, often
# ends a little better.

# %%
runs = {
    "SGD": {"lr": 0.1},
    "SGD, momentum 0.9": {"make": lambda p: optim.SGD(p, lr=0.03, momentum=0.9)},
    "momentum and cosine": {
        "make": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
        "schedule": lambda o, n: optim.lr_scheduler.CosineAnnealingLR(o, T_max=n),
    },
    "Adam": {"make": lambda p: optim.Adam(p, lr=0.002)},
}
lines = {}
for name, options in runs.items():
    losses, accuracy = train(64, **options)
    lines[f"{name}: test accuracy {accuracy:.1%}"] = smooth(losses, 64)
viz.curves(lines, xlabel="images seen", title="Four ways downhill", logarithmic=True)

# %% [markdown]
# ## When it goes wrong: clipping
#
# A single bad batch can have a huge gradient, and one huge step undoes an hour of training. *Gradient clipping* shortens
# the gradient if it is longer than $c$, and keeps its direction:
#
# $$ g \leftarrow g \cdot \min\!\left(1, \frac{c}{\lVert g \rVert}\right), \qquad
#    \lVert g \rVert = \sqrt{\textstyle\sum_i g_i^2} \text{ over all parameters together}. $$
#
# (Not to be confused with clipping *weights*, or with pruning them: notebooks 06 and 13.)
#
# ### Exercise 3: clip by norm


# %% tags=["exercise"]
def clip_by_norm(gradients, limit):
    """A list of arrays of the same shapes, shortened together to a common norm of at most `limit`."""
    # <solution: One norm over all arrays together, one factor min(1, limit / norm) for all of them.>
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    factor = min(1.0, limit / norm) if norm > 0 else 1.0
    return [g * factor for g in gradients]
    # </solution>


# %% tags=["check"]
clipped = clip_by_norm([np.array([3.0, 0.0]), np.array([[4.0]])], 1.0)
assert np.allclose(clipped[0], [0.6, 0]), (
    f"the norm of (3, 0, 4) is 5, so each becomes a fifth: 0.6, yours {clipped[0]}"
)
assert np.allclose(clipped[1], [[0.8]]), "one factor for all arrays, so that the direction stays"
assert np.allclose(clip_by_norm([np.array([0.3])], 1.0)[0], [0.3]), "a short gradient is left alone"
assert np.allclose(clip_by_norm([np.zeros(2)], 1.0)[0], 0), "a gradient of zeros must not be divided by zero"
print("right")

# %% [markdown]
# Here the learning rate is far too large for a network of this kind, once without and once with clipping.

# %%
lines = {}
for clip in (None, 0.5):
    losses, accuracy = train(64, lr=1.5, clip=clip)
    lines[f"{'clipped at 0.5' if clip else 'not clipped'}: test accuracy {accuracy:.1%}"] = smooth(losses, 64)
viz.curves(lines, xlabel="images seen", title="A learning rate of 1.5", logarithmic=True)

# %% [markdown]
# And if a loss turns to *NaN* ("not a number", which infects everything it touches), the engine stops, says which
# operation made it first, and keeps the last good weights.

# %%
generator = minicnn.manual_seed(0)
model = models.MLP(hidden=(64,))
try:
    minicnn.fit(
        model,
        data.DataLoader(train_set, 64, shuffle=True),
        optimizer=optim.SGD(model.parameters(), lr=1e18, momentum=0.9),
        epochs=1,
        progress=False,
    )
except minicnn.training.TrainingError as error:
    print(error)

# %% [markdown]
# The accuracies that you read on the web come from the long run: 6,000 images, five epochs. With `MINICNN_FAST=1` they are
# 2,000 and three, and a few points lower. The whole data set and a network with convolutions reach 92.5% and more
# (`minicnn train`).
#
# ## What was learnt
#
# - A step goes against the gradient. The steepest direction limits its length, the flattest decides how long it takes.
# - Momentum cancels what bounces and collects what persists.
# - Mini-batches buy many noisy steps for the price of one exact step.
# - The learning rate is the number to search for, by powers of about three; let it decay.
# - Clipping limits the damage of one bad batch.
#
# ## Questions
#
# 1. In the valley, which learning rate makes plain descent fastest? (Look for the one where both directions shrink by the
#    same factor.)
# 2. With $\mu = 0.9$ the sum of velocities multiplies a constant gradient by ten. Which learning rate without momentum
#    should one compare with a rate of 0.03?
# 3. A batch is doubled. How does the noise of its gradient change, and what might one do with the learning rate?
