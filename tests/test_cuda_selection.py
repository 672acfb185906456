"""Device "cuda" in the simulator: order, indexing and what pruning asks, with the bits of the reference."""

from __future__ import annotations

from simulated import in_simulator

HEADER = """
import numpy as np, minicnn, minicnn_kernels as kernels
from minicnn import nn, compress
from minicnn_kernels import cuda, reference
rng = np.random.default_rng(0)
def same(ours, theirs):
    ours = cuda.to_host(ours) if isinstance(ours, kernels.DeviceArray) else ours
    assert ours.dtype == theirs.dtype, (ours.dtype, theirs.dtype)
    np.testing.assert_array_equal(ours, theirs)
def there(x):
    return cuda.to_device(x) if isinstance(x, np.ndarray) else x
def refused(error, words, call):
    try:
        call()
    except error as found:
        assert words in str(found), found
    else:
        raise SystemExit(f"not refused: {words}")
"""


def test_sorting_is_stable_and_has_the_order_of_the_reference():
    program = """
ties = rng.integers(-2, 3, (3, 13, 2)).astype(np.float32)
ties[0, :4] = np.nan
ties[1, 3:5] = np.inf, -np.inf
ties[2, ::3] = -0.0
small = rng.integers(0, 200, (2, 8)).astype(np.uint8)
def both(name, x, *options):
    found = getattr(cuda, name)(cuda.to_device(x), *options), getattr(reference, name)(x, *options)
    for ours, theirs in zip(*found, strict=True):
        same(ours, theirs)
for x in (ties, rng.integers(0, 4, 9), small, np.zeros((2, 0), np.float32)):
    for dim in range(-1, x.ndim):
        both("sort", x, dim, False)
        both("sort", x, dim, True)
both("topk", ties, 4, 1, True)
both("topk", ties, 4, 1, False)
values, places = minicnn.tensor(ties).cuda().sort(1)
assert values.device == places.device == "cuda"
"""
    in_simulator("-c", HEADER + program)


def test_exactly_the_least_are_chosen_in_spite_of_ties():
    program = """
scores = rng.integers(0, 5, 40).astype(np.float32)
for count in (0, 1, 17, 39, 40):
    chosen = cuda.smallest(cuda.to_device(scores), count)
    same(chosen, reference.smallest(scores, count))
    assert cuda.count_nonzero(chosen) == count
weight = rng.integers(-3, 4, (4, 6, 3, 1)).astype(np.float32) * np.float32(0.1)
moved = cuda.to_device(weight)
assert cuda.count_nonzero(moved) == reference.count_nonzero(weight)
for n, m in ((1, 2), (2, 3), (4, 6)):
    same(cuda.keep_n_of_m(moved, n, m), reference.keep_n_of_m(weight, n, m))
for groups in (1, 2):
    for axis in (None, 0, 1):
        sums = reference.unit_sums(weight, groups, axis)
        same(cuda.unit_sums(moved, groups, axis), sums.astype(np.float32))
        flags = rng.random(len(sums)) < 0.5
        same(cuda.spread_units(cuda.to_device(flags), weight.shape, groups, axis),
             reference.spread_units(flags, weight.shape, groups, axis))
kept = cuda.to_device(weight != 0)
same(cuda.unit_sums(kept, 1, 0), reference.unit_sums(weight != 0, 1, 0).astype(np.float32))
"""
    in_simulator("-c", HEADER + program)


def test_sums_of_units_lose_nothing_where_float32_would():
    program = """
x = rng.standard_normal((3, 40)).astype(np.float32)
x[:, 0] = 1e5  # its neighbours would lose their last bits beside it
x[:, 30] = -1e5
exact = x.astype(np.float64).sum(axis=1).astype(np.float32)
assert (cuda.to_host(cuda.sum(cuda.to_device(x), 1, False)) != exact).any()
same(cuda.unit_sums(cuda.to_device(x), 1, 0), exact)
"""
    in_simulator("-c", HEADER + program)
    in_simulator("-c", HEADER + program, threads=2)


def test_masks_chosen_on_the_device_are_those_of_the_host():
    program = """
def network():
    minicnn.manual_seed(0)
    with kernels.use("reference"):
        features = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        model = nn.Sequential(*features, nn.Flatten(), nn.Linear(16, 6))
        for parameter in model.parameters():  # many ties
            parameter.data[...] = np.rint(rng.standard_normal(parameter.shape) * 3) / 4
    return model
host = network()
state = {name: value.data.copy() for name, value in host.state_dict().items()}
for options in (
    {"rate": 0.5}, {"rate": 0.3, "scope": "global"}, {"rate": 0.5, "unit": "filter", "score": "l2"},
    {"rate": 0.4, "unit": "channel", "layers": "4"}, {"unit": "1:2"}, {"rate": 0.6, "score": "random"},
    {"rate": 0.5, "unit": "filter", "score": "bn_scale"},
):
    with kernels.use("reference"):
        host = network()
        host.load_state_dict({name: minicnn.tensor(value) for name, value in state.items()})
        theirs = network()
        theirs.load_state_dict(host.state_dict())
        expected = compress.prune(host, **options)
    device = theirs.cuda()
    assert compress.prune(device, **options) == expected, options
    ours, masks = compress.masks(device), compress.masks(host)
    assert ours.keys() == masks.keys()
    for name in masks:
        same(ours[name], masks[name])
    if options == {"rate": 0.5}:
        weight = device[4].weight
        assert cuda.count_nonzero(weight.data) == weight.numel() - round(0.5 * weight.numel())
        compress.prune(device, 0.75)
        with kernels.use("reference"):
            compress.prune(host, 0.75)
        same(compress.masks(device)["0"], compress.masks(host)["0"])
        compress.set_masks(device, masks)  # from the host
"""
    in_simulator("-c", HEADER + program)


def test_indexing_by_masks_and_positions_has_the_values_and_gradients_of_the_reference():
    program = """
x = rng.standard_normal((4, 5, 3)).astype(np.float32)
i, j, mask = np.array([0, -1, 0, 2]), np.array([1, 4, 1, 0]), rng.random((4, 5)) < 0.5
cases = [
    i, [1, 1, 1], (i, j), (slice(None), i, j % 3), (i, slice(1, 4), j % 3), (i, None, j), (Ellipsis, j % 3),
    (i[:, None], j[None]), (2, slice(None), j % 3), mask, mask[:, 0], (slice(None), mask[0]), x > 0,
    (mask[:, 0], slice(None), slice(0, 2)), (i[:3], slice(None, None, -2), slice(1, None)), (mask[:, 0], 1),
    np.zeros(0, np.int64), np.zeros((4, 5), bool),
]
for index in cases:
    for moved in (True, False):
        parts = index if isinstance(index, tuple) else (index,)
        given = tuple(there(p) if moved else p for p in parts)
        taken = reference.getitem(x, index)
        same(cuda.getitem(cuda.to_device(x), given), taken)
        grad = rng.standard_normal(taken.shape).astype(np.float32)
        same(cuda.getitem_backward(cuda.to_device(grad), x.shape, given),
             reference.getitem_backward(grad, x.shape, index))
for index, words in (
    ([0, 4], "position 4 lies outside of a dimension of size 4"),
    ((slice(None), [0], [-5]), "position -5 lies outside of a dimension of size 3"),
    (mask.T, "a mask of shape (5, 4) does not fit"),
):
    refused(IndexError, words, lambda: cuda.getitem(cuda.to_device(x), index))

for ours, index in ((cuda.to_device(np.array([5, -6, 0])), [5, -6, 0]), (cuda.to_device(np.array([9])), [9])):
    outside = np.abs(np.array(index)) > 3
    found = cuda.to_host(cuda.getitem(cuda.to_device(x), ours))
    assert np.isnan(found[outside]).all() and np.isfinite(found[~outside]).all()
    back = cuda.to_host(cuda.getitem_backward(cuda.to_device(np.ones_like(found)), x.shape, ours))
    assert back.sum() == np.isfinite(found).sum()
for index in cases:
    parts = tuple(there(part) for part in (index if isinstance(index, tuple) else (index,)))
    value = rng.standard_normal(reference.getitem(x, index).shape).astype(np.float32)
    for value in (value, value[..., :1], 7):
        ours, theirs = cuda.to_device(x), x.copy()
        cuda.setitem(ours, parts, there(value))
        reference.setitem(theirs, index, value)
        same(ours, theirs)

def through_tensors(device):
    t = minicnn.tensor(x).to(device).requires_grad_()
    rows, columns = (minicnn.tensor(positions).to(device) for positions in (i, j))
    total = (t[t > 0] ** 2).sum() + (t[rows, columns] * 3).sum() + t[1, rows].sum()
    total.backward()
    return t.grad.cpu().numpy()
same(through_tensors("cuda"), through_tensors("cpu"))
"""
    in_simulator("-c", HEADER + program)
