"""The simulator finds what a GPU would suffer from in silence: races, lost barriers, memory nobody wrote."""

from __future__ import annotations

import pytest
from test_cuda import in_simulator

START = """
import numpy as np
from minicnn_kernels.cuda import races
from minicnn_kernels.cuda.driver import cuda, kernel, launch_blocks
from minicnn_kernels.cuda.storage import flat, to_device, to_host
x = to_device(np.arange(8, dtype=np.float32))
out = to_device(np.zeros(8, np.float32))
def found(kernel, grid=(1,), block=4):
    try:
        launch_blocks(kernel, grid, block, flat(out), flat(x))
    except races.Race as race:
        return str(race)
"""

MEETING = """
@kernel("float32[::1], float32[::1]")
def add_neighbour(out, x):
    shared = cuda.shared.array(4, np.float32)
    thread = cuda.threadIdx.x
    shared[thread] = x[thread]
    cuda.syncthreads()
    total = shared[thread] + shared[(thread + 1) % 4]
    cuda.syncthreads()  # before anybody writes there again
    shared[thread] = total
    cuda.syncthreads()
    out[thread] = shared[3 - thread]
"""


def test_a_kernel_whose_threads_meet_where_they_must_has_no_race():
    program = "assert found(add_neighbour) is None and to_host(out)[:4].tolist() == [3, 5, 3, 1]"
    in_simulator("-c", START + MEETING + program, threads=4)


@pytest.mark.parametrize(
    ("line", "race"),
    [
        ("    cuda.syncthreads()\n    total", "may read"),
        ("    cuda.syncthreads()  # before anybody", "may write"),
        ("    cuda.syncthreads()\n    out", "may read"),
    ],
)
def test_each_missing_barrier_is_found(line, race):
    assert MEETING.count(line) == 1
    racy = MEETING.replace(line, line.replace("cuda.syncthreads()", "pass"))
    # The kernel's source is in the command line, so its lines are the file "<string>".
    program = f"text = found(add_neighbour)\nassert text and {race!r} in text and '<string>:' in text, text"
    in_simulator("-c", START + racy + program, threads=4)


def test_blocks_have_no_order_and_atomic_additions_need_none():
    program = """
@kernel("float32[::1], float32[::1]")
def both_blocks_write(out, x):
    out[cuda.threadIdx.x] = x[cuda.blockIdx.x]
@kernel("float32[::1], float32[::1]")
def one_reads_what_the_other_writes(out, x):
    if cuda.blockIdx.x == 0:
        out[1] = x[0]
    else:
        out[2] = out[1]
@kernel("float32[::1], float32[::1]")
def count(out, x):
    cuda.atomic.add(out, 0, 1)
@kernel("float32[::1], float32[::1]")
def count_and_write(out, x):
    cuda.atomic.add(out, 0, 1)
    if cuda.blockIdx.x == 1:
        out[0] = 0
@kernel("float32[::1], float32[::1]")
def apart(out, x):
    out[4 * cuda.blockIdx.x + cuda.threadIdx.x] = x[0]
assert "of block (1," in found(both_blocks_write, (2,))
for block in (1, 4):  # a block of one thread is watched, too
    assert "may read" in found(one_reads_what_the_other_writes, (2,), 1)
assert found(count, (2,)) is None and found(apart, (2,)) is None
assert found(count_and_write, (2,))
"""
    in_simulator("-c", START + program, threads=4)


def test_a_barrier_that_only_some_threads_reach_is_an_error():
    program = """
@kernel("float32[::1], float32[::1]")
def half_meet(out, x):
    if cuda.threadIdx.x < 2:
        cuda.syncthreads()
@kernel("float32[::1], float32[::1]")
def meet_in_two_places(out, x):
    if cuda.threadIdx.x < 2:
        cuda.syncthreads()
    else:
        cuda.syncthreads()
for kernel, words in ((half_meet, "has ended"), (meet_in_two_places, "<string>:")):
    try:
        found(kernel)
    except RuntimeError as error:
        assert "a barrier that not all threads of the block reach" in str(error) and words in str(error)
    else:
        raise SystemExit("not found")
"""
    in_simulator("-c", START + program, threads=4)


def test_shared_and_local_memory_start_as_nan_in_every_block():
    program = """
@kernel("float32[::1], float32[::1]")
def look(out, x):
    shared = cuda.shared.array(1, np.float32)
    local = cuda.local.array(1, np.float32)
    out[2 * cuda.blockIdx.x], out[2 * cuda.blockIdx.x + 1] = shared[0], local[0]
    shared[0] = local[0] = x[0]
found(look, (3,), 1)
np.testing.assert_array_equal(to_host(out), [np.nan] * 6 + [0, 0])
"""
    in_simulator("-c", START + program)


def test_a_copy_in_the_background_races_with_a_reader_of_its_target():
    program = """
from minicnn_kernels.cuda.instructions import commit_copies, copy4, wait_for_copies
@kernel("float32[::1], float32[::1]")
def fetch(out, x):
    strip = cuda.shared.array(4, np.float32)
    thread = cuda.threadIdx.x
    strip[thread] = 0
    cuda.syncthreads()
    total = strip[(thread + 1) % 4]
    copy4(strip, thread, x, thread, True)  # while its neighbour may still read there
    commit_copies()
    cuda.syncthreads()
    wait_for_copies()
    out[thread] = total + strip[thread]
assert "may" in found(fetch)
"""
    in_simulator("-c", START + program, threads=4)
