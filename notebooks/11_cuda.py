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
# # 11 CUDA in the simulator: thousands of threads, one at a time
#
# A graphics processor (*GPU*) runs tens of thousands of small threads at once. CUDA is the way to program NVIDIA's. This notebook writes such programs in Python,
# with Numba, and runs them *without a GPU*: Numba has a simulator that plays every thread in turn. It is very slow, and it is patient: one can look into
# every thread. We go from adding two arrays to a tiled matrix product and a convolution, and end with minicnn training a network by such kernels.
#
# You should know notebook 02 (im2col) and the first half of 10 (the roofline, tiles).
#
# The simulator must be chosen *before* Numba is imported. With `NUMBA_ENABLE_CUDASIM=0` in the environment, an NVIDIA GPU and `pip install "minicnn[gpu]"` the same
# kernels run on the GPU (what looks into threads is skipped then, and says so).

# %% tags=["setup"]
import os

os.environ.setdefault("NUMBA_ENABLE_CUDASIM", "1")  # before Numba is imported
os.environ.setdefault("MINICNN_SIMULATED_THREADS", "4")  # more than one: races are looked for (see below)

import importlib.util
import subprocess
import sys
import threading
import time

import numpy as np
from numba import config, cuda

import minicnn
import minicnn.nn.functional as F
from minicnn import data, nn, optim, viz

SIMULATED = bool(config.ENABLE_CUDASIM)
FAST = os.environ.get("MINICNN_FAST") == "1"  # a short run: fewer steps of training
rng = np.random.default_rng(0)
print("kernels run", "in the simulator" if SIMULATED else "on the GPU")

# %% [markdown]
# ## Threads, blocks, a grid
#
# A *kernel* here is a function that is run by many threads at once, each with the same arguments. Threads come in *blocks* of up to 1,024, and the blocks of one
# *launch* form the *grid*. Each thread knows three numbers: its place in its block (`threadIdx.x`), the number of its block (`blockIdx.x`), and how large a
# block is (`blockDim.x`). All that makes threads differ is what they make of these.
#
# A kernel returns nothing; it writes into arrays. The launch is written with the number of blocks and of threads in square brackets.


# %%
@cuda.jit
def who_am_i(block, thread, place):
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    block[i] = cuda.blockIdx.x
    thread[i] = cuda.threadIdx.x
    place[i] = i


block, thread, place = (np.zeros(12, np.int64) for _ in range(3))
who_am_i[3, 4](block, thread, place)  # 3 blocks of 4 threads
print("block: ", *block)
print("thread:", *thread)
print("place: ", *place)

# %% [markdown]
# The place of a thread in the whole grid, `blockIdx.x * blockDim.x + threadIdx.x`, is needed so often that it has a name: `cuda.grid(1)`. The 1 is the number of dimensions:
# grids and blocks may have two or three, with `.y` and `.z`, which is convenient for matrices and images.
#
# ## Adding two arrays
#
# One thread for each element. Blocks have a fixed size, so the last one sticks out over the end of the array, and its spare threads must do nothing. Forgetting this `if`
# is the most frequent mistake: on a GPU it writes into memory that belongs to somebody else.


# %%
@cuda.jit
def add(out, a, b):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] + b[i]


a, b = rng.standard_normal((2, 10)).astype(np.float32)
out = np.zeros(10, np.float32)
threads = 4
blocks = -(-10 // threads)  # rounded up: 3 blocks are 12 threads for 10 elements
add[blocks, threads](out, a, b)
print("equal to NumPy's sum:", np.array_equal(out, a + b))


@cuda.jit
def add_without_if(out, a, b):
    i = cuda.grid(1)
    out[i] = a[i] + b[i]


try:
    if SIMULATED:
        add_without_if[blocks, threads](out, a, b)
except IndexError as error:
    print("without the if, the simulator says:", error)

# %% [markdown]
# `tid` and `ctaid` in the error are the thread and the block (*cooperative thread array* is NVIDIA's word for it). A real GPU says nothing at all, or something about an illegal address, later, elsewhere.
#
# Here the arrays were NumPy's, so Numba copied them to the GPU and back at each launch. In earnest one copies once, `cuda.to_device(a)`, and leaves results there until they are
# needed: the way from the processor's memory to the GPU's is thirty times slower than the GPU's own memory.
#
# ### A grid-stride loop
#
# A kernel should not depend on the number of its threads. So let each do more than one element: it starts at its place, and goes on in steps of the number of *all* threads,
# `cuda.gridsize(1)`. With few threads each does much, with many each does little, and the result is the same.
#
# ### Exercise 1: a grid-stride loop


# %% tags=["exercise"]
@cuda.jit
def saxpy(y, factor, x):
    """y = factor x + y, in place, by any number of threads."""
    # <solution: Loop over range(cuda.grid(1), y.size, cuda.gridsize(1)) and change y[i] by factor * x[i].>
    for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        y[i] += factor * x[i]
    # </solution>


# %% tags=["check"]
x = np.arange(10, dtype=np.float32)
for blocks, threads in ((1, 1), (2, 3), (1, 16)):
    y = np.ones(10, np.float32)
    saxpy[blocks, threads](y, np.float32(2), x)
    assert np.array_equal(y, 2 * x + 1), (
        f"with {blocks} block(s) of {threads} thread(s), 2 x + 1 for x = 0 ... 9 should be 1 3 5 ... 19, yours is {y}"
    )
print("right, with 1, 6 and 16 threads")

# %% [markdown]
# ## What a warp reads together
#
# The hardware runs threads in groups of 32, *warps*. The threads of a warp do the same instruction at the same time. When that instruction reads memory, the addresses of all 32 are looked at together, and memory
# answers in *sectors* of 32 bytes, eight floats. If the 32 threads read 32 neighbouring floats, four sectors are enough. If their addresses are far apart, 32 sectors travel, of each of which one float is used.
# Access of the first kind is called *coalesced*, and it decides about most of the speed of most kernels: they are limited by memory (notebook 10).
#
# ### Exercise 2: count the sectors


# %% tags=["exercise"]
def sectors(places):
    """How many sectors of 32 bytes hold the float32 elements at these places (whole numbers) of one array."""
    # <solution: Element p begins at byte 4 p, in sector 4 p // 32; count the different sectors, with a set.>
    return len({4 * int(place) // 32 for place in places})
    # </solution>


# %% tags=["check"]
assert sectors(range(32)) == 4, f"32 neighbouring floats are 128 bytes, 4 sectors; yours {sectors(range(32))}"
assert sectors([7] * 32) == 1, "all threads read the same element: one sector"
assert sectors(range(0, 64, 2)) == 8, (
    f"every second element: twice as many sectors, 8; yours {sectors(range(0, 64, 2))}"
)
assert sectors(range(0, 32 * 32, 32)) == 32, "a column of a matrix with 32 columns: a sector for each element"
print("right")

# %%
strides = np.arange(1, 17)
viz.curves(
    {"sectors": (strides, [sectors(range(0, 32 * s, s)) for s in strides])},
    xlabel="distance between the elements that neighbouring threads read",
    ylabel="sectors that one warp fetches",
    title="Neighbours should read neighbours",
)

# %% [markdown]
# Now with a kernel. It adds up the rows of a matrix (32, 32) stored row by row, one thread for each row. It is the obvious program. We pass it an object that looks like an array and writes down who reads what.
# (Only the simulator can do that.) The k-th reads of all threads happen together on a GPU.


# %% tags=["setup"]
class Recorded:
    """Stands for an array inside of a simulated kernel, and writes down the reads of each thread.

    reads: {(block, thread): places of the elements it has read, in order}.
    """

    def __init__(self, array):
        self.array, self.shape, self.reads = array, array.shape, {}

    def __getitem__(self, index):
        who = threading.current_thread()
        place = int(np.ravel_multi_index(index, self.shape))
        self.reads.setdefault((tuple(who.blockIdx), who.thread_id), []).append(place)
        return self.array[index]

    def count(self):
        return sum(len(places) for places in self.reads.values())


# %%
@cuda.jit
def sum_rows(out, x):
    row = cuda.grid(1)
    total = np.float32(0)
    for column in range(x.shape[1]):
        total += x[row, column]
    out[row] = total


@cuda.jit
def sum_columns(out, x):
    column = cuda.grid(1)
    total = np.float32(0)
    for row in range(x.shape[0]):
        total += x[row, column]
    out[column] = total


matrix = rng.standard_normal((32, 32)).astype(np.float32)
for name, kernel, axis in (
    ("a thread for each row", sum_rows, 1),
    ("a thread for each column", sum_columns, 0),
):
    out = np.zeros(32, np.float32)
    watched = Recorded(matrix) if SIMULATED else matrix
    kernel[1, 32](out, watched)
    assert np.allclose(out, matrix.sum(axis), atol=1e-5)
    if SIMULATED:
        in_order = [places for _, places in sorted(watched.reads.items())]
        together = list(zip(*in_order, strict=True))  # the k-th reads of all threads
        fetched = sum(sectors(places) for places in together)
        print(
            f"{name}: {fetched} sectors for {watched.count()} numbers; the first reads: {together[0][:4]} ..."
        )

# %% [markdown]
# Each thread of the first kernel walks along its row, which looks tidy; but *at any moment* the 32 threads stand in 32 rows. The second kernel is the same with the letters exchanged, and moves an eighth of the bytes.
# (On a GPU caches help the first one somewhat.)
#
# ## Shared memory, and waiting
#
# The threads of a block can work together. They have a small memory in common, *shared memory* (up to 227 KB on an H100), about as fast as a cache, and a place to wait for one another: `cuda.syncthreads()`. No thread goes on from there until
# all threads of its block have arrived, and what they wrote before is then visible to all.
#
# What it is for: here each thread puts one number into shared memory and then reads the one of its *neighbour*. Between the two it must wait, or else the neighbour may not have written yet. That is a *race*. Let us forget to wait:


# %%
WIDTH = 32


@cuda.jit
def take_neighbour(out, x, step, wait):
    strip = cuda.shared.array(WIDTH, np.float32)
    i = cuda.threadIdx.x
    strip[i] = x[i]
    if wait:
        cuda.syncthreads()
    out[i] = strip[(i + step) % WIDTH]


for step, wait in ((1, True), (1, False), (-1, False)):
    # New numbers each time: those of the launch before may still lie in shared memory.
    x = rng.standard_normal(WIDTH).astype(np.float32)
    out = np.zeros(WIDTH, np.float32)
    take_neighbour[1, WIDTH](out, x, step, wait)
    wrong = int((out != np.roll(x, -step)).sum())
    print(f"neighbour {step:+}, {'with' if wait else 'without'} waiting: {wrong} of {WIDTH} are wrong")

# %% [markdown]
# The simulator plays threads in rising order, each until it waits or ends. So without waiting, nearly all see too little when they look *ahead*, and nearly all are right when they look *back*: the same mistake, once shown and once hidden.
# On a GPU it is the other way about for both: a warp writes together before it reads together, so within 32 threads *nothing* goes wrong. With 256 threads it goes wrong at the borders of the warps, on some days.
#
# Another race that the simulator hides altogether. All threads add to *one* number:


# %%
@cuda.jit
def sum_by_a_race(total, x):
    i = cuda.grid(1)
    if i < x.size:
        total[0] += x[i]


x, total = np.arange(1, 33, dtype=np.float32), np.zeros(1, np.float32)
sum_by_a_race[2, 16](total, x)
print("the sum of 1 ... 32 is", x.sum(), "and all threads together found", total[0])

# %% [markdown]
# Right, in the simulator, and *wrong on every GPU*. `total[0] += x[i]` is three acts: read, add, write. When 32 threads read the same old value, add their own number and write, one of them wins and 31 numbers are lost.
# No result shows it here. One has to *think*: for each place in memory, who else writes it, and what makes them wait?
#
# That thought can be left to a program. While threads take turns, write down every access to memory: which thread, reading or writing, and after how many waits. Two accesses to one place, one of them a write, by different threads with no wait between, are a race, whether or not the result is right
# this time. minicnn has such a simulator, which is on from here:

# %%
if SIMULATED:
    from minicnn_kernels.cuda import simulator

    simulator.install()  # in place of Numba's; minicnn does so by itself when it first uses the device
    suspects = {
        "sum_by_a_race": lambda: sum_by_a_race[2, 16](total, x),
        "take_neighbour +1, waiting": lambda: take_neighbour[1, WIDTH](out, x, 1, True),
        "take_neighbour -1": lambda: take_neighbour[1, WIDTH](out, x, -1, False),
    }
    for name, launch in suspects.items():
        try:
            launch()
            print(f"{name}: no race\n")
        except RuntimeError as error:
            print(f"{name}: {error}\n")

# %% [markdown]
# (The numbers behind the files are lines of a cell.) Besides, it starts shared memory as NaN, so that what nobody wrote does not look like a number, and complains if some threads wait where others never come.
#
# `cuda.atomic.add(total, 0, x[i])` makes the three acts one, and is right. But then threads add in the order in which they happen to come, sums of floats depend on the order (notebook 02), and two runs give different bits. minicnn wants
# the same bits every time, so it uses neither, but a tree.
#
# ### Exercise 3: the sum of a block, as a tree
#
# Each thread puts its number into shared memory. Then the first half of the threads add the numbers of the second half to theirs; then the first quarter those of the second; and so on. After $\log_2 n$ rounds the sum is at place 0.
#
# $$ s_i \leftarrow s_i + s_{i + h} \quad \text{for } i < h, \qquad h = n/2,\ n/4,\ \dots,\ 1. $$
#
# When must all wait? (And *all* threads of a block must come to `syncthreads`, also those that have nothing to add: it may not stand inside of an `if` that only some enter.)


# %% tags=["exercise"]
@cuda.jit
def block_sums(out, x):
    """out[block] = the sum of the block's part of x. Blocks of 16 threads; places beyond x count as 0."""
    strip = cuda.shared.array(16, np.float32)
    i, place = cuda.threadIdx.x, cuda.grid(1)
    # <solution: Fill strip[i] (0 beyond x.size), then for half in (8, 4, 2, 1): wait, and if i < half add strip[i + half]; at last thread 0 writes.>
    strip[i] = x[place] if place < x.size else np.float32(0)
    for half in (8, 4, 2, 1):
        cuda.syncthreads()
        if i < half:
            strip[i] += strip[i + half]
    if i == 0:
        out[cuda.blockIdx.x] = strip[0]
    # </solution>


# %% tags=["check"]
x = np.arange(40, dtype=np.float32)
out = np.full(3, np.nan, np.float32)
block_sums[3, 16](out, x)
expected = [x[:16].sum(), x[16:32].sum(), x[32:].sum()]
assert not np.isnan(out).any(), f"every block writes its sum at out[cuda.blockIdx.x]; yours left {out}"
assert out[2] == expected[2], f"the last block has 8 numbers and 8 zeros: {expected[2]}, yours {out[2]}"
assert out.tolist() == expected, (
    f"the sums are {expected}, yours {out.tolist()}; does every round wait for the one before?"
)
print("right:", out.tolist())

# %% [markdown]
# One wait in each round is enough here. A round reads `strip[i + half]`, which was written in the round before; the wait lies between. And it writes `strip[i]` for `i < half`, which nobody else reads in the same round: others read from `half` on.
#
# ## The ladder of the matrix product
#
# $C = A B$ with $A: (m, k)$, $B: (k, n)$, $C: (m, n)$. Sides need not be multiples of anything: whoever stands outside reads zeros and writes nothing.
#
# **Rung 1: one thread for each result.** Threads of a block form a square; `x` counts columns, so that neighbouring threads read neighbouring elements of $B$ and write neighbouring elements of $C$.

# %% tags=["setup"]
# A block computes TILE x TILE results. The simulator needs a millisecond for each thread.
TILE = 8 if SIMULATED else 16


# %%
@cuda.jit
def matmul_plain(C, A, B):
    column, row = cuda.grid(2)
    if row < C.shape[0] and column < C.shape[1]:
        total = np.float32(0)
        for k in range(A.shape[1]):
            total += A[row, k] * B[k, column]
        C[row, column] = total


# %% [markdown]
# For each multiplication two numbers are fetched from the GPU's memory. But the results of one row all need the same row of $A$: the same numbers are fetched again and again.
#
# **Rung 2: tiles in shared memory.** A block of $t \times t$ threads computes $t \times t$ results. Step by step it brings a $t \times t$ tile of $A$ and one of $B$ to shared memory, each thread one number of each, and each number is then used $t$ times.
# Two waits in each step: one until the tiles are complete, and one until everybody has finished reading before the next tiles overwrite them.


# %%
@cuda.jit
def matmul_tiled(C, A, B):
    tile_a = cuda.shared.array((TILE, TILE), np.float32)
    tile_b = cuda.shared.array((TILE, TILE), np.float32)
    i, j = cuda.threadIdx.y, cuda.threadIdx.x
    row, column = cuda.blockIdx.y * TILE + i, cuda.blockIdx.x * TILE + j
    total = np.float32(0)
    for first in range(0, A.shape[1], TILE):
        inside_a = row < A.shape[0] and first + j < A.shape[1]
        inside_b = first + i < B.shape[0] and column < B.shape[1]
        tile_a[i, j] = A[row, first + j] if inside_a else np.float32(0)
        tile_b[i, j] = B[first + i, column] if inside_b else np.float32(0)
        cuda.syncthreads()  # the tiles are complete
        for k in range(TILE):
            total += tile_a[i, k] * tile_b[k, j]
        cuda.syncthreads()  # nobody reads them any more
    if row < C.shape[0] and column < C.shape[1]:
        C[row, column] = total


# %% [markdown]
# **Rung 3: several results for each thread, in registers.** Even shared memory is slow beside *registers*, the places on which a thread really computes. In rung 2, two numbers are read from shared memory for each multiplication. If a thread computes
# $2 \times 2$ results, it reads two numbers of $A$ and two of $B$ and has four products; with $8 \times 8$ it reads 16 for 64. The block has fewer threads then, and each brings more numbers to the tiles.
#
# `cuda.local.array` is a small array of one thread. If its places are known when the kernel is compiled, it becomes registers.

# %%
EACH = 2  # results of one thread along a side
ACROSS = TILE // EACH  # threads of a block along a side


@cuda.jit
def matmul_registers(C, A, B):
    tile_a = cuda.shared.array((TILE, TILE), np.float32)
    tile_b = cuda.shared.array((TILE, TILE), np.float32)
    totals = cuda.local.array((EACH, EACH), np.float32)
    i, j = cuda.threadIdx.y, cuda.threadIdx.x
    top, left = cuda.blockIdx.y * TILE, cuda.blockIdx.x * TILE
    for p in range(EACH):
        for q in range(EACH):
            totals[p, q] = 0
    for first in range(0, A.shape[1], TILE):
        for p in range(EACH):
            for q in range(EACH):
                y, x = i + p * ACROSS, j + q * ACROSS  # neighbours read neighbours
                inside_a = top + y < A.shape[0] and first + x < A.shape[1]
                inside_b = first + y < B.shape[0] and left + x < B.shape[1]
                tile_a[y, x] = A[top + y, first + x] if inside_a else np.float32(0)
                tile_b[y, x] = B[first + y, left + x] if inside_b else np.float32(0)
        cuda.syncthreads()
        for k in range(TILE):
            for p in range(EACH):
                of_a = tile_a[i + p * ACROSS, k]
                for q in range(EACH):
                    totals[p, q] += of_a * tile_b[k, j + q * ACROSS]
        cuda.syncthreads()
    for p in range(EACH):
        for q in range(EACH):
            row, column = top + i + p * ACROSS, left + j + q * ACROSS
            if row < C.shape[0] and column < C.shape[1]:
                C[row, column] = totals[p, q]


# %% [markdown]
# All three on a product whose sides are no multiples of the tile, with every read from the GPU's memory counted:

# %% tags=["setup"]
A, B = rng.standard_normal((18, 20)).astype(np.float32), rng.standard_normal((20, 13)).astype(np.float32)


def matmul(kernel, A, B, side):
    """A @ B by one of the kernels, with blocks of side x side threads for tiles of TILE x TILE results."""
    C = np.zeros((A.shape[0], B.shape[1]), np.float32)
    results = side if kernel is matmul_plain else TILE
    grid = (-(-C.shape[1] // results), -(-C.shape[0] // results))
    kernel[grid, (side, side)](C, A, B)
    return C


# %%
rungs = {"one thread a result": (matmul_plain, TILE), "tiles in shared memory": (matmul_tiled, TILE),
         "2 x 2 in registers": (matmul_registers, ACROSS)}  # fmt: skip
for name, (kernel, side) in rungs.items():
    watched = [Recorded(A), Recorded(B)] if SIMULATED else [A, B]
    started = time.perf_counter()
    C = matmul(kernel, *watched, side)
    seconds = time.perf_counter() - started
    assert np.allclose(C, A @ B, atol=1e-5), f"{name} is wrong"
    counts = f"{sum(array.count() for array in watched):6,} numbers fetched," if SIMULATED else ""
    print(f"{name:24} {counts} {seconds:.2f} s in the simulator" if SIMULATED else f"{name}: right")
print(f"{18 * 13 * 20:,} multiplications; the matrices themselves have {A.size + B.size} numbers")

# %% [markdown]
# Where tiles of 8 fit, they fetch an eighth; here some stick out, and it is a sixth. Tiles of 128, as minicnn has for large products, fetch a hundred-and-twenty-eighth. Times in the simulator say nothing about a GPU. What rung 3 wins does not show in this count, for it lies in the reads from *shared* memory: by the formula, for each thread
# and each $k$, $2 \cdot 2$ products for $2 + 2 \cdot 2$ reads as it is written (the compiler keeps the row of $B$, too, which leaves $2 + 2$), and with $8 \times 8$ 64 products for 16 reads.


# %%
def drawn_tiles(axes, title, rows, columns, marked):
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_aspect("equal")
    axes.set_xticks(range(0, columns + 1, 2), [])
    axes.set_yticks(range(0, rows + 1, 2), [])
    axes.grid(color=viz.style.PALE)
    for x, y, wide, high, colour in marked:
        axes.fill([x, x + wide, x + wide, x], [y, y, y + high, y + high], color=colour, alpha=0.75)
    axes.set_title(title, fontsize=9)


with viz.style.sheet(width=9, height=3.4) as sheet:
    left, middle, right = sheet.subplots(1, 3)
    blue, orange = viz.style.BLUE, viz.style.ORANGE
    drawn_tiles(
        left, "A: a tile a step, left to right", 12, 12, [(0, 4, 12, 4, "#CCE3F0"), (4, 4, 4, 4, blue)]
    )
    drawn_tiles(
        middle, "B: a tile a step, downwards", 12, 12, [(8, 0, 4, 12, "#F9E4B7"), (8, 4, 4, 4, orange)]
    )
    drawn_tiles(right, "C: the results of one block", 12, 12, [(8, 4, 4, 4, viz.style.GREEN)])
sheet

# %% [markdown]
# A block (green) needs the pale strips. It has only the strong tiles in shared memory at one time.
#
# ## A convolution on the device
#
# Notebook 02 made a convolution of a matrix product: copy every window into a matrix, and multiply. On a GPU the copying is a kernel with *one thread for each entry of that matrix*. Here windows become *columns*, for then the product with the weights
# $(O, C k k)$ has images as they lie in memory, and neighbouring threads write neighbouring entries:
#
# $$ X_{col}: (C\,k\,k,\ H' W'), \qquad X_{col}[\,c k k + p k + q,\ i W' + j\,] = x_{c,\, i + p,\, j + q}, \qquad Y = W X_{col}: (O,\ H' W'). $$
#
# ### Exercise 4: im2col, one thread for each entry


# %% tags=["exercise"]
@cuda.jit
def im2col(columns, x, k):
    """columns (C k k, H' W') of one image x (C, H, W), already padded; stride 1; a grid-stride loop over entries."""
    wide = x.shape[2] - k + 1  # W'
    # <solution: For each e: row, column = divmod by columns.shape[1]; c, p, q from row; i, j from column; copy x[c, i + p, j + q].>
    for e in range(cuda.grid(1), columns.shape[0] * columns.shape[1], cuda.gridsize(1)):
        row, column = e // columns.shape[1], e % columns.shape[1]
        c, p, q = row // (k * k), row // k % k, row % k
        i, j = column // wide, column % wide
        columns[row, column] = x[c, i + p, j + q]
    # </solution>


# %% tags=["check"]
x = np.arange(2 * 4 * 5, dtype=np.float32).reshape(2, 4, 5)
columns = np.full((2 * 9, 2 * 3), np.nan, np.float32)
im2col[2, 8](columns, x, 3)
assert not np.isnan(columns).any(), (
    "every entry has to be written, also if there are fewer threads than entries"
)
assert columns[0].tolist() == [0, 1, 2, 5, 6, 7], (
    f"row 0 is the upper left pixel of each of the 2 x 3 windows: 0 1 2 5 6 7, yours {columns[0].tolist()}"
)
assert columns[5].tolist() == [7, 8, 9, 12, 13, 14], (
    f"row 5 is p = 1, q = 2: the image from row 1, column 2 on: 7 8 9 12 13 14, yours {columns[5].tolist()}"
)
assert columns[9, 0] == 20, "row 9 begins the second channel, whose first pixel is 20"
print("right")


# %%
shoe, _ = data.FashionMNIST(train=False)[0]
shoe = np.asarray(shoe, np.float32).reshape(1, 28, 28)[:, ::2, ::2] / 255  # every second pixel: (1, 14, 14)
padded = np.pad(shoe, ((0, 0), (1, 1), (1, 1)))
edges = np.array([[[[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]], [[[-1, -2, -1], [0, 0, 0], [1, 2, 1]]]], np.float32)
columns = np.zeros((9, 14 * 14), np.float32)
im2col[4, 16](columns, padded, 3)
found = matmul(matmul_tiled, edges.reshape(2, 9), columns, TILE).reshape(2, 14, 14)
engine = F.conv2d(minicnn.tensor(shoe[None]), minicnn.tensor(edges), padding=1).numpy()[0]
print("largest difference from the engine:", np.abs(found - engine).max())
viz.images(np.concatenate([shoe, found]), ["14 x 14 pixels", "edges, left to right", "edges, top to bottom"])

# %% [markdown]
# Writing the matrix and reading it back costs more than the arithmetic: this is the *explicit* way. Faster kernels make the matrix only in their heads: while a block fills its tile of $X_{col}$ in shared memory, it computes from $(c, p, q, i, j)$ where in the image each
# entry lies, and fetches it from there (*implicit* im2col).
#
# ## The rungs above
#
# The source has these ladders for the GPU, too, in `kernels/minicnn_kernels/ladder`, with tiles as large as an H100 wants them and two rungs more: loads of four numbers that are brought in the background while the last ones are multiplied, and *tensor cores*, which multiply small matrices in one
# instruction, with factors rounded to 11 significant bits. Here all of them run on our small matrices, with blocks of four threads, and every access is watched.

# %%
from minicnn_kernels import cuda as device
from minicnn_kernels.ladder import cuda_convolution, cuda_matmul

moved = [device.to_device(array) for array in (A, B)]
for rung in cuda_matmul.RUNGS:
    C = device.to_host(rung.function(*cuda_matmul.arguments(rung, *moved)))
    error = np.abs(C - A.astype(np.float64) @ B).max() / np.abs(A @ B).max()
    print(f"{rung.name} (largest error {error:.0e}): {rung.what_changed} {rung.why}\n")

image, weight, bias = (
    rng.standard_normal(shape).astype(np.float32) for shape in ((1, 3, 6, 6), (5, 3, 3, 3), (5,))
)
moved = [device.to_device(array) for array in (image, weight, bias)]
exact = F.conv2d(*(minicnn.tensor(array) for array in (image, weight, bias)), padding=1).numpy()
for rung in cuda_convolution.RUNGS:
    y = device.to_host(rung.function(*cuda_convolution.arguments(rung, *moved)))
    assert np.allclose(y, exact, atol=2e-2 if "TF32" in rung.name else 1e-4), f"{rung.name} is wrong"
    print(f"{rung.name}: {rung.what_changed} {rung.why}\n")

# %% [markdown]
# How fast each is can only be measured on a GPU. The reasons can be checked here: count what is read, as above.
#
# ## minicnn on the device
#
# `Module.to("cuda")` and `Tensor.to("cuda")` move parameters and data; from there on every operation, its gradient and the optimizer's step run as kernels like these (`kernels/minicnn_kernels/cuda`). Nothing comes back to the host unless one asks (`.cpu()`, `.item()`). One network, the same
# images, once on the host and once on the device:

# %%
batch, labels = next(iter(data.DataLoader(data.FashionMNIST(train=True), 8)))
small_images = F.avg_pool2d(batch, 4)  # 7 x 7 pixels: the simulator is slow


def losses(device, steps):
    """The loss before each step of SGD with momentum."""
    minicnn.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, 10),
    )
    model.to(device)
    x, y = small_images.to(device), labels.to(device)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found = []
    for _ in range(steps):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


steps = 3 if FAST else 8
started = time.perf_counter()
on_device = losses("cuda", steps)
print(f"{steps} steps on the device took {time.perf_counter() - started:.0f} s")
on_host = losses("cpu", steps)
largest = max(abs(a - b) / b for a, b in zip(on_device, on_host, strict=True))
print(f"loss {on_host[0]:.4f} to {on_host[-1]:.4f} on the host, to {on_device[-1]:.4f} on the device")
assert largest < 1e-4
print(f"largest relative difference: {largest:.0e}")
viz.curves(
    {"on the host": on_host, "on the device": on_device},
    xlabel="step",
    ylabel="loss",
    title="The same network, twice",
)

# %% [markdown]
# The two lines lie on one another: sums are taken in another order, so the last digits differ, and no more.
#
# ## What changes on a real GPU
#
# The simulator has the meaning of a program, and nothing of its speed. What to think of on the hardware:
#
# - **A launch costs** a few microseconds, whatever it does. A kernel for each small operation on small arrays, as in the simulator here, keeps a GPU waiting. So: larger batches, operations that are *fused* (convolution, bias, ReLU in one kernel), or a whole step recorded
#   once and launched as one *CUDA graph*.
# - **Launches do not wait.** Python goes on while the GPU computes. A stopwatch that does not call `cuda.synchronize()` before it is read measures how fast one can give orders.
# - **Memory is asked for rarely.** Reserving memory of a GPU can make it finish everything first. minicnn keeps arrays that are no longer needed in a *pool*, and gives them out again.
# - **Types.** The simulator computes with NumPy's numbers and does not mind `x * 0.1`; on a GPU that 0.1 is a double, and doubles are 2 to 64 times slower. Write `np.float32(0.1)`.
# - **Occupancy.** A thread that waits for memory waits hundreds of cycles; the hardware then runs another warp. It can do so only if many are there *at once* in one of its multiprocessors. How many fit is bounded by threads, by registers, and by shared memory:


# %%
def threads_at_once(threads, registers, shared):
    """Threads that one multiprocessor of an H100 holds: threads of a block, registers of a thread, shared bytes of a block."""
    warps = -(-threads // 32)
    by_registers = 65_536 // (-(-registers * 32 // 256) * 256 * warps)  # a warp gets them 256 at a time
    by_shared = 233_472 // (shared + 1_024)  # each block also pays 1 KB to the system
    return threads * min(2_048 // threads, by_registers, by_shared, 32)


registers = np.arange(16, 256, 8)
viz.curves(
    {
        f"{threads} threads, {shared // 1024} KB of shared memory a block": (
            registers,
            [threads_at_once(threads, r, shared) for r in registers],
        )
        for threads, shared in ((256, 8 * 1024), (256, 64 * 1024), (1_024, 8 * 1024))
    },
    xlabel="registers of each thread",
    ylabel="threads at once",
    title="Occupancy: what one multiprocessor of an H100 holds",
)

# %% [markdown]
# Zero means that the kernel cannot be launched at all: one block has more registers than there are. And more is not always better: a tile of $8 \times 8$ results takes 64 registers for the results alone, so few threads fit; but each has 64 independent sums to work on while it waits. The fastest matrix products have low occupancy (Volkov, 2010).
#
# ### What the compiler makes of it
#
# Numba translates a kernel to *PTX*, NVIDIA's assembly language for a machine that does not quite exist, and the driver translates that for the GPU at hand. The first step needs no GPU, so the cell below shows it wherever `minicnn[gpu]` is installed.

# %%
program = """
import re
import numpy as np
from numba import types
from numba.cuda import compile as compile_kernel, grid, gridsize

def saxpy(y, factor, x):
    for i in range(grid(1), y.size, gridsize(1)):
        y[i] += factor * x[i]

array = types.Array(types.float32, 1, "C")
ptx, _ = compile_kernel(saxpy, types.void(array, types.float32, array), cc=(9, 0), device=False, abi="numba", output="ptx")
print(len(ptx.splitlines()), "lines of PTX; those that touch memory or compute with floats:")
print("\\n".join(line for line in ptx.splitlines() if re.search(r"global.f32|fma|%.?tid", line)))
"""
if importlib.util.find_spec("numba_cuda") is None:
    print(
        'skipped: numba-cuda is not installed here (pip install "minicnn[gpu]" brings the compiler; no GPU is needed)'
    )
else:
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    print(done.stdout or f"skipped: no PTX could be made here: {done.stderr.splitlines()[-1]}")

# %% [markdown]
# One round of the loop, as numba-cuda 0.30 makes it for an H100 (comments added):
#
# ```
# ld.global.f32  %f2, [%rd69];           // x[i]: a warp's 32 of these are one request for 4 sectors
# ld.global.f32  %f3, [%rd65];           // y[i]
# fma.rn.f32     %f4, %f2, %f1, %f3;     // factor * x[i] + y[i], one instruction, rounded once
# st.global.f32  [%rd65], %f4;           // y[i] = ...
# ```
#
# There is no array, no bounds check and no Python left, and the compiler has written the round four times in a row, to ask less often whether the loop is over. What costs something: before each of these loads stand six instructions that compute its address, two of them because an index in Python may be
# negative (`x[-1]`). `f64` in such a listing is a mistake in the kernel: somewhere a number was not float32. `python -m minicnn_kernels.cuda.code` shows for every kernel of minicnn how many registers and how much shared memory it takes, and fails if one computes with doubles
# or has so many numbers at once that they *spill* from registers into slow memory.
#
# With `MINICNN_FAST=1` the network trains for 3 steps instead of 8. Nothing else differs.
#
# ## What was learnt
#
# - A kernel is run by many threads that differ in their place only; spare threads must do nothing, and a grid-stride loop works with any number of them.
# - The 32 threads of a warp read together: neighbours should read neighbours.
# - Shared memory saves walks to slow memory, if everybody waits twice: until it is full, and until it has been read. Registers save walks to shared memory.
# - A race is a place that one thread writes while another reads or writes it, with no wait between. A right result proves nothing; noting every access finds the races of that run, an argument all of them.
# - Sums in a fixed order give the same bits in every run; atomic additions do not.
# - A simulator checks what a program means, not how fast it is, nor whether its types are narrow.
#
# ## Questions
#
# 1. In `matmul_plain`, exchange `row` and `column` in `row, column = cuda.grid(2)`. Results stay right. What happens to the sectors? Count them with `Recorded`.
# 2. Take the *second* `syncthreads` out of `matmul_tiled`. What does the simulator say? Which two threads are in each other's way? And why would a GPU hardly notice if a block had just 32 threads?
# 3. A kernel takes 128 registers and blocks of 256 threads. How many threads are there at once in a multiprocessor? What would you try first, if it waits for memory most of the time?
