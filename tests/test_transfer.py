"""Transfer: what is taken over, what stays frozen, new heads, cached features, low-rank residuals."""

import copy

import numpy as np
import pytest
from test_training import loader, network, stripes, trained

import minicnn
from minicnn import models, nn, optim
from minicnn.compress import (
    FakeQuantize,
    LowRankResidual,
    cached_features,
    freeze,
    load_matching,
    low_rank,
    low_rank_residual,
    replace_head,
    share,
    unfreeze,
)
from minicnn.compress.structure import describe, restore
from minicnn.data import DataLoader
from minicnn.nn.transform import attach, find
from minicnn.training import evaluate


def array(tensor):
    return tensor.detach().numpy().copy()


def state(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def normalized(seed=0):
    minicnn.manual_seed(seed)
    return nn.Sequential(
        {
            "conv": nn.Conv2d(1, 4, 3, padding=1),
            "bn": nn.BatchNorm2d(4),
            "relu": nn.ReLU(),
            "pool": nn.MaxPool2d(2),
            "flatten": nn.Flatten(),
            "dropout": nn.Dropout(0.5),
            "fc": nn.Linear(64, 2),
        }
    )


def test_what_matches_is_loaded_and_the_rest_is_told():
    source, model = models.create("simple", num_classes=10), models.create("simple", num_classes=3)
    model.append(nn.BatchNorm1d(3))
    before = array(model.fc2.weight)
    report = load_matching(model, source)
    assert report.matched == [
        "conv1.weight",
        "conv1.bias",
        "conv2.weight",
        "conv2.bias",
        "fc1.weight",
        "fc1.bias",
    ]
    assert report.different == {"fc2.weight": ((3, 128), (10, 128)), "fc2.bias": ((3,), (10,))}
    assert len(report.missing) == 5
    assert report.unused == []
    for name in report.matched:
        np.testing.assert_array_equal(array(model.get_parameter(name)), array(source.get_parameter(name)))
    np.testing.assert_array_equal(array(model.fc2.weight), before)
    text = str(report)
    assert "6 loaded: conv1.weight" in text
    assert "2 another shape: fc2.weight (3, 128), there (10, 128)" in text
    assert "5 not in the source: 11.weight" in text
    assert "not in the model" not in text


def test_every_kind_of_source_is_read(tmp_path):
    source = network(0)
    minicnn.save(source.state_dict(), tmp_path / "state.npz")
    minicnn.save_safetensors(source.state_dict(), tmp_path / "state.safetensors")
    trained(source, epochs=1, checkpoint=tmp_path / "checkpoint.npz")
    after = state(source)
    extra = {**after, "aux.weight": np.zeros(3)}
    for origin in (source, extra, tmp_path / "checkpoint.npz"):
        model = network(1)
        report = load_matching(model, origin)
        assert len(report.matched) == 4
        for name, value in state(model).items():
            np.testing.assert_array_equal(value, after[name])
    assert report.unused == []
    assert load_matching(network(1), extra).unused == ["aux.weight"]
    for name in ("state.npz", "state.safetensors"):
        model = network(1)
        load_matching(model, str(tmp_path / name))
        np.testing.assert_array_equal(array(model[0].weight), array(network(0)[0].weight))


def test_pytorch_weights_are_taken_over():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(3, 3)
    )
    model = network()
    report = load_matching(model, theirs.state_dict())
    assert report.matched == ["0.weight", "0.bias"]
    np.testing.assert_array_equal(array(model[0].weight), theirs[0].weight.detach().numpy())


def test_a_source_without_a_match_is_refused(tmp_path):
    model = network()
    with pytest.raises(
        ValueError, match=r"nothing in the source .* it has 0.weight, 0.bias, 4.weight, ..., the"
    ):
        load_matching(model, {"conv.weight": np.zeros(3)})
    minicnn.save([1, 2], tmp_path / "list.npz")
    with pytest.raises(ValueError, match="holds a list; expected a state_dict"):
        load_matching(model, tmp_path / "list.npz")


@pytest.mark.parametrize("compile", [False, True])
def test_frozen_layers_do_not_move_and_their_batch_norms_keep_their_statistics(compile):
    model = normalized()
    trained(model, epochs=1)
    names = freeze(model, ["conv", "bn"])
    assert names == ["conv.weight", "conv.bias", "bn.weight", "bn.bias"]
    before = state(model)
    optimizer = optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    trained(model, optimizer=optimizer, compile=compile, max_norm=0.1, l1=1e-3)
    after = state(model)
    for name in before:
        assert np.array_equal(before[name], after[name]) == (not name.startswith("fc")), name
    assert model.training
    assert not model.bn.training
    model.train()
    x = minicnn.tensor(stripes(4).images)
    expected = (array(model.conv(x)) - before["bn.running_mean"][:, None, None]) / np.sqrt(
        before["bn.running_var"][:, None, None] + 1e-5
    ) * before["bn.weight"][:, None, None] + before["bn.bias"][:, None, None]
    np.testing.assert_allclose(array(model.bn(model.conv(x))), expected, atol=1e-5)


def test_freezing_stops_observers_and_survives_a_copy():
    model = normalized()
    quantizer = attach(model.conv, "weight", FakeQuantize(8, momentum=1))
    freeze(model)
    twin = copy.deepcopy(model).train()
    assert not any(module.training for module in twin.modules())
    assert not quantizer.training
    assert not any(p.requires_grad for p in twin.parameters())


def test_unfreezing_thaws_what_it_names():
    model = normalized()
    assert len(freeze(model)) == 6
    model.train()
    assert unfreeze(model, ["fc", "d*"]) == ["fc.weight", "fc.bias"]
    model.train()
    assert model.dropout.training
    assert not model.bn.training
    assert unfreeze(model) == ["conv.weight", "conv.bias", "bn.weight", "bn.bias"]
    assert model.train().bn.training
    freeze(model, "bn")
    unfreeze(model, "bn")
    assert model.bn.training


def test_unfreezing_leaves_the_raw_weights_of_codebooks_alone():
    model = network()
    share(model, 4)
    freeze(model)
    assert sorted(unfreeze(model)) == [
        "0.bias",
        "0.weight_transforms.codebook.centroids",
        "4.bias",
        "4.weight_transforms.codebook.centroids",
    ]


def test_a_new_head_takes_the_place_of_the_last_dense_layer():
    model = models.create("simple")
    old = model.fc2
    head = replace_head(model, 3)
    assert model.fc2 is head
    assert head is not old
    assert list(model._modules)[-1] == "fc2"
    assert model(minicnn.zeros(2, 1, 28, 28)).shape == (2, 3)
    resnet = models.create("resnet-20", in_channels=1, image_size=8)
    replace_head(resnet, 4)
    assert resnet(minicnn.zeros(2, 1, 8, 8)).shape == (2, 4)
    assert not replace_head(model.eval(), 5, layer="fc1").training
    assert model.fc1.out_features == 5


def test_a_frozen_backbone_with_a_new_head_learns_another_task():
    """Article 000, items 3.6 and 4.6: load a backbone by name, freeze it, give it a head, fine-tune."""
    minicnn.manual_seed(0)
    source = models.create("lenet-5", image_size=16, num_classes=2)
    images = np.kron(stripes(64).images, np.ones((2, 2), np.float32))
    labels = stripes(64).labels
    batches = [
        (minicnn.tensor(images[i : i + 16]), minicnn.tensor(labels[i : i + 16])) for i in range(0, 64, 16)
    ]
    trained(source, batches, optimizer=optim.SGD(source.parameters(), lr=0.05, momentum=0.9), epochs=4)

    minicnn.manual_seed(1)
    model = models.create("lenet-5", image_size=16, num_classes=5)
    report = load_matching(model, source)
    assert list(report.different) == ["fc2.weight", "fc2.bias"]
    freeze(model)
    head = replace_head(model, 2)
    before = state(model)
    other = [(x, 1 - y) for x, y in batches]  # another task on the same pictures
    optimizer = optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    trained(model, other, optimizer=optimizer, epochs=4)
    assert evaluate(model, other).accuracy > 0.95
    for name, value in state(model).items():
        assert np.array_equal(value, before[name]) == (not name.startswith("fc2")), name

    unfreeze(model)  # fine-tune all of it, gently
    trained(model, batches, optimizer=optim.SGD(model.parameters(), lr=1e-3), epochs=1)
    assert not np.array_equal(array(model.conv1.weight), before["conv1.weight"])
    assert head is model.fc2


def test_a_head_trained_on_cached_features_is_the_head_trained_in_place():
    """Article 000, items 3.6 and 4.6: or cache the features, and train the head on arrays."""
    model = normalized()
    trained(model, epochs=1)
    freeze(model)
    data = stripes(64)
    features = cached_features(model, data, layer="fc", batch_size=10)
    assert features.features.shape == (64, 64)
    assert not model.fc._forward_pre_hooks
    model.eval()
    parts = nn.Sequential(dict(list(model._modules.items())[:-1]))
    np.testing.assert_allclose(features.features, array(parts(minicnn.tensor(data.images))), atol=1e-5)
    np.testing.assert_allclose(cached_features(parts, loader(data)).features.shape, (64, 64))

    head = replace_head(model, 2)
    alone = copy.deepcopy(head)
    trained(alone, DataLoader(features, 16, shuffle=True))
    optimizer = optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
    trained(model, DataLoader(data, 16, shuffle=True), optimizer=optimizer)
    np.testing.assert_allclose(array(alone.weight), array(head.weight), atol=1e-4)


def test_features_are_computed_in_eval_mode_and_the_mode_is_put_back():
    model = normalized()
    before = state(model)
    a, b = (cached_features(model, stripes(20), layer="fc") for _ in range(2))
    np.testing.assert_array_equal(a.features, b.features)
    np.testing.assert_array_equal(a.labels, stripes(20).labels)
    assert model.training
    for name, value in state(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_a_residual_changes_nothing_until_it_is_trained():
    """Article 003, item 3.3: f_target = f_source + delta f."""
    model = normalized()
    trained(model, epochs=2)
    x = minicnn.tensor(stripes(8, seed=3).images)
    model.eval()
    f_source, before = array(model(x)), state(model)
    residuals = low_rank_residual(model, 2)
    assert list(residuals) == ["conv", "fc"]
    np.testing.assert_array_equal(array(model(x)), f_source)

    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trainable == [
        f"{layer}.weight_transforms.low_rank.{side}" for layer in residuals for side in ("left", "right")
    ]
    other = [(images, 1 - labels) for images, labels in loader()]
    optimizer = optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02, momentum=0.9)
    trained(model, other, optimizer=optimizer, epochs=6)
    assert evaluate(model, other).accuracy > 0.95
    for name, value in before.items():
        np.testing.assert_array_equal(state(model)[name], value)
    delta = array(model.conv.weight) - before["conv.weight"]
    assert np.linalg.matrix_rank(delta.reshape(4, 9), tol=1e-5) == 2


@pytest.mark.parametrize("layer", [nn.Linear(5, 4), nn.Conv2d(3, 4, (3, 2)), nn.Conv1d(3, 4, 3)])
def test_gradients_of_residuals_in_double_precision(rng, layer):
    layer.double()
    residual = low_rank_residual(layer, 2)[""]
    with minicnn.no_grad():
        residual.left.copy_(rng.normal(size=residual.left.shape))
    weights = minicnn.tensor(rng.normal(size=layer.weight.shape))
    assert minicnn.gradcheck(lambda *p: (layer.weight * weights).sum(), list(residual.parameters()), tol=1e-6)
    left, right = array(residual.left), array(residual.right)
    expected = array(layer._parameters["weight"]) + np.tensordot(left, right, 1)
    np.testing.assert_allclose(array(layer.weight), expected)


@pytest.mark.parametrize(
    "compress",
    [
        lambda model: low_rank_residual(model, 2),
        lambda model: low_rank(model, ratio=0.3, layers=["conv", "fc"]),
        lambda model: share(model, {"conv": 5, "fc": 300}),
    ],
)
def test_the_form_of_a_model_is_written_down_and_made_again(compress, tmp_path):
    model, other = normalized(0), normalized(1)
    compress(model)
    minicnn.save({"form": describe(model), "values": model.state_dict()}, tmp_path / "model.npz")
    saved = minicnn.load(tmp_path / "model.npz")
    restore(other, saved["form"])
    other.load_state_dict(saved["values"])
    for layer in ("conv", "fc"):
        ours, theirs = (m.get_submodule(layer) for m in (other, model))
        np.testing.assert_array_equal(array(ours.weight), array(theirs.weight))
        assert not ours._parameters["weight"].requires_grad


def test_ranks_are_cut_to_what_a_layer_can_have_and_layers_chosen():
    model = normalized()
    residuals = low_rank_residual(model, 16, layers=["fc"])
    assert residuals["fc"].rank == 2
    assert find(model.conv, "weight", "low_rank") is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: freeze(m, "con"), r"no layer 'con'; did you mean 'conv'\?"),
        (lambda m: unfreeze(m, "bm"), r"no layer 'bm'; did you mean 'bn'\?"),
        (lambda m: replace_head(m, 3, layer="conv"), "'conv' is a Conv2d, which this does not apply to"),
        (lambda m: replace_head(m, 0), "out_features must be an integer of at least 1, got 0"),
        (lambda m: cached_features(m, stripes(4), layer="cf"), "no layer 'cf'"),
        (lambda m: cached_features(m, []), "at least one image"),
        (lambda m: low_rank_residual(m, 0), "at least 1, got 0"),
        (lambda m: low_rank_residual(m, 2, layers=["fc9"]), r"no layer 'fc9'; did you mean 'fc'\?"),
        (lambda m: LowRankResidual(m.fc.weight, 3), "rank from 1 to 2"),
    ],
)
def test_bad_arguments_are_named_and_leave_the_model_alone(call, message):
    model = normalized()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        call(model)
    assert state(model).keys() == before.keys()
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_pre_hooks or m.is_frozen for m in model.modules())


def test_one_low_rank_form_at_a_time():
    model = normalized()
    low_rank_residual(model, 1)
    with pytest.raises(ValueError, match="layer 'conv' is low-rank already"):
        low_rank_residual(model, 1)
    with pytest.raises(ValueError, match="is itself the dense layer"):
        replace_head(nn.Linear(2, 2), 3)
