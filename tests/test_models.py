"""Architectures: published parameter counts, shapes, gradients everywhere, creation by name."""

from __future__ import annotations

import numpy as np
import pytest

import minicnn
from minicnn import models, nn


@pytest.fixture(autouse=True)
def _reproducible():
    minicnn.manual_seed(0)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("lenet-300-100", {}, 266_610),  # Han et al. 2015: 267K
        ("lenet-5", {}, 431_080),  # Han et al. 2015: 431K
        ("resnet-20", {}, 269_722),  # He et al. 2016, table 6: 0.27M
        ("resnet-20", {"option": "B"}, 272_474),
        ("resnet-18", {"in_channels": 3, "image_size": 32}, 11_173_962),
        ("simple", {}, 421_642),
        ("simple", {"in_channels": 3, "image_size": 32}, 545_098),
        ("simple", {"batch_norm": True}, 421_642 + 2 * (32 + 64)),
        ("deep", {"in_channels": 3, "image_size": 32}, 1_449_226),
        ("vgg", {}, 584_618),
        ("mobilenet", {}, 136_202),
        ("resnet-18", {"in_channels": 3, "num_classes": 1000, "stem": "large"}, 11_689_512),  # torchvision's
        ("deep", {"in_channels": 3, "image_size": 32, "residual": True}, 1_493_290),
        ("mlp", {"in_channels": 32, "image_size": 1}, 32 * 64 + 64 + 64 * 10 + 10),
        ("densenet", {}, 102_298),
        # Huang et al. 2017, table 2: L = 100, k = 12: 0.8M
        ("densenet", {"in_channels": 3, "image_size": 32, "growth": 12, "layers": (16, 16, 16)}, 769_162),
        ("inception", {}, 118_490),
    ],
)
def test_the_number_of_parameters_is_the_published_one(name, options, parameters):
    assert count(models.create(name, **options)) == parameters


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (models.AlexNet, 61_100_840),  # torchvision's; Krizhevsky et al. 2012: 60 million
        (models.VGG16, 138_357_544),  # Simonyan and Zisserman 2015, table 2, D: 138 million
        (models.MobileNet224, 4_231_976),  # Howard et al. 2017, table 4: 4.2 million
    ],
)
def test_the_networks_for_large_images_have_the_published_size(model, parameters, monkeypatch):
    monkeypatch.setattr(nn.init, "default_weight_", lambda weight: weight)  # only their number is wanted
    assert count(model()) == parameters


def test_inception_block_3a_has_the_published_size_and_shape():
    block = models.Inception(192, 64, 96, 128, 16, 32, 32)
    weights = sum(p.numel() for name, p in block.named_parameters() if name.endswith("weight"))
    assert weights // 1024 == 159  # Szegedy et al. 2015, table 1: 159K, without biases
    assert count(block) == weights + 64 + 96 + 128 + 16 + 32 + 32
    assert block(minicnn.tensor(np.zeros((1, 192, 5, 7), np.float32))).shape == (1, 256, 5, 7)


def test_a_dense_layer_keeps_its_input_and_adds_channels():
    layer = models.densenet.DenseLayer(5, growth=3)
    x = np.random.default_rng(0).standard_normal((2, 5, 6, 6)).astype(np.float32)
    y = layer(minicnn.tensor(x)).detach().numpy()
    assert y.shape == (2, 8, 6, 6)
    np.testing.assert_array_equal(y[:, :5], x)


def test_the_residual_of_the_deep_net_adds_its_short_way():
    block = models.simple.Residual(2, 4).eval()
    x = minicnn.tensor(np.random.default_rng(0).standard_normal((2, 2, 6, 6)).astype(np.float32))
    with minicnn.no_grad():
        short = block.shortcut(x).numpy()
        block.bn.weight.fill_(0)  # nothing comes over the long way
        np.testing.assert_array_equal(block(x).numpy(), short)
    assert short.any()


@pytest.mark.slow
@pytest.mark.parametrize("model", [models.AlexNet, models.MobileNet224])
def test_the_networks_for_large_images_give_logits_and_gradients(model):
    net = model(image_size=80, num_classes=5)
    x = minicnn.tensor(np.random.default_rng(0).standard_normal((2, 3, 80, 80)).astype(np.float32))
    logits = net(x)
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_gives_logits_and_a_gradient_to_every_parameter(name):
    model = models.create(name, in_channels=2, image_size=(16, 20), num_classes=3, dropout=0.2)
    x = minicnn.tensor(np.random.default_rng(0).standard_normal((2, 2, 16, 20)).astype(np.float32))
    logits = model(x)
    assert logits.shape == (2, 3)
    nn.functional.cross_entropy(logits, minicnn.tensor([0, 2])).backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert np.isfinite(p.grad.numpy()).all(), key
    assert model.eval()(x).shape == (2, 3)


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_starts_with_logits_of_a_sensible_size(name):
    model = models.create(name, in_channels=1, image_size=28)
    x = minicnn.tensor(np.random.default_rng(0).standard_normal((16, 1, 28, 28)).astype(np.float32))
    with minicnn.no_grad():
        loss = nn.functional.cross_entropy(model(x), minicnn.tensor(np.arange(16) % 10)).item()
    assert loss < 2 * np.log(10)


def test_the_zero_shortcut_subsamples_and_pads_channels():
    block = models.resnet.Shortcut(2, 6, stride=2)
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)
    y = block(minicnn.tensor(x)).numpy()
    assert y.shape == (1, 6, 2, 2)
    np.testing.assert_array_equal(y[:, 2:4], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 4:].any()


@pytest.mark.peers
def test_resnet_answers_as_the_same_network_in_pytorch():
    torch = pytest.importorskip("torch")

    class Block(torch.nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1 = torch.nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(outputs)
            self.conv2 = torch.nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = torch.nn.BatchNorm2d(outputs)
            self.new = outputs - inputs

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            if self.new:
                x = torch.nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new // 2, self.new // 2))
            return torch.relu(x + y)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.bn = torch.nn.BatchNorm2d(16)
            widths = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
            blocks = [Block(*width) for width in widths]
            self.stages = torch.nn.Sequential(*(torch.nn.Sequential(*blocks[i : i + 3]) for i in (0, 3, 6)))
            self.fc = torch.nn.Linear(64, 10)

        def forward(self, x):
            return self.fc(self.stages(torch.relu(self.bn(self.conv(x)))).mean((2, 3)))

    torch.manual_seed(0)
    theirs, ours = Net(), models.ResNet20()
    ours.load_state_dict(theirs.state_dict())
    x = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    y, u = ours(minicnn.tensor(x)), theirs(torch.tensor(x))
    np.testing.assert_allclose(y.detach().numpy(), u.detach().numpy(), rtol=1e-3, atol=1e-4)
    (y * y).sum().backward()
    (u * u).sum().backward()
    # Relative to the largest entry: through twenty layers, ReLUs at zero flip between any two engines.
    for p, (name, q) in zip(ours.parameters(), theirs.named_parameters(), strict=True):
        assert abs(p.grad.numpy() - q.grad.numpy()).max() < 2e-2 * abs(q.grad.numpy()).max(), name


def test_a_typo_in_a_name_is_answered_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"unknown model 'resnet20': did you mean 'resnet-20'\? expected one of"
    ):
        models.create("resnet20")
    with pytest.raises(ValueError, match=r"unknown model 'zzz': expected one of simple, deep"):
        models.create("zzz")


def test_options_and_sizes_that_do_not_fit_are_named():
    with pytest.raises(
        TypeError, match="model 'lenet-5' has no option 'width': expected some of in_channels"
    ):
        models.create("lenet-5", width=2)
    with pytest.raises(ValueError, match="LeNet5: image_size must be an integer of at least 16 or 2 of them"):
        models.create("lenet-5", image_size=12)
    with pytest.raises(ValueError, match="DeepCNN: image_size"):
        models.create("deep", image_size=(32, 8))
    with pytest.raises(ValueError, match=r"DenseNet: expected 0 < compression <= 1, got 0"):
        models.DenseNet(compression=0)
    with pytest.raises(ValueError, match="ResNet18: stem must be one of 'small', 'large', got 'big'"):
        models.create("resnet-18", stem="big")
    with pytest.raises(ValueError, match="ResNet20: option must be one of 'A', 'B', got 'C'"):
        models.create("resnet-20", option="C")
