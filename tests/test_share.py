"""Weight sharing: k-means of numbers, codebooks in the tape, and what they must survive."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_checkpoint import CrashAt, Stop, assert_same_weights
from test_training import network, stripes, trained

import minicnn
import minicnn_kernels as kernels
from minicnn import nn, optim
from minicnn.compress import Codebook, FakeQuantize, set_mask, share
from minicnn.data import DataLoader
from minicnn.functions.codebook import codebook
from minicnn.nn.transform import attach, detach, find, raw

kmeans = kernels.backend("reference").kmeans
nearest_centroid = kernels.backend("reference").nearest_centroid


def error(x, centroids):
    return np.square(np.abs(x[:, None] - centroids).min(axis=1)).sum()


def test_kmeans_finds_groups_that_are_there(rng):
    centers = np.array([-3.0, 0.5, 1.0, 7.0])
    x = (centers[:, None] + rng.uniform(-0.1, 0.1, (4, 50))).ravel()
    for init in ("density", "random", "linear"):
        found = kmeans(x, 4, init, 0)
        np.testing.assert_allclose(found, x.reshape(4, 50).mean(axis=1), atol=1e-12)


@given(st.lists(st.floats(-10, 10, width=32), max_size=40), st.integers(1, 9), st.sampled_from(
    ["linear", "density", "random"]))  # fmt: skip
def test_kmeans_ends_where_no_centroid_wants_to_move(values, clusters, init):
    x = np.array(values, np.float64)
    centroids = kmeans(x, clusters, init, 1)
    assert centroids.shape == (clusters,)
    assert (np.diff(centroids) >= 0).all()
    index = nearest_centroid(x, centroids, np.int64)
    if len(np.unique(x)) <= clusters:
        np.testing.assert_array_equal(centroids[index], x)
    else:
        for cluster in range(clusters):
            np.testing.assert_allclose(centroids[cluster], x[index == cluster].mean(), atol=1e-9)
        np.testing.assert_allclose(np.abs(x - centroids[index]), np.abs(x[:, None] - centroids).min(1))


def test_kmeans_gives_an_empty_cluster_the_farthest_element():
    # From 0, 33, 67 and 100 the two in the middle have none: one goes to 9, then one to 7, 2 away from it.
    x = np.array([0.0, 1.0, 7.0, 9.0, 100.0])
    np.testing.assert_allclose(kmeans(x, 4, "linear", 0), [0.5, 7, 9, 100])


def test_kmeans_starts_as_the_paper_says(rng):
    x = np.append(rng.normal(size=1000), 30.0)
    assert kmeans(x, 8, "linear", 0)[-1] == 30  # large weights get centroids of their own
    assert error(x, kmeans(x, 8, "density", 0)) <= error(x, np.quantile(x, (np.arange(8) + 0.5) / 8))
    np.testing.assert_array_equal(kmeans(x, 8, "random", 3), kmeans(x, 8, "random", 3))


def test_a_centroids_gradient_is_the_sum_over_its_members(rng):
    """Han et al. 2016, eq. 3."""
    x, grad = rng.normal(size=(2, 5, 7))
    x[0] = 0
    centroids = minicnn.tensor(np.sort(rng.normal(size=4)), requires_grad=True)
    index = rng.integers(0, 4, (5, 7)).astype(np.uint8)
    y = codebook(minicnn.tensor(x), centroids, minicnn.from_numpy(index))
    np.testing.assert_array_equal(y.detach().numpy(), np.where(x != 0, centroids.detach().numpy()[index], 0))
    y.backward(grad)
    expected = [
        sum(grad[i, j] for i, j in zip(*np.nonzero((index == k) & (x != 0)), strict=True)) for k in range(4)
    ]
    np.testing.assert_allclose(centroids.grad.numpy(), expected)
    assert minicnn.gradcheck(lambda c: codebook(minicnn.tensor(x), c, minicnn.from_numpy(index)), [centroids])


@pytest.mark.parametrize("shape", [(3, 5), (40, 30, 3, 3), (0, 4)])
def test_cpu_codebooks_equal_the_reference(rng, shape):
    cpu, reference = kernels.backend("cpu"), kernels.backend("reference")
    x, grad = rng.normal(size=(2, *shape)).astype(np.float32)
    x = np.asfortranarray(np.where(x > 1, 0, x))
    for clusters, dtype in ((16, np.uint8), (300, np.int16)):
        centroids = rng.normal(size=clusters).astype(np.float32)
        for index in (
            rng.integers(0, clusters, shape).astype(dtype),
            np.asfortranarray(rng.integers(0, clusters, shape).astype(dtype)),
        ):
            for name, arguments in (
                ("codebook_forward", (x, centroids, index)),
                ("codebook_backward", (grad, x, index, clusters)),
            ):
                ours, theirs = (getattr(k, name)(*arguments) for k in (cpu, reference))
                assert ours.dtype == theirs.dtype
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_shared_weights_are_few_and_near():
    model = network()
    before = model[0].weight.detach().numpy().copy()
    books = share(model, 4)
    assert list(books) == ["0", "4"]
    after = model[0].weight.detach().numpy()
    assert len(np.unique(after)) == 4
    np.testing.assert_array_equal(
        np.abs(before - after), np.abs(before[..., None] - books["0"].centroids.detach().numpy()).min(-1)
    )
    assert books["0"].index.dtype == np.uint8
    assert books["0"].bits == 2


def test_clusters_can_differ_by_layer_and_exceed_a_byte():
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 3), nn.Linear(3, 3))
    books = share(model, {"0": 500, "1": 8})
    assert [book.clusters for book in books.values()] == [500, 8]
    assert books["0"].index.dtype == np.int16
    assert len(np.unique(model[0].weight.detach().numpy())) == 500
    assert len(np.unique(model[2].weight.detach().numpy())) == 9
    assert find(model[2], "weight", "codebook") is None


def test_biases_share_values_where_there_are_more_of_them():
    model = nn.Sequential(nn.Linear(6, 40), nn.Linear(40, 3), nn.Linear(3, 9, bias=False))
    before = [model[i].bias.detach().numpy().copy() for i in (0, 1)]
    books = share(model, 4, biases=5)
    assert list(books) == ["0", "0.bias", "1", "2"]
    after = model[0].bias.detach().numpy()
    assert len(np.unique(after)) == 5
    assert np.abs(after - before[0]).max() < np.abs(before[0]).max() / 4
    np.testing.assert_array_equal(model[1].bias.detach().numpy(), before[1])
    model(minicnn.ones(2, 6)).sum().backward()
    assert books["0.bias"].centroids.grad is not None
    assert list(share(model, 4)) == ["0", "1", "2"]
    assert len(np.unique(model[0].bias.detach().numpy())) == 5


def test_more_clusters_than_weights_change_nothing():
    model = nn.Linear(3, 2)
    before = model.weight.detach().numpy().copy()
    share(model, 16)
    np.testing.assert_array_equal(model.weight.detach().numpy(), before)


def test_the_raw_weight_is_kept_and_not_trained_while_centroids_are():
    model = network()
    kept = raw(model[0], "weight").detach().numpy().copy()
    book = share(model, 4)["0"]
    start, bias = book.centroids.detach().numpy().copy(), model[0].bias.detach().numpy().copy()
    optimizer = optim.SGD(optim.parameter_groups(model, weight_decay=1e-2), lr=0.02, momentum=0.9)
    history = trained(model, optimizer=optimizer, epochs=4, l1=1e-3)
    assert history["loss"][-1] < history["loss"][0]
    np.testing.assert_array_equal(raw(model[0], "weight").detach().numpy(), kept)
    assert raw(model[0], "weight").grad is None
    assert not np.array_equal(book.centroids.detach().numpy(), start)
    assert not np.array_equal(model[0].bias.detach().numpy(), bias)
    assert len(np.unique(model[0].weight.detach().numpy())) == 4
    detach(model[0], "weight", "codebook")
    assert raw(model[0], "weight").requires_grad
    np.testing.assert_array_equal(model[0].weight.detach().numpy(), kept)


def test_pruned_weights_stay_zero_and_cost_no_cluster():
    model = network()
    weight = model[4].weight.detach().numpy()
    keep = np.abs(weight) > np.median(np.abs(weight))
    set_mask(model[4], "weight", keep)
    book = share(model, 4, layers="4")["4"]
    trained(model, optimizer=optim.SGD(model.parameters(), lr=0.02, momentum=0.9))
    after = model[4].weight.detach().numpy()
    np.testing.assert_array_equal(after != 0, keep)
    assert len(np.unique(after[keep])) == 4
    assert (book.centroids.detach().numpy() != 0).all()


def test_a_mask_that_comes_later_is_obeyed():
    model = nn.Linear(8, 4)
    share(model, 4)
    keep = np.arange(32).reshape(4, 8) % 3 > 0
    set_mask(model, "weight", keep)
    np.testing.assert_array_equal(model.weight.detach().numpy() != 0, keep)


def test_mask_codebook_and_quantizer_together_keep_zeros_and_points():
    model = nn.Linear(16, 8)
    keep = np.abs(model.weight.detach().numpy()) > 0.1
    attach(model, "weight", FakeQuantize(4, momentum=1))
    set_mask(model, "weight", keep)
    share(model, 5)
    model.train()
    value = model.weight.detach().numpy()
    np.testing.assert_array_equal(value != 0, keep & (value != 0))
    assert len(np.unique(value[keep])) <= 5
    scale = find(model, "weight", "quantize").scale.item()
    np.testing.assert_allclose(value / scale, np.rint(value / scale), atol=1e-5)
    model.weight.sum().backward()
    assert find(model, "weight", "codebook").centroids.grad is not None


def test_sharing_again_clusters_what_the_codebook_made():
    model = nn.Linear(16, 8)
    share(model, 8)
    eight = set(np.unique(model.weight.detach().numpy()))
    share(model, 20)
    assert set(np.unique(model.weight.detach().numpy())) == eight


def test_a_shared_model_runs_compiled_as_it_does_uncompiled(rng):
    model = network()
    share(model, 4)
    x = minicnn.tensor(rng.normal(size=(4, 1, 8, 8)).astype(np.float32))
    compiled = minicnn.compile(model)
    gradients = []
    for run in (model, compiled, compiled):
        model.zero_grad()
        y = run(x)
        y.square().sum().backward()
        gradients.append(
            (y.detach().numpy(), *(p.grad.numpy() for p in model.parameters() if p.grad is not None))
        )
    for later in gradients[1:]:
        for a, b in zip(gradients[0], later, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_shared_model_is_saved_copied_and_loaded(tmp_path):
    model, other = network(0), network(1)
    share(model, 4)
    minicnn.save(model.state_dict(), tmp_path / "state.npz")
    share(other, 4)
    other.load_state_dict(minicnn.load(tmp_path / "state.npz"))
    twin = copy.deepcopy(model)
    for one in (other, twin):
        for name in ("0", "4"):
            ours, theirs = (m.get_submodule(name).weight.detach().numpy() for m in (one, model))
            np.testing.assert_array_equal(ours, theirs)
    assert not raw(twin[0], "weight").requires_grad
    with minicnn.no_grad():
        find(twin[0], "weight", "codebook").centroids.add_(1.0)
    assert not np.array_equal(twin[0].weight.detach().numpy(), model[0].weight.detach().numpy())


def test_a_resumed_training_of_centroids_ends_with_the_same_bits(tmp_path):
    def shared(seed):
        model = network(seed)
        share(model, 4)
        return model

    def training(model, **options):
        batches = DataLoader(stripes(), 16, shuffle=True)
        optimizer = optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        return trained(model, batches, optimizer=optimizer, checkpoint=tmp_path / "c.npz", **options)

    whole, broken, resumed = shared(0), shared(0), shared(1)
    trained(
        whole,
        DataLoader(stripes(), 16, shuffle=True),
        optimizer=optim.SGD(whole.parameters(), lr=0.02, momentum=0.9),
    )
    with pytest.raises(Stop):
        training(broken, checkpoint_every="1 batch", callbacks=[CrashAt(1, 2)])
    training(resumed, checkpoint_every="1 batch", resume=True)
    assert_same_weights(whole, resumed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clusters": 0}, "from 1 to 32768, got 0"),
        ({"clusters": 2.5}, r"got 2\.5"),
        ({"init": "kmeans++"}, "linear, density, random"),
        ({"layers": "convl"}, "has no layer 'convl'"),
        ({"clusters": {"0": 4, "9": 4}}, "has no layer '9'"),
        ({"clusters": {"0": 4}, "layers": "0"}, "leave out `layers`"),
    ],
)
def test_bad_arguments_are_named_and_leave_the_model_alone(arguments, message):
    model = network()
    with pytest.raises(ValueError, match=message):
        share(model, **arguments)
    assert find(model[0], "weight", "codebook") is None


def test_weights_that_are_not_finite_are_refused():
    model = network()
    with minicnn.no_grad():
        model[4].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="layer '4' holds NaN"):
        share(model)
    assert find(model[0], "weight", "codebook") is None


def test_an_index_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"whole numbers of shape \(2,\)"):
        codebook(minicnn.ones(2), minicnn.ones(3), minicnn.zeros(3))


def test_a_layer_without_any_weight_left_stays_zero():
    model = nn.Linear(4, 2)
    set_mask(model, "weight", np.zeros((2, 4), bool))
    share(model, 4)
    assert not model.weight.detach().numpy().any()
    assert isinstance(find(model, "weight", "codebook"), Codebook)
