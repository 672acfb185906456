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
# # 01 Gradients: by hand, in a hundred lines, and in the engine
#
# A network learns by one rule: change every number a little in the direction that makes the error smaller. To know
# the direction we need *derivatives*, one for each number, and a real network has hundreds of thousands of them.
# This notebook takes one derivative by hand, then lets a program take all of them, then looks at how the engine
# does the same with arrays.
#
# You need Python and the derivatives you met at school. Everything else is explained when it first appears.

# %% tags=["setup"]
import math
import os
import time

import numpy as np

import minicnn
from minicnn import viz

FAST = os.environ.get("MINICNN_FAST") == "1"  # a short run: fewer steps

# %% [markdown]
# ## A derivative is a rate of exchange
#
# Take $f(x) = x^2 + 3x$. At $x = 2$ it is 10. Move $x$ by a tiny $h$: how much does $f$ move, *per unit of h*?
#
# $$ f'(x) = \lim_{h \to 0} \frac{f(x + h) - f(x)}{h} $$
#
# The rules from school give $f'(x) = 2x + 3$, so 7 at $x = 2$. A computer can check that with a small $h$. It is more
# accurate to go a step to both sides, $(f(x + h) - f(x - h)) / 2h$: then the error shrinks with $h^2$ instead of $h$.


# %%
def f(x):
    return x**2 + 3 * x


for h in (1.0, 0.1, 0.001):
    one_sided = (f(2 + h) - f(2)) / h
    two_sided = (f(2 + h) - f(2 - h)) / (2 * h)
    print(f"h = {h:<6} one side: {one_sided:.6f}   both sides: {two_sided:.6f}   (rules: 7)")

# %% [markdown]
# For this $f$ both sides together are right at once, because a parabola has no third derivative. In general there is
# a best $h$: if it is too large, the curve bends; if it is too small, the difference drowns in the rounding of the
# computer's numbers. The picture shows both for $\sin$ at 1, computed with 64-bit numbers, which hold about 16 digits.

# %%
steps = np.logspace(-12, 0, 60)
errors_one = [abs((math.sin(1 + h) - math.sin(1)) / h - math.cos(1)) + 1e-17 for h in steps]
errors_two = [abs((math.sin(1 + h) - math.sin(1 - h)) / (2 * h) - math.cos(1)) + 1e-17 for h in steps]
picture = viz.curves(
    {"one side": (steps, errors_one), "both sides": (steps, errors_two)},
    xlabel="h",
    ylabel="error of the derivative",
    title="Rounding on the left, bending on the right",
    logarithmic=True,
)
picture.axes[0].set_xscale("log")
picture

# %% [markdown]
# ### Exercise 1: slopes in several directions
#
# A function of several numbers has one derivative for each of them, with the others held fixed: a *partial
# derivative*. All of them in a row are the *gradient*. Write a function that measures it.


# %% tags=["exercise"]
def measured_gradient(function, point, h=1e-5):
    """The gradient of `function` at `point` (a list of numbers), by central differences."""
    # <solution: Move one coordinate at a time by h to both sides, and divide the difference by 2 h.>
    gradient = []
    for i in range(len(point)):
        ahead, behind = list(point), list(point)
        ahead[i] += h
        behind[i] -= h
        gradient.append((function(ahead) - function(behind)) / (2 * h))
    return gradient
    # </solution>


# %% tags=["check"]
found = measured_gradient(lambda p: p[0] * p[1] + p[1] ** 2, [3.0, 4.0])
assert len(found) == 2, f"the gradient has one number for each coordinate, so 2, but yours has {len(found)}"
assert np.allclose(found, [4, 11]), f"for p0 p1 + p1^2 at (3, 4) the gradient is (4, 11), yours is {found}"
print("right:", [round(number, 6) for number in found])

# %% [markdown]
# This works for every function, and it is how one *tests* gradients. But it is slow: a network with 400,000 numbers
# would have to be run 800,000 times for one step of learning.
#
# ## The chain rule
#
# Write a computation as small steps. For $y = (w x + b)^2$:
#
# $$ p = w x, \qquad s = p + b, \qquad y = s^2. $$
#
# Each step knows its own little derivative: $\partial y / \partial s = 2 s$, $\partial s / \partial p = 1$,
# $\partial p / \partial w = x$. Rates of exchange multiply, as with money: euros to dollars times dollars to yen.
#
# $$ \frac{\partial y}{\partial w} = \frac{\partial y}{\partial s} \cdot \frac{\partial s}{\partial p} \cdot
#    \frac{\partial p}{\partial w} = 2 s \cdot 1 \cdot x $$
#
# With $w = 3, x = 2, b = 1$: $s = 7$ and the answer is $2 \cdot 7 \cdot 2 = 28$. Note the order in which we worked: from the
# result back to the inputs. Each intermediate value needs its derivative only once, however many inputs there are. So
# *one* walk backward gives the derivatives for *all* inputs, at about the price of computing the function once or
# twice more. This is why networks can be trained at all.
#
# If a value is used twice, both uses contribute, and the contributions are *added*.

# %%
w, x, b = 3.0, 2.0, 1.0
p = w * x
s = p + b
y = s**2

dy_ds = 2 * s
dy_dp = dy_ds * 1
dy_db = dy_ds * 1
dy_dw = dy_dp * x
dy_dx = dy_dp * w
print(f"y = {y}: by hand dy/dw = {dy_dw}, dy/dx = {dy_dx}, dy/db = {dy_db}")
print("measured:", measured_gradient(lambda v: (v[0] * v[1] + v[2]) ** 2, [w, x, b]))

# %% [markdown]
# ## A program that does it: automatic differentiation in a hundred lines
#
# A `Value` is a number that remembers who made it. Every operation makes a new `Value`, and writes down its parents
# with the local derivative for each. That is all. The memory of what was computed, in order, is called the *tape*.
#
# `backward` walks the tape from the result to the inputs. It may visit a value only when everything that used it has
# been visited, for only then all contributions are in. Sorting values like that is called *topological order*. We
# sort with an explicit stack instead of a function that calls itself: Python gives up after a thousand nested calls, and
# real computations are longer than that.


# %% tags=["setup"]
class Value:
    """A number that remembers how it was computed.

    grad: the derivative of the result by this number, after result.backward().
    """

    def __init__(self, data, parents=()):
        self.data = float(data)
        self.parents = parents  # pairs (Value, local derivative)
        self.grad = 0.0

    def __add__(self, other):
        other = as_value(other)
        return Value(self.data + other.data, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        other = as_value(other)
        return Value(self.data * other.data, [(self, other.data), (other, self.data)])

    def __pow__(self, exponent):
        return Value(self.data**exponent, [(self, exponent * self.data ** (exponent - 1))])

    def exp(self):
        result = math.exp(self.data)
        return Value(result, [(self, result)])

    def log(self):
        return Value(math.log(self.data), [(self, 1 / self.data)])

    def relu(self):
        """max(0, x): its slope is 1 above zero and 0 below."""
        return Value(max(self.data, 0.0), [(self, float(self.data > 0))])

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + -as_value(other)

    def __truediv__(self, other):
        return self * as_value(other) ** -1

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other):
        return as_value(other) - self

    def backward(self):
        """Write into every value that led here how much this one changes with it."""
        for value in in_order(self):
            value.grad = 0.0
        self.grad = 1.0  # the rate of exchange of the result with itself
        for value in reversed(in_order(self)):
            for parent, local in value.parents:
                parent.grad += value.grad * local  # the chain rule; += because uses add up

    def __repr__(self):
        return f"Value({self.data:.4f}, grad={self.grad:.4f})"


def as_value(number):
    return number if isinstance(number, Value) else Value(number)


def in_order(result):
    """All values that led to `result`, parents always before children."""
    ordered, seen, stack = [], set(), [(result, False)]
    while stack:
        value, parents_are_done = stack.pop()
        if parents_are_done:
            ordered.append(value)
        elif id(value) not in seen:
            seen.add(id(value))
            stack.append((value, True))
            stack.extend((parent, False) for parent, _ in value.parents)
    return ordered


# %%
w, x, b = Value(3), Value(2), Value(1)
y = (w * x + b) ** 2
y.backward()
print("y:", y)
print("w:", w, " x:", x, " b:", b)

a = Value(3)
square = a * a  # one value, used twice
square.backward()
print("d(a a)/da at 3:", a.grad, "(both uses counted: 3 + 3)")

# %% [markdown]
# ### Exercise 2: a new operation
#
# The *hyperbolic tangent* squeezes any number into $(-1, 1)$. With $t = \tanh(x)$ its derivative is $1 - t^2$. Teach it to
# `Value`.


# %% tags=["exercise"]
def tanh(value):
    """The hyperbolic tangent of a Value, as a Value."""
    # <solution: Compute t with math.tanh and return a Value with its one parent and the local derivative 1 - t^2.>
    t = math.tanh(value.data)
    return Value(t, [(value, 1 - t**2)])
    # </solution>


# %% tags=["check"]
z = Value(0.5)
result = tanh(z * 2)
assert abs(result.data - math.tanh(1.0)) < 1e-12, (
    f"tanh(1) is {math.tanh(1.0):.6f}, yours is {result.data:.6f}"
)
result.backward()
expected = 2 * (1 - math.tanh(1.0) ** 2)
assert abs(z.grad - expected) < 1e-9, f"d tanh(2z)/dz at 0.5 is {expected:.6f}, yours is {z.grad:.6f}"
print("right:", result, z)

# %% [markdown]
# ## A network of Values learns
#
# A *neuron* takes numbers $x_1, x_2$, multiplies each by a *weight*, adds a *bias*, and lets an *activation* bend the
# sum: $\mathrm{relu}(w_1 x_1 + w_2 x_2 + b)$, where $\mathrm{relu}(s)$ is $s$ if that is positive and else 0. Without the bend, any number of neurons one after the other would still
# be one straight line.
#
# Our task: points on two interleaved half-moons. The network has 2 inputs, a layer of 8 neurons, another of 8, and one
# output, the *score*: positive for one moon, negative for the other. That makes $8 \cdot 3 + 8 \cdot 9 + 9 = 105$
# numbers to learn, its *parameters*.
#
# The error to make small, the *loss*, is $\ln(1 + e^{-t s})$ for a point with target $t = \pm 1$ and score $s$, averaged
# over points. It is small when the score has the right sign and is large.


# %%
def moons(count, rng):
    """Points (count, 2) on two half-moons, and targets +1 or -1."""
    angle = rng.uniform(0, math.pi, count)
    target = np.where(np.arange(count) % 2, 1, -1)
    x = np.where(target > 0, np.cos(angle), 1 - np.cos(angle))
    y = np.where(target > 0, np.sin(angle), 0.5 - np.sin(angle))
    return np.stack([x, y], axis=1) + rng.normal(0, 0.1, (count, 2)), target


def new_layer(inputs, outputs, rng):
    """Weights, random and not too large, and a bias for each neuron: one list of Values for each."""
    return [
        [Value(rng.normal(0, math.sqrt(2 / inputs))) for _ in range(inputs)] + [Value(0)]
        for _ in range(outputs)
    ]


def run_layer(layer, values, bend):
    sums = [sum((w * v for w, v in zip(neuron, values, strict=False)), neuron[-1]) for neuron in layer]
    return [s.relu() for s in sums] if bend else sums


def score_of(layers, point):
    values = list(point)
    for layer in layers:
        values = run_layer(layer, values, bend=layer is not layers[-1])
    return values[0]


rng = np.random.default_rng(0)
points, targets = moons(60, rng)
layers = [new_layer(2, 8, rng), new_layer(8, 8, rng), new_layer(8, 1, rng)]
parameters = [number for layer in layers for neuron in layer for number in neuron]
print(len(parameters), "parameters")

# %% [markdown]
# Learning is four lines: compute the loss, walk back, and move every parameter a little *against* its derivative. How
# little is the *learning rate*, here 0.5.

# %%
losses = []
started = time.perf_counter()
for _ in range(40 if FAST else 150):
    loss = sum(
        ((score_of(layers, point) * -float(t)).exp() + 1).log()
        for point, t in zip(points, targets, strict=True)
    )
    loss = loss / len(points)
    loss.backward()
    for parameter in parameters:
        parameter.data -= 0.5 * parameter.grad
    losses.append(loss.data)
seconds_per_step = (time.perf_counter() - started) / len(losses)
print(f"loss from {losses[0]:.3f} to {losses[-1]:.3f}, {1000 * seconds_per_step:.0f} ms a step")
viz.curves({"loss": losses}, xlabel="step", title="105 Values learn two half-moons")

# %%
axis = np.linspace(-1.6, 2.6, 45)
plane = [[score_of(layers, (u, v)).data for u in axis] for v in np.linspace(-1.2, 1.7, 35)]
picture = viz.curves(
    {}, xlabel="first coordinate", ylabel="second coordinate", title="Where the score changes its sign"
)
axes = picture.axes[0]
axes.contourf(axis, np.linspace(-1.2, 1.7, 35), plane, levels=[-1e9, 0, 1e9], colors=["#F6DDCC", "#CCE3F0"])
for sign, colour, mark in ((1, "#0072B2", "o"), (-1, "#D55E00", "s")):
    axes.plot(*points[targets == sign].T, mark, color=colour, markersize=4, label=f"target {sign:+}")
axes.legend(loc="upper right")
picture

# %% [markdown]
# It works, and it is slow: every multiplication is a Python object. The remedy is not another idea but the same one
# with *arrays*: one object for a million numbers, and fast loops inside.
#
# ## From numbers to arrays
#
# Points that are computed together are called a *batch*, and a layer for a whole batch is one matrix product. With $N$ points,
# $I$ inputs and $O$ neurons:
#
# $$ Y = X W^\top + b, \qquad X: (N, I), \quad W: (O, I), \quad b: (O), \quad Y: (N, O). $$
#
# In parentheses stand *shapes*: $X$ is a table with a row for each point and a column for each input, $W$ has a row of weights
# for each neuron. $W^\top$ is $W$ *transposed*, with rows and columns exchanged. In a product of matrices each entry is a row
# times a column, number by number, added up: here $Y_{n,o} = \sum_i X_{n,i} W_{o,i} + b_o$, which is just what a neuron does.
# (NumPy writes `X @ W.T + b`.)
#
# Let $G$ be the derivative of the loss by $Y$: one number for each entry, so the shape is $(N, O)$. Then the chain rule,
# written for each entry and put together again, gives
#
# $$ \frac{\partial L}{\partial X} = G\, W \;(N, I), \qquad \frac{\partial L}{\partial W} = G^\top X \;(O, I), \qquad
#    \frac{\partial L}{\partial b} = \sum_n G_n \;(O). $$
#
# The shapes nearly force the formulas: a derivative has the shape of what it belongs to, and there is just one way to
# multiply $G$ with the other factor that gives this shape. The bias was added to all $N$ rows, it was used $N$ times, so its
# contributions add up.
#
# ### Exercise 3: the gradient of a layer


# %% tags=["exercise"]
def dense_backward(X, W, G):
    """(dX, dW, db) for Y = X W^T + b, where G = dL/dY. Shapes: X (N, I), W (O, I), G (N, O)."""
    # <solution: Three products: G W, G transposed times X, and the sum of G over the N rows.>
    return G @ W, G.T @ X, G.sum(axis=0)
    # </solution>


# %% tags=["check"]
random = np.random.default_rng(1)
X, W, G = random.normal(size=(4, 3)), random.normal(size=(2, 3)), random.normal(size=(4, 2))
dX, dW, db = dense_backward(X, W, G)
for name, mine, array in (("dX", dX, X), ("dW", dW, W)):
    assert mine.shape == array.shape, (
        f"{name} must have the shape {array.shape} of what it belongs to, got {mine.shape}"
    )
    flat = measured_gradient(
        lambda v, like=array, which=name: float(
            (
                (np.reshape(v, like.shape) if which == "dX" else X)
                @ (np.reshape(v, like.shape) if which == "dW" else W).T
                * G
            ).sum()
        ),
        list(array.ravel()),
    )
    assert np.allclose(mine.ravel(), flat, atol=1e-6), f"{name} is not what central differences measure"
assert np.allclose(db, G.sum(0)), "db adds up the rows of G, one number for each of the O neurons"
print("right: all three agree with measured slopes")

# %% [markdown]
# ## The engine
#
# `minicnn.Tensor` is `Value` for arrays. The same three ideas are in it: results remember their parents, a walk in
# topological order, contributions are added. What it adds is care: fast kernels, memory that is given back during the
# walk, and errors that speak.

# %%
w = minicnn.tensor(3.0, requires_grad=True)
x = minicnn.tensor(2.0, requires_grad=True)
b = minicnn.tensor(1.0, requires_grad=True)
y = (w * x + b) ** 2
print("y remembers who made it:", y)
y.backward()
print("gradients:", w.grad.item(), x.grad.item(), b.grad.item())

# %% [markdown]
# The tape is walked once and thrown away while it is walked; that keeps memory small. Walking it twice is refused, with
# the reason. And a long chain is no problem, for nothing calls itself:

# %%
try:
    y.backward()
except RuntimeError as error:
    print("a second time:", error)

chain = minicnn.tensor(1.0, requires_grad=True)
result = chain
for _ in range(20_000):
    result = result * 1.0001
result.backward()
print(f"\n20,000 multiplications: gradient {chain.grad.item():.4f}, expected {1.0001**20_000:.4f}")

# %% [markdown]
# An operation of your own is a class with a `forward` on arrays and a `backward` from the gradient of the result to the
# gradient of the input. Here is *softplus*, $\ln(1 + e^x)$, a soft ReLU; its derivative is $1 / (1 + e^{-x})$.
# `gradcheck` compares with central differences along random directions, in 64-bit numbers: exercise 1, for everything.


# %%
class Softplus(minicnn.Function):
    """ln(1 + e^x), written so that large x do not overflow."""

    def forward(self, x):
        self.x = x
        return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))

    def backward(self, grad):
        return (grad / (1 + np.exp(-self.x)),)


x = minicnn.tensor(np.random.default_rng(0).normal(size=(3, 4)), requires_grad=True)
print("gradcheck:", minicnn.gradcheck(Softplus.apply, x))


class Wrong(Softplus):
    def backward(self, grad):
        return (grad * 0.9,)


try:
    minicnn.gradcheck(Wrong.apply, x)
except minicnn.GradcheckError as error:
    print("a wrong one:", error)

# %% [markdown]
# Now the half-moons again, with arrays: the same network, the same loss, all points at once. `Sequential` runs layers one after the
# other, `Linear(2, 8)` is one with 2 inputs and 8 neurons, and the optimizer `SGD` moves every parameter against its gradient, as our
# line did. A *seed* makes random numbers, here the weights to begin with, come out the same each time.

# %%
from minicnn import nn, optim

minicnn.manual_seed(0)
model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = optim.SGD(model.parameters(), lr=0.5)
inputs = minicnn.tensor(points.astype(np.float32))
signs = minicnn.tensor(targets.astype(np.float32))
softplus = nn.functional.softplus

losses = []
for step in range(600):
    if step == 1:
        started = time.perf_counter()  # the first step may have to compile kernels
    loss = softplus(-signs * model(inputs).squeeze(1)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
ours = (time.perf_counter() - started) / 599
print(f"loss from {losses[0]:.3f} to {losses[-1]:.3f}")
print(
    f"{1000 * ours:.2f} ms a step against {1000 * seconds_per_step:.0f} ms: {seconds_per_step / ours:.0f} times faster"
)
viz.curves({"loss": losses}, xlabel="step", title="The same network as six arrays")

# %% [markdown]
# And this is on 60 points, where the arrays are tiny: the larger they are, the less the objects around them cost.
#
# The first curve on the web comes from the long run, 150 steps. With `MINICNN_FAST=1` in the environment there are 40, and it ends higher.
#
# ## What was learnt
#
# - A derivative is a rate of exchange; along a chain, rates multiply; where a value is used twice, they add.
# - Walking backward gives the derivatives by *all* inputs for the price of about two evaluations. That is the whole of
#   *automatic differentiation*: a tape, a topological order, local derivatives.
# - For arrays the same rules become products and sums of matrices, and every gradient has the shape of its array.
# - Central differences are slow, but they know nothing of your formulas: use them to test gradients.
#
# ## Questions
#
# 1. In `Value.backward`, what would go wrong if a value were visited before one of its uses? Draw the smallest example.
# 2. $Y = X W^\top$ costs $N \cdot I \cdot O$ multiplications. How many does its backward cost? (So how dear is training
#    beside answering?)
# 3. At $x = 0$ the slope of ReLU jumps from 0 to 1. What does our `Value.relu` answer there, and what would central
#    differences measure? Why does this hardly matter?
