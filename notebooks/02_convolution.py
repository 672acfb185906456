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
# # 02 Convolution: six ways to the same numbers
#
# A convolution slides a small pattern over an image and writes down, at each place, how well the image fits the pattern.
# This notebook defines it, says how large the result is, computes it in six different ways that all give the same
# numbers, and explains why an engine wants more than one of them.

# %% tags=["setup"]
import os
import time

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import minicnn
import minicnn.nn.functional as F
from minicnn import data, viz

FAST = os.environ.get("MINICNN_FAST") == "1"  # a short run: fewer repetitions
rng = np.random.default_rng(0)

# %% [markdown]
# ## What it is
#
# Let $x$ be an image of $H \times W$ pixels and $w$ a *kernel* (or *filter*) of $k \times k$ numbers. The result at row $i$
# and column $j$ multiplies the kernel with the *window* of the image that begins there, and adds up:
#
# $$ y_{i,j} = \sum_{p=0}^{k-1} \sum_{q=0}^{k-1} x_{i+p,\, j+q} \; w_{p,q}. $$
#
# (Mathematicians flip the kernel and call this a correlation. A learnt kernel does not care.)
#
# Four kernels of 3 x 3 that people wrote by hand long before networks learnt their own:

# %%
shoe, label = data.FashionMNIST(train=False)[0]
shoe = np.asarray(shoe, np.float32).reshape(28, 28)
shoe = shoe / shoe.max()
by_hand = {
    "the image": [[0, 0, 0], [0, 1, 0], [0, 0, 0]],
    "blur": [[1 / 9] * 3] * 3,
    "edges from left to right": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "edges from top to bottom": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
    "what differs from around": [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]],
}


def convolve_one(x, w):
    """One channel: x (H, W), w (k, k). Gives (H - k + 1, W - k + 1). The formula above, as it stands."""
    k = len(w)
    y = np.zeros((x.shape[0] - k + 1, x.shape[1] - k + 1))
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = (x[i : i + k, j : j + k] * w).sum()
    return y


answers = np.array([convolve_one(shoe, np.array(kernel)) for kernel in by_hand.values()])
viz.images(answers, list(by_hand), columns=5)

# %% [markdown]
# A learning network finds such kernels by itself; what they are good at, finding edges and spots wherever they lie, is
# what makes them the first layer of nearly every network for images.
#
# ## How large the result is
#
# A window of $k$ fits $H - k + 1$ times into $H$ pixels, so the result is smaller than the image. Two dials change that:
# *padding* $p$ puts zeros around the image, and *stride* $s$ moves the window by more than one pixel.
#
# $$ H' = \left\lfloor \frac{H + 2p - k}{s} \right\rfloor + 1 $$
#
# The brackets $\lfloor \, \rfloor$ mean "rounded down".
#
# ### Exercise 1: the size law


# %% tags=["exercise"]
def output_size(size, kernel, stride=1, padding=0):
    """How many windows fit along one side."""
    # <solution: Count the windows: the last one must still lie inside of the padded image.>
    return (size + 2 * padding - kernel) // stride + 1
    # </solution>


# %% tags=["check"]
for arguments, expected in (
    ((28, 3), 26),
    ((28, 3, 1, 1), 28),
    ((28, 5, 2, 2), 14),
    ((224, 7, 2, 3), 112),
    ((5, 2, 2), 2),
):
    found = output_size(*arguments)
    assert found == expected, (
        f"size, kernel, stride, padding {arguments}: {expected} windows fit, you say {found}"
    )
print("right: a 3 x 3 kernel with padding 1 keeps the size, and stride 2 halves it")

# %% [markdown]
# ## Images have channels
#
# A colour image has three numbers at each pixel, and inside of a network a pixel has as many as the layer before had
# filters. They are called *channels*. A filter then has a $k \times k$ kernel *for each input channel*, and a layer has
# many filters. In shapes, with $N$ images in a batch:
#
# $$ x: (N, C, H, W), \qquad w: (O, C, k, k), \qquad y: (N, O, H', W'), $$
#
# $$ y_{n,o,i,j} = \sum_c \sum_p \sum_q x_{n,c,\,si+p,\,sj+q} \; w_{o,c,p,q}. $$
#
# The number of multiplications is that of all indices together: $N\,O\,H'\,W' \cdot C\,k\,k$. Our example:

# %% tags=["setup"]
N, C, H, W, O, K = 2, 3, 14, 14, 4, 3
x = rng.standard_normal((N, C, H, W))
w = rng.standard_normal((O, C, K, K))
pad = 1
padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))

# %%
print(f"{N * O * H * W * C * K * K:,} multiplications for a result of {N * O * H * W:,} numbers")

# %% [markdown]
# ### Way 1: loops
#
# Seven loops, one for each letter. This is the definition, and everything else is measured against it.


# %%
def by_loops(x, w):
    n, c, h, wide = x.shape
    o, _, k, _ = w.shape
    y = np.zeros((n, o, h - k + 1, wide - k + 1))
    for image in range(n):
        for f in range(o):
            for i in range(h - k + 1):
                for j in range(wide - k + 1):
                    for channel in range(c):
                        for p in range(k):
                            for q in range(k):
                                y[image, f, i, j] += x[image, channel, i + p, j + q] * w[f, channel, p, q]
    return y


truth = by_loops(padded, w)
print(truth.shape)

# %% [markdown]
# ### Way 2: a view of all windows
#
# NumPy can *look* at memory as if every window were there, without copying a byte: `sliding_window_view` gives an array
# $(N, C, H', W', k, k)$ that lies over the image. What remains is one sum over $c, p, q$, which `einsum` writes with letters.


# %%
def by_windows(x, w):
    windows = sliding_window_view(x, w.shape[2:], axis=(2, 3))
    return np.einsum("ncijpq,ocpq->noij", windows, w)


# %% [markdown]
# ### Way 3: im2col, one matrix product
#
# Computers are best at one thing: multiplying large matrices. So copy every window into a row of a matrix, $(H'W')$ rows
# of $C k k$ numbers, and the kernels into the columns of another. Their product is the convolution. The name *im2col*
# is from "image to columns" (here they are rows: the same thing, turned).

# %%
small = np.arange(25.0).reshape(5, 5) % 7
viz.im2col(small, 3, window=4)

# %% [markdown]
# Each pixel stands in up to nine rows: the matrix is nine times as large as the image. That is the price, paid in memory,
# for using the fastest loop there is.
#
# ### Exercise 2: im2col


# %% tags=["exercise"]
def im2col(x, k, stride=1):
    """All windows of x (N, C, H, W) as rows: (N H' W', C k k)."""
    # <solution: Take every stride-th window of sliding_window_view, put axes in the order n i j c p q, and reshape.>
    windows = sliding_window_view(x, (k, k), axis=(2, 3))[:, :, ::stride, ::stride]
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1] * k * k)
    # </solution>


# %% tags=["check"]
columns = im2col(np.arange(2 * 2 * 16.0).reshape(2, 2, 4, 4), 3)
assert columns.shape == (8, 18), (
    f"2 images with 2 x 2 windows of 2 x 3 x 3 numbers make (8, 18), got {columns.shape}"
)
assert columns[1, :4].tolist() == [1, 2, 3, 5], (
    f"row 1 is the window that begins at column 1: 1 2 3 5 ..., got {columns[1, :4]}"
)
assert columns[1, 9] == 17, "the second half of a row is the same window of the second channel"
assert im2col(np.zeros((1, 1, 7, 7)), 3, stride=2).shape == (9, 9), "with stride 2 a side of 7 has 3 windows"
print("right")


# %%
def by_im2col(x, w):
    n, c, h, wide = x.shape
    o, _, k, _ = w.shape
    y = im2col(x, k) @ w.reshape(o, -1).T  # (N H' W', C k k) times (C k k, O)
    return y.reshape(n, h - k + 1, wide - k + 1, o).transpose(0, 3, 1, 2)


# %% [markdown]
# ### Way 4: one tap at a time
#
# Turn the sums around: for each of the $k k$ *taps* of the kernel, shift the whole image and multiply its channels by a
# small matrix $(O, C)$. Nine products, and no large matrix. Fast kernels do this with the image in an order in which the
# channels of a pixel are neighbours in memory (*channels last*).


# %%
def by_taps(x, w):
    n, c, h, wide = x.shape
    o, _, k, _ = w.shape
    y = np.zeros((n, o, h - k + 1, wide - k + 1))
    for p in range(k):
        for q in range(k):
            shifted = x[:, :, p : p + h - k + 1, q : q + wide - k + 1]
            y += np.einsum("ncij,oc->noij", shifted, w[:, :, p, q])
    return y


# %% [markdown]
# ### Way 5: through frequencies
#
# A theorem from the time of Fourier: written as sums of waves, convolution becomes a plain product, frequency by
# frequency. Transform the image, transform the kernel (with zeros around it), multiply, transform back. For large kernels
# this wins; for 3 x 3 the transforms cost more than they save. `conj`, which turns the waves
# of the kernel around, undoes the flip of the mathematicians.


# %%
def by_frequencies(x, w):
    n, c, h, wide = x.shape
    k = w.shape[2]
    image_waves = np.fft.rfft2(x)
    kernel_waves = np.fft.rfft2(w, s=(h, wide))
    product = np.einsum("ncij,ocij->noij", image_waves, kernel_waves.conj())
    return np.fft.irfft2(product, s=(h, wide))[:, :, : h - k + 1, : wide - k + 1]


# %% [markdown]
# ### Way 6: fewer multiplications (Winograd)
#
# Two neighbouring results of a kernel of three numbers need six multiplications: $y_0 = x_0w_0 + x_1w_1 + x_2w_2$ and
# $y_1 = x_1w_0 + x_2w_1 + x_3w_2$. Shmuel Winograd showed that four are enough:
#
# $$ m_1 = (x_0 - x_2)\,w_0, \quad m_2 = (x_1 + x_2)\tfrac{w_0 + w_1 + w_2}{2}, \quad
#    m_3 = (x_2 - x_1)\tfrac{w_0 - w_1 + w_2}{2}, \quad m_4 = (x_1 - x_3)\,w_2, $$
#
# $$ y_0 = m_1 + m_2 + m_3, \qquad y_1 = m_2 - m_3 - m_4. $$
#
# The halves of $w$ are computed once for all places. In two dimensions the trick is used along rows and along columns:
# a tile of $2 \times 2$ results from $4 \times 4$ pixels needs 16 multiplications instead of 36. As matrices,
#
# $$ Y = A \left[ (G\, w\, G^\top) \odot (B\, x\, B^\top) \right] A^\top, \qquad w: (3, 3), \; x: (4, 4), \; Y: (2, 2), \quad
#    G: (4, 3), \; B: (4, 4), \; A: (2, 4), $$
#
# where $\odot$ multiplies entry by entry: these are the 16. $B$, $G$ and $A$ hold just what the formulas above say for $x$, for $w$ and for the way back.

# %%
B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1.0]])
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1.0]])
A = np.array([[1, 1, 1, 0], [0, 1, -1, -1.0]])


def by_winograd(x, w):
    """For 3 x 3 kernels and an even number of results a side."""
    n, c, h, wide = x.shape
    tiles = sliding_window_view(x, (4, 4), axis=(2, 3))[:, :, ::2, ::2]
    U = np.einsum("ap,ncijpq,bq->ncijab", B, tiles, B)
    V = np.einsum("ap,ocpq,bq->ocab", G, w, G)
    M = np.einsum("ncijab,ocab->noijab", U, V)  # the only multiplications that count: 16 for 4 results
    y = np.einsum("ra,noijab,sb->noirjs", A, M, A)
    return y.reshape(n, len(w), h - 2, wide - 2)


# %% [markdown]
# ## The same numbers
#
# Sums in another order round differently, so we ask for agreement to 13 digits, not for equal bits.

# %%
ways = {
    "loops": by_loops,
    "windows": by_windows,
    "im2col": by_im2col,
    "taps": by_taps,
    "frequencies": by_frequencies,
    "Winograd": by_winograd,
}
for name, way in ways.items():
    started = time.perf_counter()
    y = way(padded, w)
    milliseconds = 1000 * (time.perf_counter() - started)
    error = np.abs(y - truth).max() / np.abs(truth).max()
    assert error < 1e-13, f"{name} gives other numbers"
    print(f"{name:12} {milliseconds:8.2f} ms   largest difference {error:.1e}")

engine = F.conv2d(minicnn.tensor(x), minicnn.tensor(w), padding=pad).numpy()
print(f"the engine   {'':11}   largest difference {np.abs(engine - truth).max() / np.abs(truth).max():.1e}")

# %% [markdown]
# The engine was given 64-bit numbers here. In 32 bits, which is what one trains with, it uses compiled kernels: for
# 3 x 3 kernels with stride 1 it is Winograd's way, for others way 4 in tiles that stay in the processor's registers.
# On a layer of real size:

# %%
batch = minicnn.randn(16 if FAST else 64, 32, 16, 16)
kernels = minicnn.randn(64, 32, 3, 3)
flops = 2 * batch.shape[0] * 64 * 16 * 16 * 32 * 9


def best_of(call, rounds=3 if FAST else 7):
    call()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


numpy_batch = np.pad(batch.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
with minicnn.no_grad():
    times = {
        "windows": best_of(lambda: by_windows(numpy_batch, kernels.numpy()), 1),
        "im2col": best_of(lambda: by_im2col(numpy_batch, kernels.numpy())),
        "Winograd": best_of(lambda: by_winograd(numpy_batch, kernels.numpy()), 1),
        "the engine": best_of(lambda: F.conv2d(batch, kernels, padding=1)),
    }
for name, seconds in times.items():
    print(f"{name:12} {1000 * seconds:8.1f} ms   {flops / seconds / 1e9:7.1f} billion operations a second")

# %% [markdown]
# Winograd's way saves multiplications, but in NumPy each of its steps is a walk through memory, and memory is slower than
# arithmetic. In the engine the transforms happen in registers. Notebook 10 climbs that ladder step by step.
# (The times on the web are those of 64 images, on two cores. With `MINICNN_FAST=1` in the environment there are 16.)
#
# ## Walking back
#
# Training needs the derivative of the loss by the kernel and by the image (notebook 01). With im2col there is nothing new
# to think: $Y = X_{col} W^\top$ is a layer of neurons that see all their inputs (a *dense* layer), as there, so with $G = \partial L / \partial Y$, of shape $(N H' W', O)$,
#
# $$ \frac{\partial L}{\partial W} = G^\top X_{col}, \qquad \frac{\partial L}{\partial X_{col}} = G\, W, $$
#
# and the latter is put back into the image by adding, for each pixel, what its windows say (a pixel was used in up to nine
# windows, and uses add up).
#
# ### Exercise 3: the gradient of the kernel


# %% tags=["exercise"]
def kernel_gradient(x, G, k):
    """dL/dw (O, C, k, k) for x (N, C, H, W), already padded, and G = dL/dy (N, O, H', W')."""
    # <solution: Turn G into rows (N H' W', O), multiply its transpose with im2col(x), and reshape.>
    rows = G.transpose(0, 2, 3, 1).reshape(-1, G.shape[1])
    return (rows.T @ im2col(x, k)).reshape(G.shape[1], x.shape[1], k, k)
    # </solution>


# %% tags=["check"]
sample = minicnn.tensor(w.copy(), requires_grad=True)
G_sample = rng.standard_normal((N, O, H, W))
(F.conv2d(minicnn.tensor(x), sample, padding=pad) * minicnn.tensor(G_sample)).sum().backward()
mine = kernel_gradient(padded, G_sample, K)
assert mine.shape == w.shape, f"a gradient has the shape of its array, {w.shape}; got {mine.shape}"
assert np.allclose(mine, sample.grad.numpy()), "not the gradient that the engine finds"
print("right: the same as the engine's")

# %% [markdown]
# ## What was learnt
#
# - A convolution compares a small pattern with every window of the image. Its result has
#   $\lfloor (H + 2p - k)/s \rfloor + 1$ rows.
# - With channels, a filter is $(C, k, k)$ and a layer $(O, C, k, k)$; the work is $N O H' W' \cdot C k k$ multiplications.
# - The same numbers can be had by windows, by one matrix product, tap by tap, through frequencies, or with fewer
#   multiplications. They differ in memory and in speed, not in meaning.
# - As a matrix product, its gradient is that of a dense layer.
#
# ## Questions
#
# 1. A layer of 64 filters of 3 x 3 on 32 channels: how many weights has it? How many would a *dense* layer need that
#    joins every pixel of a 32 x 16 x 16 image with every pixel of a 64 x 16 x 16 one?
# 2. Two layers of 3 x 3 kernels, one after the other: how large is the window of the image that one result sees? How many
#    weights have they beside one layer of 5 x 5?
# 3. Why is the difference between way 6 and the loops a little larger than that of way 3? (Look at the signs in $B$ and $A$.)
