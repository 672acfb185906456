"""What is done to sums in registers before they are written: + bias + onto, then ReLU, and the writing
itself.

Here a layer's small operations cost nothing but their own arithmetic: the result is not read again from
memory. Shared by the matrix product and the convolutions, and by the pass that adds up the parts of a split
sum.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minicnn_kernels.cuda.driver import inline_function, unrolled
from minicnn_kernels.cuda.instructions import load, store, store4
from minicnn_kernels.cuda.tiles import Tile

__all__ = ["NOTHING", "Epilogue", "at_least", "writer"]


class Epilogue(NamedTuple):
    """+ bias + onto, then ReLU; arrays are flat.

    bias_strides: steps of the bias per row (from one inner batch to the next it goes on) or per column of
    C; one of them is 0. onto: an array that lies as C does.
    """

    bias: Any = None
    bias_strides: tuple[int, int] = (0, 0)
    onto: Any = None
    relu: bool = False

    def arguments(self, otherwise: Any) -> tuple[Any, Any, tuple[Any, ...], np.float32]:
        """(bias, onto, (row step, column step, whether `onto` is added), floor) for a kernel; otherwise: an
        array to stand for those that are not there. Results below the floor become the floor."""
        steps = (0, 0) if self.bias is None else self.bias_strides
        return (
            otherwise if self.bias is None else self.bias,
            otherwise if self.onto is None else self.onto,
            (np.int32(steps[0]), np.int32(steps[1]), np.int32(self.onto is not None)),
            np.float32(0 if self.relu else -np.inf),
        )


NOTHING = Epilogue()


@inline_function
def at_least(floor, x):
    """The larger one; NaN where x is."""
    return floor if x < floor else x


@inline_function
def in_steps(column, step):
    """Where a column of a matrix begins whose columns lie at equal distances."""
    return np.int32(column * step)


@functools.cache  # so that the kernels of one tile share the compiled functions
def writer(tile: Tile, column_start: Callable = in_steps) -> Callable:
    """write(sums, c, row_step, columns, four, bias, onto, flags, floor, m, n, first_row, first_column,
    thread): finish a tile of the (m, n) matrix c and write what lies inside.

    Element [y, x] lies at y * row_step + column_start(x, columns). four: neighbours in a row are written
    four at a time, which then end where the matrix does. Each step is a pass over the sums, so that its
    condition is asked once and not for each of them.
    """
    count, width, place = tile.sums, tile.width, tile.place
    groups = count // width

    @inline_function
    def add_row_bias(group, state):
        sums, bias, step, first_row, m, thread = state
        row = np.int32(min(np.int32(first_row + place(thread, group)[0]), np.int32(m - 1)))
        value = load(bias, np.int32(row * step))
        for j in range(width):
            sums[group * width + j] += value

    @inline_function
    def add_column_bias(group, state):
        sums, bias, step, first_column, n, thread = state
        column = np.int32(first_column + place(thread, group)[1])
        for j in range(width):
            x = np.int32(min(np.int32(column + j), np.int32(n - 1)))
            sums[group * width + j] += load(bias, np.int32(x * step))

    @inline_function
    def add_onto(group, state):
        sums, onto, row_step, columns, m, n, first_row, first_column, thread = state
        row, column = place(thread, group)
        y, x = np.int32(first_row + row), np.int32(first_column + column)
        for j in range(width):
            here = np.int32(y * row_step + column_start(np.int32(x + j), columns))
            if y < m and np.int32(x + j) < n:
                sums[group * width + j] += load(onto, here)

    @inline_function
    def bound(group, state):
        sums, floor = state
        for j in range(width):
            sums[group * width + j] = at_least(floor, sums[group * width + j])

    @inline_function
    def store_group(group, state):
        sums, c, row_step, columns, m, n, first_row, first_column, thread = state
        row, column = place(thread, group)
        y, x = np.int32(first_row + row), np.int32(first_column + column)
        if y < m and x < n:
            s, here = group * width, np.int32(y * row_step + column_start(x, columns))
            store4(c, here, sums[s], sums[s + 1], sums[s + 2], sums[s + 3])

    @inline_function
    def store_each(group, state):
        sums, c, row_step, columns, m, n, first_row, first_column, thread = state
        row, column = place(thread, group)
        y, x = np.int32(first_row + row), np.int32(first_column + column)
        for j in range(width):
            here = np.int32(y * row_step + column_start(np.int32(x + j), columns))
            if y < m and np.int32(x + j) < n:
                store(c, here, sums[group * width + j])

    add_row_biases, add_column_biases = unrolled(add_row_bias, groups), unrolled(add_column_bias, groups)
    add_all, bound_all = unrolled(add_onto, groups), unrolled(bound, groups)
    store_groups = unrolled(store_group if width == 4 else store_each, groups)
    store_all = unrolled(store_each, groups)

    @inline_function
    def write(
        sums, c, row_step, columns, four, bias, onto, flags, floor, m, n, first_row, first_column, thread
    ):
        if flags[0] > 0:
            add_row_biases(0, (sums, bias, flags[0], first_row, m, thread))
        if flags[1] > 0:
            add_column_biases(0, (sums, bias, flags[1], first_column, n, thread))
        if flags[2]:
            add_all(0, (sums, onto, row_step, columns, m, n, first_row, first_column, thread))
        bound_all(0, (sums, floor))
        if four:
            store_groups(0, (sums, c, row_step, columns, m, n, first_row, first_column, thread))
        else:
            store_all(0, (sums, c, row_step, columns, m, n, first_row, first_column, thread))

    return write
