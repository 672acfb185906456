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
# # 10 Kernels: the ladder and the roofline
#
# All of a network's time is spent in a few loops, its *kernels*. The same loops, written in another order, can be a hundred times faster on
# the same processor. This notebook asks how fast a loop could be at most, then climbs from the plainest one to the one in the engine, and says
# at each rung what changed and why it helps.

# %% tags=["setup"]
import os
import time

import numpy as np

import minicnn_kernels as kernels
from minicnn import viz
from minicnn_kernels.ladder import CONVOLUTION, MATMUL, convolution, limits, matmul

FAST = os.environ.get("MINICNN_FAST") == "1"  # a short run: smaller problems
rng = np.random.default_rng(0)

# %% [markdown]
# ## How fast can it be?
#
# A processor has two limits that matter here. It can do so many multiplications and additions in a second, its *peak*, counted in GFLOP/s
# (billion floating-point operations a second). And it can move so many bytes between memory and itself, its *bandwidth*, in GB/s. We measure
# both: the peak with a loop that only computes, in registers, and the bandwidth with one that only streams arrays.


# %%
def seconds(call, budget=0.1 if FAST else 0.4):
    """The best of as many runs as fit into `budget` seconds, at least three; the first one compiles and does not count."""
    call()
    time.sleep(0.05)  # idle threads of another library spin for a moment
    times = []
    while len(times) < 3 or sum(times) < budget:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


threads = kernels.get_threads()
totals, steps = np.empty(limits.TASKS, np.float32), 2_000
a, b, c = (np.zeros(1 << (22 if FAST else 24), np.float32) for _ in range(3))
roofs = []
for count in sorted({1, threads}):
    kernels.set_threads(count)
    peak = (
        limits.multiply_add_flops(steps)
        / seconds(lambda: limits.multiply_add(steps, np.float32(0.5), np.float32(1), totals))
        / 1e9
    )
    bandwidth = 3 * a.nbytes / seconds(lambda: limits.triad(a, b, c, np.float32(0.5))) / 1e9
    roofs.append({"threads": count, "peak_gflops": peak, "bandwidth_gbs": bandwidth})
    print(f"{count} thread{'s' * (count > 1)}: peak {peak:.0f} GFLOP/s, bandwidth {bandwidth:.0f} GB/s")

# %% [markdown]
# Which limit holds depends on the loop: on how many operations it does *for each byte that it moves*, its *intensity* $I$. Then
#
# $$ \text{attainable} = \min(\text{peak},\ I \cdot \text{bandwidth}). $$
#
# Drawn over $I$ this is a slope and then a flat top: the *roofline* (Williams, Waterman and Patterson, 2009). Left of the corner a loop waits for memory, and
# cleverer arithmetic is useless; right of it, arithmetic is all.
#
# ### Exercise 1: intensity and roof


# %% tags=["exercise"]
def matmul_intensity(m, k, n):
    """Operations per byte of C = A B with A (m, k), B (k, n) in float32, if each array is moved just once."""
    # <solution: A multiplication and an addition for each of m k n; four bytes for each number of A, B and C.>
    return 2 * m * k * n / (4 * (m * k + k * n + m * n))
    # </solution>


# %% tags=["check"]
assert matmul_intensity(1, 1, 1) == 2 / 12, (
    "one multiplication and one addition for three numbers of four bytes"
)
assert abs(matmul_intensity(1024, 1024, 1024) - 1024 / 6) < 1e-9, "for three squares of side n it is n / 6"
assert matmul_intensity(1, 1024, 1024) < 0.6, (
    "a matrix times one single row: hardly any work for all those bytes"
)
print("right")


# %%
places = {
    "relu(x): 1 / 8": 1 / 8,
    "matrix times one vector": matmul_intensity(1, 1024, 1024),
    "matrix times 16 vectors": matmul_intensity(16, 1024, 1024),
    "1024 x 1024 matrices": matmul_intensity(1024, 1024, 1024),
}
single = roofs[0]
viz.roofline(
    roofs,
    {
        name: (place, min(single["peak_gflops"], place * single["bandwidth_gbs"]))
        for name, place in places.items()
    },
)

# %% [markdown]
# The marks lie on the roof of one thread: no loop for this task can be above. That is why activations, pooling and batch norm are best done *while* their numbers
# are in the processor anyway (*fusion*), and why one image at a time is slow: each weight is fetched for one multiplication.
#
# ## The ladder of the matrix product
#
# $C = A B$ takes three loops, over $i$ (rows of $A$), $j$ (columns of $B$) and $k$. All orders of the loops compute the same.

# %%
size = 256 if FAST else 512
A, B = (rng.standard_normal((size, size)).astype(np.float32) for _ in range(2))
truth = A.astype(np.float64) @ B


def climb(ladder, make_arguments, flops_of, check):
    """Time every rung on its problem; gives records as viz.ladder wants them."""
    records = []
    for rung in ladder:
        count = threads if rung.parallel else 1
        kernels.set_threads(count)
        arguments = make_arguments(rung)
        check(rung, rung.function(*arguments))
        best = seconds(lambda rung=rung, arguments=arguments: rung.function(*arguments))
        roof = next(roof for roof in roofs if roof["threads"] == count)
        gflops = flops_of(rung) / best / 1e9
        records.append({"rung": rung.name, "problem": "", "threads": count, "gflops": gflops,
                        "of_roofline": gflops / roof["peak_gflops"], "attainable_gflops": roof["peak_gflops"]})  # fmt: skip
    kernels.set_threads(threads)
    return records


def side(rung):
    return 48 if rung.interpreted else size


def check_product(rung, result):
    n = side(rung)
    exact = A[:n, :n].astype(np.float64) @ B[:n, :n]
    assert np.allclose(result, exact, atol=1e-3), f"{rung.name} is wrong"


products = climb(
    MATMUL,
    lambda rung: matmul.arguments(
        rung, A[: side(rung), : side(rung)].copy(), B[: side(rung), : side(rung)].copy()
    ),
    lambda rung: 2 * side(rung) ** 3,
    check_product,
)
for record in products:
    record["problem"] = f"{size} x {size} x {size}"
for rung, record in zip(MATMUL, products, strict=True):
    print(f"{rung.name:22} {record['gflops']:9.3f} GFLOP/s   {rung.what_changed}")

# %% [markdown]
# BLAS, the library behind NumPy's `@`, is on the list for comparison. Read what changed at each rung:

# %%
for rung in MATMUL:
    print(f"{rung.name}: {rung.why}\n")

# %% [markdown]
# ### Exercise 2: tiles
#
# The central idea is *tiling*: cut the matrices into blocks so small that three of them fit into the cache (the processor's own small, fast memory), and finish
# all work with a block before fetching the next. The result is the same, for
#
# $$ C_{IJ} = \sum_K A_{IK} B_{KJ} \quad \text{with blocks } A_{IK}: (t, t), \; B_{KJ}: (t, t), \; C_{IJ}: (t, t). $$


# %% tags=["exercise"]
def tiled_matmul(A, B, tile):
    """A @ B, block by block; sides need not divide by `tile`."""
    # <solution: Three loops with step `tile` over slices; add A[i:i+t, k:k+t] @ B[k:k+t, j:j+t] to C[i:i+t, j:j+t].>
    C = np.zeros((A.shape[0], B.shape[1]), A.dtype)
    for i in range(0, A.shape[0], tile):
        for j in range(0, B.shape[1], tile):
            for k in range(0, A.shape[1], tile):
                C[i : i + tile, j : j + tile] += A[i : i + tile, k : k + tile] @ B[k : k + tile, j : j + tile]
    return C
    # </solution>


# %% tags=["check"]
left, right = rng.standard_normal((50, 70)), rng.standard_normal((70, 30))
found = tiled_matmul(left, right, 16)
assert found.shape == (50, 30), f"(50, 70) times (70, 30) gives (50, 30), got {found.shape}"
assert np.allclose(found, left @ right), (
    "the blocks do not add up to the product; are the last, smaller ones there?"
)
moved_plain, moved_tiled = 2 * 1024**3, 2 * 1024**3 / 64
print(
    f"right. With n = 1024 and tiles of 64, numbers fetched from memory: {moved_plain:.1e} without tiles, {moved_tiled:.1e} with them"
)

# %% [markdown]
# In the fastest rungs the smallest tile lies in *registers*, the few dozen places on which a processor really computes: a block of, say, 8 x 32 results stays there
# while a column of $A$ and a row of $B$ go by. Each number that is loaded is then used many times.
#
# ## The ladder of the convolution
#
# The same climb for the second layer of our usual network: 32 channels to 64, 16 x 16 pixels, 3 x 3 kernels.

# %%
images = 4 if FAST else 16
x = rng.standard_normal((images, 32, 16, 16)).astype(np.float32)
weight, bias = (
    rng.standard_normal((64, 32, 3, 3)).astype(np.float32),
    rng.standard_normal(64).astype(np.float32),
)
exact = kernels.reference.conv2d_forward(
    *(array.astype(np.float64) for array in (x, weight, bias)), (1, 1), (1, 1), (1, 1), 1
)
pooled = np.maximum(exact, 0).reshape(images, 64, 8, 2, 8, 2).max(axis=(3, 5))


def check_images(rung, result):
    expected = pooled if rung.pooled else exact
    assert np.allclose(convolution.as_images(rung, result), expected, rtol=1e-3, atol=1e-2), (
        f"{rung.name} is wrong"
    )


convolutions = climb(
    CONVOLUTION,
    lambda rung: convolution.arguments(rung, x, weight, bias),
    lambda rung: 2 * exact.size * 32 * 9,
    check_images,
)
for record in convolutions:
    record["problem"] = f"{images} images, 32 to 64 channels, 16 x 16 pixels, 3 x 3"
blas = [record for record in products if record["rung"].startswith("BLAS")]
viz.ladder({"threads": threads, "matmul": products, "convolution": convolutions + blas})

# %%
for rung, record in zip(CONVOLUTION, convolutions, strict=True):
    print(f"{rung.name} ({record['gflops']:.1f} GFLOP/s): {rung.what_changed} {rung.why}\n")

# %% [markdown]
# The top rungs may stand above the roof. No law is broken: Winograd's way (notebook 02) computes the same results with fewer multiplications, and we count those of the
# definition.
#
# ### Exercise 3: what is left to win?
#
# A layer takes a share $f$ of the whole time, and a new kernel makes it $s$ times faster. How much faster does the whole become? (This is *Amdahl's law*, and the best
# reason to measure before one optimizes.)


# %% tags=["exercise"]
def whole_speedup(share, factor):
    """How many times faster the whole is, if a part with this share of the time becomes `factor` times faster."""
    # <solution: The new time is (1 - share) + share / factor of the old one.>
    return 1 / ((1 - share) + share / factor)
    # </solution>


# %% tags=["check"]
assert whole_speedup(1, 3) == 3, "if it is everything, the whole becomes three times faster"
assert abs(whole_speedup(0.5, 2) - 4 / 3) < 1e-12, "half of the time twice as fast: three quarters are left"
assert whole_speedup(0.1, 1e9) < 1.12, "a tenth of the time, made infinitely fast, gains a ninth at most"
print("right")

# %% [markdown]
# ## Measuring
#
# Times lie. The first call compiles. Another program takes the processor away. Caches are warm in a loop and cold in life. So: call once before, repeat, take the median or the
# best, check the *result* before the time, and compare only what was measured side by side on one machine. `python -m bench ladder` does this with more patience.
#
# The figures on the web come from two cores of a machine with AVX-512 that had nothing else to do. A rung need not be above the one below it on every problem: the cache tiles win nothing here, because matrices of this size fit into the cache as they are
# (with 1,024 x 1,024 they do not: `bench/results/ladder.png` of the source). And while another program keeps a core busy, whatever uses two threads is slower than what uses one. With `MINICNN_FAST=1` problems are smaller, and the top rungs look a little worse, for there is less work to share.
#
# ## What was learnt
#
# - A loop is limited by arithmetic or by memory; operations per byte decide which.
# - The order of loops, whole cache lines, independent sums (vectors), tiles for caches and for registers: each is worth a factor.
# - Fusing small operations into large ones saves the walks through memory.
# - An algorithm with fewer operations beats a better loop, and both together are best.
#
# ## Questions
#
# 1. Why does the plain compiled loop fall behind by so much, although it does nothing unnecessary?
# 2. A depthwise convolution (one 3 x 3 kernel for each channel) does 18 operations for each number of its result. Where under the roof does it lie?
# 3. Twice as many threads, but less than twice as fast: name three reasons.
