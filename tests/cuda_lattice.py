"""A small quantized network on the host and on device "cuda": every layer, its file, and a step of training.

Run by `test_cuda_integers.py` in a process of its own, because the simulator is chosen when Numba is
imported. On the host the reference computes. What differs ends the program with an error.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from pathlib import Path

import numpy as np

import minicnn
import minicnn_kernels as kernels
from minicnn import compress, deploy, nn, optim
from minicnn.nn.transform import attached
from minicnn_kernels.algorithms import ALGORITHMS

OPTIONS = (
    {"bits": 8},
    {"bits": 8, "per_channel": False, "observer": "percentile"},
    {"bits": 4, "observer": "mse", "power_of_two": True},
    {"bits": 2, "per_channel": False, "activation_bits": 4, "observer": "kl"},
    {"bits": 12, "observer": "moving"},
)


class Net(nn.Module):
    """Convolutions with batch norm, an addition, a concatenation, both poolings, a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.pool, self.average = nn.MaxPool2d(2), nn.AvgPool2d(2)
        self.fc = nn.Linear(8 * 2 * 2, 5)

    def forward(self, x: minicnn.Tensor) -> minicnn.Tensor:
        """(N, 2, 4, 4) -> (N, 5)."""
        x = self.relu1(self.norm1(self.conv1(x)))
        x = self.relu2(self.norm2(self.conv2(x)) + x)
        return self.fc(minicnn.cat([self.pool(x), self.average(x)], 1).flatten(1))


def same(what: str, ours: minicnn.Tensor, theirs: minicnn.Tensor) -> None:
    """Complain unless both hold the same bits, 0 and -0 counting as one."""
    assert ours.device == "cuda", what
    np.testing.assert_array_equal(ours.detach().cpu().numpy(), theirs.detach().numpy(), err_msg=what)


def outputs(model: nn.Module, x: minicnn.Tensor) -> dict[str, minicnn.Tensor]:
    """What every module gives."""
    found: dict[str, minicnn.Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, __, result, name=name: found.setdefault(name, result))
    model(x)
    return found


def same_lattices(device: nn.Module, host: nn.Module) -> None:
    """Complain unless quantizers of weights and of the model's input have the same bits, others nearly."""
    for ours, theirs in zip(attached(device, "quantize"), attached(host, "quantize"), strict=True):
        if not isinstance(ours.transform, compress.FakeQuantize):
            continue
        for name, buffer in ours.transform.named_buffers():
            what, expected = f"{ours.path}.{ours.place} {name}", getattr(theirs.transform, name)
            if ours.place == "weight" or (ours.path, ours.place) == ("conv1", "input"):
                same(what, buffer, expected)
            elif buffer.dtype == minicnn.float32:  # float32 sums come in another order there
                numbers = buffer.cpu().numpy(), expected.numpy()
                np.testing.assert_allclose(*numbers, rtol=1e-5, atol=1e-6, err_msg=what)


def main() -> None:
    """Compare with each of OPTIONS."""
    ALGORITHMS["integer"] = ("auto",)  # the cpu's routes have tests of their own, and would be compiled
    rng = np.random.default_rng(0)
    minicnn.manual_seed(0)
    x = minicnn.tensor(rng.standard_normal((3, 2, 4, 4)).astype(np.float32))
    labels = minicnn.tensor(rng.integers(0, 5, 3))
    with kernels.use("reference"):
        model = Net()
        model(x)  # statistics of batch norm
        model.eval()
    for options in OPTIONS:
        with kernels.use("reference"):
            host = compress.quantize(copy.deepcopy(model), [x], **options)
            expected = outputs(copy.deepcopy(host), x)
        device = compress.quantize(copy.deepcopy(model).cuda(), [x.cuda()], **options)
        same_lattices(device, host)
        for name, result in outputs(copy.deepcopy(host).cuda(), x.cuda()).items():
            same(f"{options} {name}", result, expected[name])
        if options["bits"] <= 8:
            with tempfile.TemporaryDirectory() as folder, kernels.use("reference"):
                deploy.save(host, Path(folder, "net.mcnn"), x)
                artefact = deploy.load(Path(folder, "net.mcnn"))
                routes = deploy.verify(host, artefact, [x]).routes
            found = {route.name: route for route in routes}
            for name in ("cuda", "cuda, as one program"):
                assert found[name].equal == found[name].images == len(x), found[name]
            assert found["cuda"].numbers > found["cuda, as one program"].numbers
        losses = [step(host, x, labels), step(device, x.cuda(), labels.cuda())]
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
        same_lattices(device, host)  # after their ranges have moved
    sys.stdout.write("equal")


def step(model: nn.Module, x: minicnn.Tensor, labels: minicnn.Tensor) -> float:
    """The loss of one step of quantization-aware training."""
    device = x.device == "cuda"
    with kernels.use("cuda" if device else "reference"):
        optimizer = optim.SGD(model.train().parameters(), lr=0.1, momentum=0.9)
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss.item()


if __name__ == "__main__":
    main()
