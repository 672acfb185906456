"""compile: the same results, gradients and state as running module by module, whatever changes in between."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest

import minicnn
import minicnn_kernels as kernels
from minicnn import graph, models, nn, optim
from minicnn.nn import functional as F

SHAPES = {
    name: (2, 3, 32, 32) if name not in ("lenet-300-100", "lenet-5") else (2, 1, 28, 28)
    for name in models.MODELS
}


def make(name: str) -> nn.Module:
    minicnn.manual_seed(1)
    _, channels, size, _ = SHAPES[name]
    return models.create(name, in_channels=channels, image_size=size, num_classes=10)


def images(name: str, n: int = 2, seed: int = 0) -> minicnn.Tensor:
    values = np.random.default_rng(seed).standard_normal((n, *SHAPES[name][1:]))
    return minicnn.tensor(values.astype(np.float32))


def step(run, model: nn.Module, x: minicnn.Tensor) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Output and gradients of one training step, with the random numbers of seed 3."""
    minicnn.manual_seed(3)
    model.zero_grad()
    output = run(x)
    F.cross_entropy(output, minicnn.tensor(np.arange(len(x)) % 10)).backward()
    return output.detach().numpy(), {name: p.grad.numpy() for name, p in model.named_parameters()}


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * max(0.1, np.abs(expected).max()))


@pytest.mark.parametrize("name", models.MODELS)
def test_training_step_equals_the_uncompiled_one(name: str) -> None:
    plain = make(name)
    model = copy.deepcopy(plain)
    compiled = minicnn.compile(model)
    step(compiled, model, images(name))  # recorded, not yet compiled
    step(plain, plain, images(name))
    output, gradients = step(compiled, model, images(name, seed=1))
    expected, expected_gradients = step(plain, plain, images(name, seed=1))
    assert_close(output, expected)
    for key, gradient in gradients.items():
        assert_close(gradient, expected_gradients[key])
    for (key, buffer), other in zip(model.named_buffers(), plain.buffers(), strict=True):
        assert_close(buffer.numpy(), other.numpy()), key


@pytest.mark.parametrize("name", models.MODELS)
def test_evaluation_equals_the_uncompiled_one(name: str) -> None:
    model = make(name)
    step(model, model, images(name))  # so that running statistics are not their initial values
    model.eval()
    compiled = minicnn.compile(model)
    with minicnn.no_grad():
        for seed in (0, 1):
            x = images(name, seed=seed)
            assert_close(compiled(x).numpy(), model(x).numpy())


def test_plans_are_fused() -> None:
    model = make("resnet-20")
    compiled = minicnn.compile(model)
    compiled(images("resnet-20"))
    compiled.eval()
    with minicnn.no_grad():
        compiled(images("resnet-20"))
    training, evaluation = ([node.name for node in plan.graph.nodes] for plan in compiled.plans())
    assert training.count("BatchNormBlock") == 19  # with the sums and the counting of batches
    assert {"Add", "AddReLU", "Overwrite", "GetItem", "Pad"}.isdisjoint(training)
    assert training.count("Shortcut") == evaluation.count("Shortcut") == 2
    assert evaluation.count("AddReLU") == 9
    assert evaluation.count("FoldedConvBlock") == 19
    assert "ReLU" not in training + evaluation


@pytest.mark.parametrize(
    ("pick", "pad", "fused"),
    [
        (lambda x: x[:, :, ::2, ::3], (0, 0, 0, 0, 1, 2), True),
        (lambda x: x[:, :, :, ::2], (0, 0, 0, 0, 0, 2), True),
        (lambda x: x[:, :, 1::2, ::2], (0, 0, 0, 0, 1, 2), False),
        (lambda x: x[:, ::2, ::2, ::2], (0, 0, 0, 0, 1, 2), False),
        (lambda x: x[:, :, ::2, ::2], (0, 1, 0, 0, 1, 2), False),
        (lambda x: x[:, :, ::2, ::2], (0, 0, 0, 0, -1, 2), False),
        (lambda x: x[0, :, ::2, ::2], (0, 0, 1, 1), False),
    ],
)
def test_shortcuts_give_what_slices_and_padding_give(pick, pad, fused) -> None:
    class Picked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 1)

        def forward(self, input):
            return F.pad(pick(self.conv(input)), pad).relu()

    minicnn.manual_seed(0)
    model = Picked()
    compiled = minicnn.compile(model)
    results = []
    for run in (model, compiled):
        model.zero_grad()
        output = run(images("resnet-20", n=3))
        (output * output).sum().backward()
        results.append((output.detach().numpy(), model.conv.weight.grad.numpy()))
    for one, other in zip(*results, strict=True):
        assert_close(other, one)
    assert ("Shortcut" in [node.name for node in compiled.plans()[0].graph.nodes]) is fused


def test_other_batches_modes_and_parameters_get_right_answers_on_poisoned_memory() -> None:
    name = "deep"
    model = make(name)
    compiled = minicnn.compile(model)
    previous = kernels.memory.poison(True)
    try:
        for n in (4, 1, 4, 3, 4):
            compiled.train(n != 1)
            if n == 3:
                first = next(iter(model.parameters()))
                with minicnn.no_grad():
                    first.mul_(2)
            with minicnn.no_grad():
                x = images(name, n)
                buffers = {key: buffer.clone() for key, buffer in model.named_buffers()}
                got = compiled(x).numpy()
                for key, buffer in model.named_buffers():
                    buffer.copy_(buffers[key])
                minicnn.manual_seed(0)
                assert_close(got, model(x).numpy())
    finally:
        kernels.memory.poison(previous)


def test_replaced_parameters_and_layers_are_seen() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 3))
    compiled = minicnn.compile(model)
    x = minicnn.randn(2, 1, 8, 8)
    compiled(x)
    model[0].weight = nn.Parameter(minicnn.randn(4, 1, 3, 3))
    assert_close(compiled(x).detach().numpy(), model(x).detach().numpy())
    model[3] = nn.Linear(4 * 6 * 6, 5)
    assert compiled(x).shape == (2, 5)
    assert_close(compiled(x).detach().numpy(), model(x).detach().numpy())


def test_a_replaced_layer_without_parameters_is_seen() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    compiled = minicnn.compile(model)
    x = minicnn.randn(3, 4)
    for layer in (nn.Tanh, nn.Sigmoid, nn.ReLU, nn.Tanh):
        model[1] = layer()
        compiled(x)
        assert_close(compiled(x).detach().numpy(), model(x).detach().numpy())


def test_a_copy_of_a_compiled_model_has_parameters_of_its_own() -> None:
    compiled = minicnn.compile(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    x = minicnn.ones(1, 2)
    before = compiled(x).detach().numpy().copy()
    twin = copy.deepcopy(compiled)
    with minicnn.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(twin(x).detach().numpy(), np.zeros((1, 2)))
    np.testing.assert_array_equal(compiled(x).detach().numpy(), before)


def test_changed_options_of_layers_are_seen() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    compiled = minicnn.compile(model)
    x = minicnn.ones(4, 8)
    compiled(x)
    model[1].p = 0.0
    assert_close(compiled(x).detach().numpy(), model(x).detach().numpy())


class Branches(nn.Module):
    """Two inputs, a residual connection and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x, y):
        first = self.a(x).relu()
        second = (self.norm(self.b(first)) + first).relu()
        joined = minicnn.cat([second, y], 1)
        return F.max_pool2d(joined, 2), first


def test_two_inputs_residual_concatenation_and_two_results() -> None:
    model = Branches()
    compiled = minicnn.compile(model)
    x, y = minicnn.randn(2, 2, 6, 6), minicnn.randn(2, 3, 6, 6)
    for _ in range(2):
        pooled, first = compiled(x, y)
        assert isinstance(compiled(x, y), tuple)
        expected = model(x, y)
        assert_close(pooled.detach().numpy(), expected[0].detach().numpy())
        assert_close(first.detach().numpy(), expected[1].detach().numpy())


def test_detached_and_unrecorded_parts_stay_so() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            with minicnn.no_grad():
                frozen = self.a(x)
            return self.b(x).detach() * self.b(x) + frozen

    model = Partly()
    compiled = minicnn.compile(model)
    x = minicnn.randn(2, 3)
    gradients = []
    for run in (compiled, compiled, model):
        model.zero_grad()
        run(x).sum().backward()
        assert model.a.weight.grad is None
        gradients.append(model.b.weight.grad.numpy().copy())
    np.testing.assert_array_equal(gradients[1], gradients[2])


def test_a_forward_that_looks_at_values_runs_uncompiled_and_says_so_once() -> None:
    class Peeks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x):
            x = self.norm(x)
            return x * 2 if x.sum() > 1e9 else x

    model, plain = Peeks(), Peeks()
    compiled = minicnn.compile(model)
    x = minicnn.randn(4, 3)
    with pytest.warns(graph.CompileWarning, match=r"test_compile.py, line \d+"):
        compiled(x)
    plain(x)
    np.testing.assert_array_equal(model.norm.running_mean.numpy(), plain.norm.running_mean.numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(x)


def test_a_forward_that_changes_its_module_runs_uncompiled() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x * self.calls

    compiled = minicnn.compile(Counts())
    with pytest.warns(graph.CompileWarning, match="changes attributes"):
        first = compiled(minicnn.ones(1)).item()
    assert compiled(minicnn.ones(1)).item() == first + 1


def test_random_numbers_drawn_in_forward_are_not_frozen() -> None:
    class Noise(nn.Module):
        def forward(self, x):
            return x + minicnn.randn(3)

    compiled = minicnn.compile(Noise())
    with pytest.warns(graph.CompileWarning, match="random numbers"):
        first = compiled(minicnn.zeros(3))
    assert not np.array_equal(first.numpy(), compiled(minicnn.zeros(3)).numpy())


def test_forward_hooks_run() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    compiled = minicnn.compile(model)
    compiled(minicnn.ones(1, 2))
    seen = []
    handle = model[0].register_forward_hook(lambda module, inputs, result: seen.append(result.shape))
    compiled(minicnn.ones(1, 2))
    handle.remove()
    compiled(minicnn.ones(1, 2))
    assert seen == [(1, 2)]


def test_training_a_compiled_model_is_bit_identical_over_thread_counts() -> None:
    weights = []
    previous = kernels.get_threads()
    for threads in (1, min(2, kernels.threads.available_cores())):
        kernels.set_threads(threads)
        model = make("deep")
        compiled = minicnn.compile(model)
        optimizer = optim.SGD(compiled.parameters(), lr=0.1, momentum=0.9)
        for seed in range(3):
            step(compiled, model, images("deep", 4, seed))
            optimizer.step()
        weights.append([p.detach().numpy().copy() for p in model.parameters()])
    kernels.set_threads(previous)
    for one, two in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_compile_refuses_what_is_no_module() -> None:
    with pytest.raises(TypeError, match=r"compile: expected a minicnn\.nn\.Module, got function"):
        minicnn.compile(F.relu)


@pytest.mark.parametrize("name", models.MODELS)
def test_a_step_of_every_model_has_the_same_bits_on_one_thread_and_two(name: str) -> None:
    results = []
    for threads in (1, min(2, kernels.threads.available_cores())):
        kernels.set_threads(threads)
        model = make(name)
        compiled = minicnn.compile(model)
        output, gradients = step(compiled, model, images(name))
        results.append([output, *gradients.values(), *(buffer.numpy().copy() for buffer in model.buffers())])
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


class Shared(nn.Module):
    """A weight that is used twice, dropout, batch norm, a residual connection and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.first, self.last = nn.Linear(8 * 3 * 3, 6), nn.Linear(6, 10)
        self.dropout = nn.Dropout(0.4)

    def forward(self, x):
        y = self.norm(self.conv(x)).relu()
        y = (self.conv(y) + x).relu()
        y = F.max_pool2d(minicnn.cat([x, y], 1), 2)
        return self.last(self.dropout(self.first(y.flatten(1)).relu()))


def test_whatever_happens_between_two_steps_is_seen_on_poisoned_memory() -> None:
    minicnn.manual_seed(1)
    plain = Shared()
    model = copy.deepcopy(plain)
    compiled = minicnn.compile(model)
    initial = {key: value.numpy().copy() for key, value in plain.state_dict().items()}

    def freeze(model: Shared, frozen: bool) -> None:
        for parameter in model.conv.parameters():
            parameter.requires_grad_(not frozen)

    def replace(model: Shared) -> None:
        model.first.weight = nn.Parameter(minicnn.full(model.first.weight.shape, 0.01))

    def load(model: Shared) -> None:
        model.load_state_dict({key: minicnn.tensor(value) for key, value in initial.items()})

    def update(model: Shared) -> None:
        optimizer = optim.SGD([p for p in model.parameters() if p.grad is not None], lr=0.1)
        optimizer.step()

    def drop(model: Shared) -> None:
        model.dropout = nn.Identity()

    events = [
        (4, lambda model: None),
        (4, update),
        (3, update),  # the last, short batch of an epoch
        (4, lambda model: model.eval()),
        (1, lambda model: None),
        (4, lambda model: model.train()),
        (4, lambda model: freeze(model, True)),
        (4, update),
        (4, replace),
        (4, update),
        (4, load),
        (4, lambda model: freeze(model, False)),
        (4, drop),
        (4, update),
    ]
    previous = kernels.memory.poison(True)
    try:
        for i, (n, event) in enumerate(events):
            x = np.random.default_rng(i).standard_normal((n, 4, 6, 6)).astype(np.float32)
            results = []
            for one, run in ((model, compiled), (plain, plain)):
                event(one)
                one.zero_grad()
                minicnn.manual_seed(i)
                output = run(minicnn.tensor(x))
                F.cross_entropy(output, minicnn.tensor(np.arange(n))).backward()
                gradients = {key: p.grad for key, p in one.named_parameters()}
                results.append((output.detach().numpy(), gradients, dict(one.named_buffers())))
            (got, gradients, buffers), (expected, expected_gradients, expected_buffers) = results
            assert_close(got, expected)
            for key, gradient in expected_gradients.items():
                assert (gradient is None) == (gradients[key] is None), (i, key)
                if gradient is not None:
                    assert_close(gradients[key].numpy(), gradient.numpy())
            for key, buffer in expected_buffers.items():
                assert_close(buffers[key].numpy(), buffer.numpy())
        assert len(compiled.plans()) == 5  # batches of 4 and 3, of 1 in evaluation, a new shape of model
    finally:
        kernels.memory.poison(previous)


def test_gradients_reach_two_inputs_and_a_residual() -> None:
    model = Branches()
    compiled = minicnn.compile(model)
    values = [np.random.default_rng(i).standard_normal((2, 2 + i, 6, 6)).astype(np.float32) for i in range(2)]
    gradients = []
    for run in (compiled, compiled, model):
        model.zero_grad()
        inputs = [minicnn.tensor(value, requires_grad=True) for value in values]
        pooled, first = run(*inputs)
        (pooled.sum() + (first * first).sum()).backward()
        gradients.append([tensor.grad.numpy().copy() for tensor in (*inputs, *model.parameters())])
    for got in gradients[:2]:
        for one, expected in zip(got, gradients[2], strict=True):
            assert_close(one, expected)
