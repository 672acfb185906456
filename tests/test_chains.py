"""Layers that an evaluation plan has made ready: always the answer of the weights as they are now."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import minicnn
import minicnn_kernels as kernels
from minicnn import nn, optim
from minicnn.nn import functional as F


@pytest.fixture(autouse=True)
def _poisoned_pool():
    previous = kernels.memory.poison(True)
    yield
    kernels.memory.poison(previous)


def make() -> nn.Module:
    """All that a chain holds: convolutions by Winograd, direct, strided, depthwise and grouped, and pools."""
    minicnn.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.ReLU(),
        nn.Conv2d(32, 20, 3, stride=2, groups=2), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(180, 70), nn.ReLU(), nn.Linear(70, 5),
    ).eval()  # fmt: skip


def images(n: int, seed: int = 0) -> minicnn.Tensor:
    return minicnn.tensor(np.random.default_rng(seed).standard_normal((n, 3, 28, 28)).astype(np.float32))


def assert_same_answer(compiled, model: nn.Module, x: minicnn.Tensor) -> None:
    with minicnn.no_grad():
        expected = model(x).numpy()
        for _ in range(2):
            actual = compiled(x).numpy()
            np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def chains(compiled) -> list:
    return [group.chain for plan in compiled.plans() for group in plan._groups if group.chain is not None]


@pytest.mark.parametrize("n", [1, 3, 5, 17])
def test_a_whole_net_runs_as_one_chain_and_equals_the_model(n: int) -> None:
    model = make()
    compiled = minicnn.compile(model)
    for seed in range(2):
        assert_same_answer(compiled, model, images(n, seed))
    (chain,) = chains(compiled)
    assert chain.nodes[-1].op.__name__ == "Linear"
    assert chain._prepared is not None


def train(model: nn.Module) -> None:
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    model.train()
    F.cross_entropy(model(images(4, 9)), minicnn.tensor(np.arange(4))).backward()
    optimizer.step()
    model.eval()


def in_place(model: nn.Module) -> None:
    with minicnn.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)


def in_a_view(model: nn.Module) -> None:
    with minicnn.no_grad():
        model[2].weight[3].zero_()


def by_copy(model: nn.Module) -> None:
    model[0].weight.detach().copy_(minicnn.randn(*model[0].weight.shape))


def by_assignment(model: nn.Module) -> None:
    model[11].weight.data = np.ones((70, 180), np.float32)


def by_augmented_assignment(model: nn.Module) -> None:
    model[13].weight.data *= 2


def by_marking(model: nn.Module) -> None:
    model[6].weight.data[...] = 1
    model[6].weight.mark_changed()


def of_statistics(model: nn.Module) -> None:
    model[3].running_var.fill_(3)


def by_loading(model: nn.Module) -> None:
    model.load_state_dict({name: value + 0.1 for name, value in model.state_dict().items()})


def of_the_parameter(model: nn.Module) -> None:
    model[2].weight = nn.Parameter(minicnn.randn(32, 16, 3, 3))


def of_the_bias(model: nn.Module) -> None:
    model[0].bias = None


def of_the_layer(model: nn.Module) -> None:
    model[13] = nn.Linear(70, 7)


def of_options(model: nn.Module) -> None:
    model[3].eps = 0.5


CHANGES = (train, in_place, in_a_view, by_copy, by_assignment, by_augmented_assignment, by_marking,
           of_statistics, by_loading, of_the_parameter, of_the_bias, of_the_layer, of_options)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_is_seen(change) -> None:
    model, x = make(), images(1)
    compiled = minicnn.compile(model)
    assert_same_answer(compiled, model, x)
    with minicnn.no_grad():
        before = compiled(x).numpy()
    change(model)
    assert_same_answer(compiled, model, x)
    with minicnn.no_grad():
        assert not np.array_equal(compiled(x).numpy(), before)


def test_what_is_derived_from_weights_is_kept_until_they_change() -> None:
    model, x = make(), images(1)
    compiled = minicnn.compile(model)
    with minicnn.no_grad():
        compiled(x)
        (chain,) = chains(compiled)
        first = chain._prepared
        compiled(x)
        assert chain._prepared is first
        in_place(model)
        compiled(x)
        assert chain._prepared is not first


def test_another_algorithm_or_back_end_is_used_at_once() -> None:
    model, x = make(), images(1)
    compiled = minicnn.compile(model)
    assert_same_answer(compiled, model, x)
    previous = kernels.set_algorithm("conv2d", "explicit")
    try:
        assert_same_answer(compiled, model, x)
        assert chains(compiled)[0]._prepared is None
    finally:
        kernels.set_algorithm("conv2d", previous)
    with kernels.use("reference"):
        assert_same_answer(compiled, model, x)
        assert chains(compiled)[0]._prepared is None


def test_branches_keep_what_lies_between_them() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
            self.c = nn.Conv2d(3, 16, 1)

        def forward(self, x):
            first = self.a(x).relu()
            return self.b(self.b(first)) + self.c(x) + first, first

    model, x = Branches().eval(), images(2)
    compiled = minicnn.compile(model)
    with minicnn.no_grad():
        for actual, expected in zip(compiled(x), model(x), strict=True):
            scale = np.abs(expected.numpy()).max()
            np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=0, atol=2e-5 * scale)
    assert sorted(len(chain.nodes) for chain in chains(compiled)) == [1, 1, 2]


def test_threads_run_one_chain_at_the_same_time() -> None:
    model = make()
    compiled = minicnn.compile(model)
    inputs = [images(1, seed) for seed in range(4)]
    with minicnn.no_grad():
        expected = [compiled(x).numpy() for x in inputs]
    wrong = []

    def run(i: int) -> None:
        with minicnn.no_grad():
            for _ in range(50):
                if not np.array_equal(compiled(inputs[i]).numpy(), expected[i]):
                    wrong.append(i)

    workers = [threading.Thread(target=run, args=(i,)) for i in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
