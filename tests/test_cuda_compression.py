"""Device "cuda" in the simulator: codebooks, signs, sparse rows and random numbers are the reference's."""

from __future__ import annotations

from simulated import in_simulator

HEADER = """
import numpy as np, minicnn, minicnn_kernels as kernels
from minicnn_kernels import cuda, reference
rng = np.random.default_rng(0)
def there(x):
    return cuda.to_device(x) if isinstance(x, np.ndarray) else x
def same(name, *arguments, rtol=0):
    ours, theirs = getattr(cuda, name)(*map(there, arguments)), getattr(reference, name)(*arguments)
    for a, b in zip(*((x,) if not isinstance(x, tuple) else x for x in (ours, theirs)), strict=True):
        a = cuda.to_host(a)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), (name, a.dtype, b.dtype, a.shape, b.shape)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol, err_msg=name)
    return theirs
def floats(*shape):
    return rng.standard_normal(shape).astype(np.float32)
"""


def test_codebooks_have_the_centroids_and_gradients_of_the_reference():
    program = """
heavy = floats(60) ** 3  # far-off values: with centroids spread evenly many have no members at first
# of three centroids one has no members at first, and two values are farthest from theirs
even = np.float32([-9, -8.5, -8, 8, 8.5, 9])
few = np.float32([1, 1, 2])
for x in (floats(4, 30), heavy, even, np.rint(floats(50) * 2), few, few[:0]):
    for clusters in (1, 3, 7, 16):
        for init in ("linear", "density", "random"):
            centroids = same("kmeans", x, clusters, init, 3)
    for dtype in (np.uint8, np.int16):
        index = same("nearest_centroid", x, centroids, dtype)
x = floats(4, 30)
x[0, :9] = 0, -0.0, np.nan, np.inf, -np.inf, *centroids[:4]
index = same("nearest_centroid", x, centroids, np.uint8)
same("nearest_centroid", x, centroids[:1], np.uint8)
same("codebook_forward", x, centroids, index)
same("codebook_backward", floats(4, 30), x, index, 20)
"""
    in_simulator("-c", HEADER + program)


def test_threads_that_meet_agree_about_clusters_and_scales():
    program = """
import sys
sys.setswitchinterval(1e-5)  # the simulator polls its threads: let each have its turn soon
same("kmeans", floats(9) ** 3, 3, "linear", 0)
same("codebook_backward", floats(3, 3), floats(3, 3), rng.integers(0, 2, (3, 3)).astype(np.uint8), 2)
same("ternary_scale", floats(2, 5), 0.7, 0)
"""
    in_simulator("-c", HEADER + program, threads=2)


def test_signs_and_ternary_values_have_the_bits_of_the_reference():
    program = """
x = floats(3, 4, 5)
x[0, 0, :4] = np.nan, 0, -0.0, 0.5
for axis, shape in ((None, ()), (0, (3,)), (1, (4,))):
    scale, threshold = np.abs(floats(*shape)), np.abs(floats(*shape)) * np.float32(0.5)
    scale, threshold = np.asarray(scale), np.asarray(threshold)
    same("binarize_forward", x, scale, axis)
    same("ternarize_forward", x, threshold, scale, axis)
    for values in (x[1:], x[1:] * 0, x[1:] * np.float32(1e-30)):
        if axis != 0:
            same("mean_magnitude", values, axis)
            same("ternary_scale", values, 0.7, axis)
same("binarize_backward", floats(3, 4, 5), x, 0.5)
"""
    in_simulator("-c", HEADER + program)


def test_products_that_count_bits_have_the_bits_of_the_reference():
    program = """
for depth, outputs in ((5, 3), (64, 33), (70, 40)):
    x, weight = floats(2, 3, depth), np.where(rng.random((outputs, depth)) < 0.3, 0, floats(outputs, depth))
    weight, factor = weight.astype(np.float32), floats(outputs)
    same("pack_signs", x)
    start = rng.integers(0, 99, outputs).astype(np.int32)
    for kind in ("binary", "ternary"):
        bits = same(f"pack_{kind}_weight", weight)
        same(f"{kind}_linear_forward", x, bits, start, factor)
for channels, window in ((3, ((3, 2), (1, 2), (1, 1), (1, 1))), (65, ((1, 3), (1, 1), (0, 2), (1, 2)))):
    x, weight = floats(2, channels, 5, 4), np.rint(floats(4, channels, *window[0]))
    start, factor = rng.integers(0, 99, 4).astype(np.int32), floats(4)
    for kind in ("binary", "ternary"):
        bits = same(f"pack_{kind}_weight", weight)
        same(f"{kind}_conv2d_forward", x, bits, start, factor, *window)
"""
    in_simulator("-c", HEADER + program)


def test_sparse_rows_multiply_as_the_reference_does():
    program = """
for shape, groups in (((5, 8), 1), ((4, 3, 2, 3), 2), ((1, 3), 1)):
    weight = np.rint(floats(*shape))
    weight[0] = 0
    rows = same("to_sparse_rows", weight)
    for bias in (None, floats(len(weight))):
        if weight.ndim == 2:
            same("sparse_linear_forward", floats(2, 3, weight.shape[1]), *rows, bias, rtol=1e-6)
        else:
            window = (2, 3), (1, 2), (1, 1), (2, 1), groups
            same("sparse_conv2d_forward", floats(2, 6, 5, 4), *rows, bias, *window, rtol=1e-6)
"""
    in_simulator("-c", HEADER + program)


def test_random_numbers_are_those_of_the_reference():
    program = """
for seed, offset in ((0, 0), (2**63 + 5, 2**33)):
    same("philox", seed, offset, 3)
    same("random_uniform", (3, 7), -0.3, 1.7, np.float32, seed, offset)
    same("random_integers", (5,), -3, 2**31, seed, offset)
    same("random_permutation", 11, seed, offset)
"""
    in_simulator("-c", HEADER + program)


def test_a_model_is_compressed_on_the_device_as_on_the_host():
    program = """
import copy
from minicnn import compress, nn, optim
minicnn.manual_seed(0)
x = minicnn.tensor(floats(2, 2, 4, 4))
with kernels.use("reference"):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6)).eval()
def compressed(change):
    with kernels.use("reference"):
        host = copy.deepcopy(model)
        change(host, x)
        expected = host(x).detach().numpy()
    device = copy.deepcopy(model).cuda()
    change(device, x.cuda())
    assert all(value.device == "cuda" for value in device.state_dict().values())
    np.testing.assert_allclose(device(x.cuda()).detach().cpu().numpy(), expected, rtol=1e-4, atol=1e-5)
compressed(lambda model, x: compress.share(model, 5, biases=3))
compressed(lambda model, x: compress.share(model, 4, init="random", seed=1))
compressed(lambda model, x: compress.binarize(model, x))
compressed(lambda model, x: compress.binarize(model, x, ternary=True))
compressed(lambda model, x: compress.low_rank(model, energy=0.7))
compressed(lambda model, x: compress.lasso_reconstruction(model, "3", 0.5, [x.cpu()]))
labels = minicnn.tensor([1, 4])
compressed(lambda model, x: compress.prune(model, 0.5, score="taylor", data=[(x.cpu(), labels)]))
compressed(lambda model, x: compress.equalize(model, x))
compressed(lambda model, x: compress.correct_bias(compress.quantize(model, [x], bits=4), [x]))
compressed(lambda model, x: compress.low_rank_residual(model, 1))
def trained(callback):
    def train(model, x):
        labels = minicnn.tensor([1, 4]).to(x.device)
        optimizer = optim.SGD(model.train().parameters(), lr=0.05, momentum=0.9)
        options = {"callbacks": [callback()], "epochs": 2, "progress": False}
        minicnn.fit(model, [(x, labels)], optimizer=optimizer, **options)
        model.eval()
    return train
compressed(trained(lambda: compress.PolynomialPruning(0, 1, 0.2, 0.6, every="1 batch")))
compressed(trained(lambda: compress.Surgery(0.5, stop=1)))
compressed(trained(lambda: compress.Proximal(0.01)))
compressed(lambda model, x: compress.quantize(compress.share(model, 5) and model, [x], bits=4))
"""
    in_simulator("-c", HEADER + program)


def test_a_step_of_compressed_training_is_recorded_and_repeated():
    program = """
import copy
from minicnn import compress, nn, optim
from minicnn.graph import compile_step
minicnn.manual_seed(0)
with kernels.use("reference"):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6))
batches, labels = [minicnn.tensor(floats(2, 2, 4, 4)).cuda() for _ in range(4)], minicnn.tensor([1, 4]).cuda()
def losses(change, compiled):
    trained = copy.deepcopy(model).cuda()
    change(trained)
    optimizer = optim.SGD(trained.train().parameters(), lr=0.05, momentum=0.9)
    def step(x):
        loss = nn.functional.cross_entropy(trained(x), labels)
        loss.backward()
        return loss
    run = compile_step(step, trained) if compiled else step
    found = []
    for x in batches:
        optimizer.zero_grad()
        found.append(run(x).item())
        optimizer.step()
    assert not compiled or run._recorded
    return found
for change in (
    lambda model: compress.prune(model, 0.5),
    lambda model: compress.quantize(model, batches[:1]),
    lambda model: compress.quantize(model, batches[:1], bits=4, learned=True),
    lambda model: compress.share(model, 4),
    lambda model: compress.binarize(model, ternary=True),
):
    assert losses(change, True) == losses(change, False)
"""
    in_simulator("-c", HEADER + program)
