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
# # 09 Transfer and distillation: learning from a network
#
# Data are often scarce, but trained networks are not. *Transfer* takes what a network has learnt from one task over to another. *Distillation* lets a small network
# learn from the answers of a large one. Both are often confused (one of the articles of notebook 13 does), and both are simple.

# %% tags=["setup"]
import copy
import os

import numpy as np

import minicnn
import minicnn.nn.functional as F
from minicnn import compress, data, models, optim, viz

FAST = os.environ.get("MINICNN_FAST") == "1"  # a short run: fewer images
generator = minicnn.manual_seed(0)

# %% [markdown]
# ## The source and the target
#
# The *source* task has much data: tell six kinds of clothes apart. The *target* has little: four other kinds, and only 20 images of each.

# %%
everything, everything_test = data.FashionMNIST(train=True), data.FashionMNIST(train=False)
old_classes, new_classes = [0, 1, 2, 3, 5, 7], [4, 6, 8, 9]
print("source:", [everything.class_names[i] for i in old_classes])
print("target:", [everything.class_names[i] for i in new_classes])


def only(dataset, classes, per_class):
    """The first `per_class` images of each class, with labels from 0."""
    chosen = np.concatenate([np.flatnonzero(dataset.labels == label)[:per_class] for label in classes])
    return data.ArrayDataset(dataset.images[chosen], np.repeat(np.arange(len(classes)), per_class))


source_set = only(everything, old_classes, 300 if FAST else 1_500)
few = only(everything, new_classes, 20)
judge = data.DataLoader(only(everything_test, new_classes, 300), 300)


def accuracy(model, loader=judge):
    return minicnn.evaluate(model, loader).accuracy


def train(model, dataset, epochs, lr=0.03, batch_size=32, **options):
    loader = data.DataLoader(dataset, batch_size, shuffle=True, seed=1)
    optimizer = optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr, momentum=0.9)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    return minicnn.fit(
        model, loader, optimizer=optimizer, scheduler=schedule, epochs=epochs, progress=False, **options
    )


def fresh(classes, seed=0, width=0.5):
    minicnn.manual_seed(seed)
    return models.create("simple", width=width, num_classes=classes)


source = fresh(6)
train(source, source_set, epochs=4)
print(
    f"the source is right on {accuracy(source, data.DataLoader(only(everything_test, old_classes, 200), 300)):.1%} of its own test images"
)

# %% [markdown]
# ## Transfer, step by step
#
# 1. **Load by name.** A new network of the same build takes every array whose name and shape agree. The last layer does not: it has four rows instead of six.
# 2. **Freeze.** The first layers find edges and folds, which all clothes have. They are not trained on; 80 images would only spoil them.
# 3. **A new head.** The last layers are trained on the few images.
#
# ### Exercise 1: what fits?


# %% tags=["exercise"]
def matching(own, other):
    """Names that both dicts of arrays have, with equal shapes, in the order of `own`."""
    # <solution: A list of the names in own that are in other, too, and whose shapes are equal.>
    return [name for name, array in own.items() if name in other and other[name].shape == array.shape]
    # </solution>


# %% tags=["check"]
own = {"conv.weight": np.zeros((8, 1, 3, 3)), "fc.weight": np.zeros((4, 9)), "new": np.zeros(1)}
other = {"fc.weight": np.zeros((6, 9)), "conv.weight": np.ones((8, 1, 3, 3)), "old": np.zeros(1)}
found = matching(own, other)
assert found == ["conv.weight"], f"only conv.weight has the same name and shape in both, you say {found}"
print("right")

# %%
target = fresh(4, seed=1)
report = compress.load_matching(target, source)
print(report)
assert report.matched == matching(target.state_dict(), source.state_dict())
print("frozen:", compress.freeze(target, ["conv1", "conv2"]))
compress.replace_head(target, 4)
train(target, few, epochs=20)

scratch = fresh(4, seed=1)
train(scratch, few, epochs=20)
print(f"20 images of each class: from scratch {accuracy(scratch):.1%}, transferred {accuracy(target):.1%}")

# %% [markdown]
# How much does it help, and when? We repeat it for several numbers of images, once with frozen convolutions, and once with everything trained on from the source's weights
# with a smaller learning rate (*fine-tuning*).

# %%
counts = (5, 20, 80) if FAST else (5, 20, 80, 320)
lines = {"from scratch": [], "frozen convolutions, new head": [], "fine-tuned": []}
for count in counts:
    images = only(everything, new_classes, count)
    epochs = 20 if count < 100 else 8
    for name in lines:
        model = fresh(4, seed=1)
        if name != "from scratch":
            compress.load_matching(model, source)
        if name.startswith("frozen"):
            compress.freeze(model, ["conv1", "conv2"])
        train(model, images, epochs=epochs, lr=0.03 if name != "fine-tuned" else 0.01)
        lines[name].append(100 * accuracy(model))
picture = viz.curves(
    {name: (counts, values) for name, values in lines.items()},
    xlabel="images of each class",
    ylabel="test accuracy, %",
    title="Transfer helps most where data is scarce",
)
picture.axes[0].set_xscale("log")
picture

# %% [markdown]
# With frozen layers one can go further: as they never change, their answers to each image can be computed *once* and kept. Then only the head is trained, on arrays, in no time.

# %%
features = compress.cached_features(target, few, layer="fc1")
print("each image is now a row of", features.features.shape[1:], "numbers, computed once")

# %% [markdown]
# ### A small addition instead: f_target = f_source + delta f
#
# Another way leaves *all* source weights frozen and learns an addition of *low rank* to each layer: $W + A B$ with $W: (O, I)$, $A: (O, r)$, $B: (r, I)$ and a small $r$. (Today it is known as
# LoRA.) One source can then serve many targets, each with a small file of its own.
#
# ### Exercise 2: how many numbers?


# %% tags=["exercise"]
def added_numbers(outputs, inputs, rank):
    """How many numbers a low-rank addition to a layer of this size has."""
    # <solution: A has outputs times rank, B has rank times inputs.>
    return outputs * rank + rank * inputs
    # </solution>


# %% tags=["check"]
assert added_numbers(64, 1568, 2) == 64 * 2 + 2 * 1568, "A: (64, 2) and B: (2, 1568)"
print(f"right: a layer of {64 * 1568:,} weights gets {added_numbers(64, 1568, 2):,} new numbers")

# %%
upside_down = data.ArrayDataset(source_set.images[:, :, ::-1].copy(), source_set.labels)
flipped_test = only(everything_test, old_classes, 200)
flipped_judge = data.DataLoader(
    data.ArrayDataset(flipped_test.images[:, :, ::-1].copy(), flipped_test.labels), 300
)
adapted = copy.deepcopy(source)
before = accuracy(adapted, flipped_judge)
compress.low_rank_residual(adapted, rank=4)
train(adapted, upside_down, epochs=3, lr=0.02)
new = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
print(
    f"the source's task upside down: {before:.1%} before, {accuracy(adapted, flipped_judge):.1%} with {new:,} new numbers beside {sum(p.numel() for p in source.parameters()):,} frozen ones"
)

# %% [markdown]
# ## Distillation
#
# Now a *student*, much smaller than its *teacher*, for the same task. It could learn from the labels. But a label says only "boot". The teacher's answer says "boot, a bit like a sneaker, not at all like a
# shirt": much more in one row of numbers. To bring out the small ones, divide the logits by a *temperature* $T > 1$ before softmax (Hinton et al., 2015).

# %%
train_set = data.Subset(everything, range(2_000 if FAST else 8_000))
test_loader = data.DataLoader(data.Subset(everything_test, range(2_000)), 500)
teacher = fresh(10, width=1.0)
train(teacher, train_set, epochs=3 if FAST else 5, lr=0.05, batch_size=64)
print(
    f"teacher: {accuracy(teacher, test_loader):.1%}, {sum(p.numel() for p in teacher.parameters()):,} parameters"
)

picture = next(iter(data.DataLoader(data.Subset(everything_test, [23]), 1)))[0]
with minicnn.no_grad():
    logits = teacher.eval()(picture)
with viz.style.sheet(width=10, height=2.8) as sheet:
    left, *others = sheet.subplots(1, 4)
    left.imshow(picture.numpy()[0, 0], cmap="gray")
    viz.style.bare(left)
    for axes, temperature in zip(others, (1, 4, 16), strict=True):
        axes.barh(
            everything.class_names, F.softmax(logits / temperature, dim=1).numpy()[0], color=viz.style.BLUE
        )
        axes.set_title(f"temperature {temperature}", fontsize=9)
        axes.set_xlabel("probability", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.invert_yaxis()
sheet

# %% [markdown]
# With $t, s: (N, K)$ the logits of teacher and student, $p^T = \mathrm{softmax}(t / T)$ and $q^T = \mathrm{softmax}(s / T)$:
#
# $$ L = \alpha\, T^2 \, \frac1N \sum_n \sum_k p^T_{nk} \ln \frac{p^T_{nk}}{q^T_{nk}} + (1 - \alpha)\, \mathrm{CE}(s, y). $$
#
# The double sum is the *Kullback-Leibler divergence*: zero if both say the same. Its gradient shrinks with $1/T^2$, so it is multiplied by $T^2$; then $\alpha$ means the same at every temperature.
#
# ### Exercise 3: the soft part


# %% tags=["exercise"]
def soft_loss(teacher_logits, student_logits, temperature):
    """T^2 times the mean over rows of KL(teacher || student), both softened; arrays (N, K)."""

    # <solution: Soften both (softmax of logits / T), then T^2 times the mean over rows of sum p ln(p / q).>
    def soften(logits):
        e = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
        return e / e.sum(axis=1, keepdims=True)

    p, q = soften(teacher_logits), soften(student_logits)
    return temperature**2 * (p * np.log(p / q)).sum(axis=1).mean()
    # </solution>


# %% tags=["check"]
t, s = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]]), np.array([[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
assert abs(soft_loss(t, t, 3)) < 1e-12, "if both say the same, nothing is left to learn: 0"
assert abs(soft_loss(t, t + 5, 3)) < 1e-12, "adding one number to all logits of a row changes no probability"
ours = soft_loss(t, s, 2.0)
engine = compress.Distillation(lambda x: t, temperature=2.0, alpha=1.0)(
    minicnn.tensor(s), minicnn.tensor([0, 1]), minicnn.zeros(2, 1)
)
assert abs(ours - float(engine.item())) < 1e-6, f"the engine finds {engine.item():.6f}, you {ours:.6f}"
print("right")

# %%
sizes = (0.06, 0.125, 0.25)
lines = {"from labels alone": [], "from the teacher": []}
parameters = []
for width in sizes:
    for name, loss in (
        ("from labels alone", None),
        ("from the teacher", compress.Distillation(teacher, temperature=2, alpha=0.5)),
    ):
        student = fresh(10, seed=3, width=width)
        train(student, train_set, epochs=3 if FAST else 5, lr=0.03, batch_size=64, loss=loss)
        lines[name].append(100 * accuracy(student, test_loader))
    parameters.append(sum(p.numel() for p in student.parameters()))
picture = viz.curves(
    {name: (parameters, values) for name, values in lines.items()},
    xlabel="parameters of the student",
    ylabel="test accuracy, %",
    title="Students with and without a teacher",
)
picture.axes[0].axhline(100 * accuracy(teacher, test_loader), color=viz.style.GREY, linestyle=":")
picture.axes[0].set_xscale("log")
picture

# %% [markdown]
# The dotted line is the teacher. What it is worth depends on how good it is itself, and here it has had little data and little time: expect a point or two. The smallest student has no room for
# what the teacher says, and does worse; and two seeds of one student differ by about a point, too. In longer trainings the gain is clear: on MNIST a student's errors fell from 146 to 74 with a
# teacher that made 67 (Hinton et al.); `python -m bench.experiments hinton` repeats that.
#
# The figures on the web come from the long run; with `MINICNN_FAST=1` there are fewer images and epochs, and all accuracies are lower.
#
# ## What was learnt
#
# - Transfer: load what fits by name, freeze what is general, train a new head. It helps most with few images.
# - Frozen layers can be computed once; a low-rank addition needs few new numbers and leaves the source as it is.
# - Distillation: a small student learns from the soft answers of a large teacher; the temperature brings out what the teacher finds similar.
#
# ## Questions
#
# 1. Which layers would you freeze if the target were X-ray images, and which if it were other photographs of clothes?
# 2. For $T \to \infty$ all softened probabilities become equal. Why is something left to learn even so? (Think of $T^2$.)
# 3. A teacher is right on every training image and always completely sure. What can a student learn from it at $T = 1$ that the labels do not say?
