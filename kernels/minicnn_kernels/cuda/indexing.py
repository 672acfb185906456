"""x[index] on the device: views for numbers and slices, copies for positions and masks, and the way back.

Positions of several axes become one: the axes are brought side by side and merged, so one kernel takes and
one gives back. Gradients of elements that were taken several times are sorted by element and added up in
order, one thread an element: no atomic additions, and the sums of the reference to the bit.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from minicnn_kernels.cuda.driver import cuda, kernel, launch
from minicnn_kernels.cuda.elementwise import floor_divide, remainder
from minicnn_kernels.cuda.maps import typed
from minicnn_kernels.cuda.order import sort, true_positions
from minicnn_kernels.cuda.storage import dense, empty, flat, to_device
from minicnn_kernels.device_array import DeviceArray

__all__ = ["chosen", "give_back", "is_plain", "put", "take"]


class Chosen(NamedTuple):
    """What an index with arrays means: elements `positions` (..., int64) along `axis` of `view`.

    view: the array, sliced and permuted. shape: of view with the indexed axes merged into `axis`. once: no
    element is taken twice, and positions ascend.
    """

    view: DeviceArray
    shape: tuple[int, ...]
    axis: int
    positions: DeviceArray
    once: bool


def is_plain(index: Any) -> bool:
    """Whether numbers, slices, None and ... are all there is, so that a view will do."""
    parts = index if isinstance(index, tuple) else (index,)
    return not any(isinstance(part, (np.ndarray, DeviceArray, list)) for part in parts)


def chosen(x: DeviceArray, index: Any) -> Chosen:
    """Where in x the elements of x[index] are; by NumPy's rules for arrays of positions and masks.

    Raises IndexError for positions outside of x that come from the host, and for masks that do not fit. Those
    on the device would have to be waited for: outside they become -1.
    """
    parts = _expanded(x, index if isinstance(index, tuple) else (index,))
    once = sum(_is_array(part) for part in parts) == sum(_is_mask(part) for part in parts) == 1
    parts = _without_masks(x, parts)
    axes = [i for i, part in enumerate(parts) if _is_array(part)]
    view = x.sliced(tuple(slice(None) if i in axes else part for i, part in enumerate(parts)))
    target = axes[0] if axes[-1] - axes[0] < len(axes) else 0  # NumPy puts what lies apart in front
    others = [i for i in range(view.ndim) if i not in axes]
    view = view.permuted((*others[:target], *axes, *others[target:]))
    sizes = view.shape[target : target + len(axes)]
    shape = (*view.shape[:target], math.prod(sizes), *view.shape[target + len(axes) :])
    return Chosen(view, shape, target, _merged([parts[i] for i in axes], sizes), once)


def take(x: DeviceArray, positions: DeviceArray, axis: int) -> DeviceArray:
    """Elements `positions` along `axis` of a dense x; NaN, or 0 of whole numbers, where one is negative."""
    result = empty((*x.shape[:axis], *positions.shape, *x.shape[axis + 1 :]), x.dtype)
    missing = x.dtype.type(np.nan if x.dtype.kind == "f" else 0)
    sizes = x.shape[axis], positions.size, math.prod(x.shape[axis + 1 :])
    launch(_take, result.size, flat(result), flat(x), flat(dense(positions)), missing, *sizes, result.size)
    return result


def give_back(
    grad: DeviceArray, positions: DeviceArray, shape: Any, axis: int, once: bool = False
) -> DeviceArray:
    """Gradient of `take` for x of `shape`; negative positions give none. once: they ascend, none twice."""
    result = empty(shape, grad.dtype)
    launch(_clear, result.size, flat(result), result.size)
    positions = dense(positions).view((positions.size,), None)
    order = None
    if not once:
        positions, order = sort(positions, 0, False)
    count, after = positions.size, math.prod(shape[axis + 1 :])
    rows = math.prod(shape[:axis]) * count * after
    launch(
        _give_back,
        rows,
        flat(result),
        flat(dense(grad)),
        flat(positions),
        flat(positions if order is None else order),
        order is not None,
        shape[axis],
        count,
        after,
        rows,
    )
    return result


def put(x: DeviceArray, values: DeviceArray, positions: DeviceArray, axis: int) -> None:
    """Write `values`, shaped as `take` gives them, to `positions` along `axis` of a dense x, in place.

    Of several for one place the last stays.
    """
    positions, order = sort(dense(positions).view((positions.size,), None), 0, False)
    count, after = positions.size, math.prod(x.shape[axis + 1 :])
    rows = math.prod(x.shape[:axis]) * count * after
    arrays = flat(x), flat(dense(values)), flat(positions), flat(order)
    launch(_put, rows, *arrays, x.shape[axis], count, after, rows)


def _is_array(part: Any) -> bool:
    return isinstance(part, (np.ndarray, DeviceArray))


def _is_mask(part: Any) -> bool:
    return _is_array(part) and part.dtype == np.bool_


def _expanded(x: DeviceArray, parts: tuple) -> list[Any]:
    """One part for each dimension or None, a mask for as many as it has; numbers as positions, too."""
    parts = tuple(np.asarray(part) if isinstance(part, list) else part for part in parts)
    if any(_is_mask(part) and not part.ndim for part in parts):
        raise IndexError("getitem: device 'cuda' has no index of one boolean; use an if, or index on the cpu")
    given = sum(
        part.ndim if _is_mask(part) else 1 for part in parts if part is not None and part is not Ellipsis
    )
    if given > x.ndim:
        raise IndexError(f"too many indices: {given} for {x.ndim} dimensions")
    rest = (slice(None),) * (x.ndim - given)
    place = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
    parts = (*parts[:place], *rest, *parts[place + 1 :])
    return [np.asarray(part) if isinstance(part, (int, np.integer)) else part for part in parts]


def _without_masks(x: DeviceArray, parts: list[Any]) -> list[Any]:
    """Every mask as the positions of what is true, one array for each of its dimensions."""
    result: list[Any] = []
    axis = 0
    for part in parts:
        if not _is_mask(part):
            result.append(part)
            axis += part is not None
            continue
        sizes = x.shape[axis : axis + part.ndim]
        if part.shape != sizes:
            raise IndexError(f"getitem: a mask of shape {part.shape} does not fit dimensions of {sizes}")
        mask = to_device(part) if isinstance(part, np.ndarray) else part
        places = true_positions(mask)
        for i, size in enumerate(sizes):
            step = math.prod(sizes[i + 1 :])
            result.append(remainder(floor_divide(places, step), size) if len(sizes) > 1 else places)
        axis += part.ndim
    return result


def _merged(arrays: list[Any], sizes: tuple[int, ...]) -> DeviceArray:
    """Positions in several axes as positions in the axis that these make together; -1 for what is outside."""
    shape = np.broadcast_shapes(*(positions.shape for positions in arrays))
    result: DeviceArray | None = None
    for positions, size in zip(arrays, sizes, strict=True):
        if isinstance(positions, np.ndarray):
            positions = to_device(_checked(positions, size))
        positions = dense(typed(positions, np.int64).broadcast(shape))
        merged = empty(shape, np.int64)
        before = flat(merged if result is None else result), result is not None
        launch(_merge_axis, merged.size, flat(merged), *before, flat(positions), size, merged.size)
        result = merged
    assert result is not None
    return result


def _checked(positions: np.ndarray, size: int) -> np.ndarray:
    """Positions of the host as int64. Raises IndexError for those outside."""
    outside = (positions < -size) | (positions >= size)
    if outside.any():
        wrong = int(positions[outside].flat[0])
        raise IndexError(f"getitem: position {wrong} lies outside of a dimension of size {size}")
    return positions.astype(np.int64)


@kernel("int64[::1], int64[::1], boolean, int64[::1], int64, int64", registers=32)
def _merge_axis(out, before, has_before, positions, count, size):
    """One axis more: negative positions count from its end."""
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        place = positions[i] + count if positions[i] < 0 else positions[i]
        first = before[i] if has_before else 0
        out[i] = first * count + place if first >= 0 and 0 <= place < count else -1


@kernel("float32[::1], int64", registers=32)
def _clear(out, size):
    for i in range(cuda.grid(1), size, cuda.gridsize(1)):
        out[i] = 0


@kernel("float32[::1], float32[::1], int64[::1], float32, int64, int64, int64, int64")
def _take(out, x, positions, missing, size, count, after, total):
    for i in range(cuda.grid(1), total, cuda.gridsize(1)):
        place = positions[i // after % count]
        out[i] = x[(i // after // count * size + place) * after + i % after] if place >= 0 else missing


@kernel("float32[::1], float32[::1], int64[::1], int64[::1], boolean, int64, int64, int64, int64")
def _give_back(dx, grad, positions, order, is_sorted, size, count, after, total):
    """positions ascend; the first of equal ones adds up what all of them got, in the order they were taken.

    is_sorted: they were brought into this order, and `order` says where each comes from.
    """
    for i in range(cuda.grid(1), total, cuda.gridsize(1)):
        j, line, column = i // after % count, i // after // count, i % after
        place = positions[j]
        if place < 0 or (j > 0 and positions[j - 1] == place):
            continue
        value = grad.dtype.type(0)
        while j < count and positions[j] == place:
            source = order[j] if is_sorted else j
            value += grad[(line * count + source) * after + column]
            j += 1
        dx[(line * size + place) * after + column] = value


@kernel("float32[::1], float32[::1], int64[::1], int64[::1], int64, int64, int64, int64")
def _put(x, values, positions, order, size, count, after, total):
    """positions ascend, equal ones in the order they were given; order says where each comes from."""
    for i in range(cuda.grid(1), total, cuda.gridsize(1)):
        j, line, column = i // after % count, i // after // count, i % after
        place = positions[j]
        if place >= 0 and (j + 1 == count or positions[j + 1] != place):
            x[(line * size + place) * after + column] = values[(line * count + order[j]) * after + column]
