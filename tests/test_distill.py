"""Distillation: the loss and its gradient by the formulas of the papers, teachers of every kind, training."""

import numpy as np
import pytest
from test_checkpoint import CrashAt, Stop, assert_same_weights
from test_training import loader, network, stripes, trained

import minicnn
from minicnn import nn, optim
from minicnn.compress import (
    AttentionTransfer,
    CachedTeacher,
    Distillation,
    Hints,
    freeze_quantizers,
    prune,
    quantize,
    sparsity,
)
from minicnn.training import evaluate

K = 3


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def batch(rng, n=5, dtype=np.float64):
    """Student's and teacher's logits, targets, and images whose first pixels are the teacher's logits."""
    student, teacher = rng.normal(scale=3, size=(2, n, K))
    return student.astype(dtype), teacher.astype(dtype), rng.integers(0, K, n)


def pictures(n=6, seed=0):
    return minicnn.tensor(stripes(n, seed).images)


@pytest.mark.parametrize(("temperature", "alpha"), [(4.0, 0.9), (1.0, 0.5), (20.0, 1.0), (2.0, 0.0)])
def test_the_loss_and_its_gradient_are_hintons(rng, temperature, alpha):
    z, v, targets = batch(rng)
    outputs = minicnn.tensor(z, requires_grad=True)
    loss = Distillation(lambda images: v, temperature, alpha)(outputs, minicnn.tensor(targets), None)

    p, q, t = softmax(v / temperature), softmax(z / temperature), np.eye(K)[targets]
    soft = (p * (np.log(p) - np.log(q))).sum(axis=1).mean()
    hard = -np.log(softmax(z)[np.arange(len(z)), targets]).mean()
    assert loss.item() == pytest.approx(alpha * temperature**2 * soft + (1 - alpha) * hard)

    loss.backward()
    expected = (alpha * temperature * (q - p) + (1 - alpha) * (softmax(z) - t)) / len(z)
    np.testing.assert_allclose(outputs.grad.numpy(), expected, atol=1e-12)


def test_at_high_temperature_the_gradient_is_that_of_matching_logits(rng):
    """Hinton et al. 2015, eq. 4, for logits of mean zero: (z - v) / (N C), times T^2 / T^2."""
    z, v, targets = batch(rng)
    z, v = (x - x.mean(axis=1, keepdims=True) for x in (z, v))
    outputs = minicnn.tensor(z, requires_grad=True)
    Distillation(lambda images: v, 1e4, 1.0)(outputs, targets, None).backward()
    np.testing.assert_allclose(outputs.grad.numpy(), (z - v) / z.size, rtol=1e-2, atol=1e-5)


def test_without_alpha_the_teacher_is_not_asked(rng):
    def teacher(images):
        raise AssertionError("asked")

    z, _, targets = batch(rng)
    loss = Distillation(teacher, alpha=0.0)(minicnn.tensor(z), minicnn.tensor(targets), None)
    assert loss.item() == pytest.approx(
        nn.functional.cross_entropy(minicnn.tensor(z), minicnn.tensor(targets)).item()
    )


def test_a_model_teaches_in_eval_mode_without_a_tape_and_keeps_its_own():
    teacher = network(0, nn.Dropout(0.5), nn.BatchNorm1d(64))
    before = {name: value.numpy().copy() for name, value in teacher.state_dict().items()}
    teacher.eval()
    images = pictures()
    expected = teacher(images).detach()
    teacher.train()
    outputs = minicnn.zeros(6, 2, requires_grad=True)
    loss = Distillation(teacher, alpha=1.0, temperature=1.0)
    for _ in range(3):  # recorded, compiled, compiled
        np.testing.assert_allclose(
            loss.soft_targets(images, outputs).numpy(), expected.softmax(dim=1).numpy(), atol=1e-6
        )
        loss(outputs, None, images).backward()
    assert teacher.training
    assert teacher[5].training
    assert all(p.grad is None for p in teacher.parameters())
    for name, value in teacher.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_a_function_on_arrays_and_an_ensemble_teach(rng):
    w = rng.normal(size=(64, 2)).astype(np.float32)
    images, outputs = pictures(), minicnn.zeros(6, 2)

    def on_arrays(x):
        return np.asarray(x).reshape(len(x), -1) @ w

    model = network()
    both = Distillation([on_arrays, model], temperature=2.0).soft_targets(images, outputs).numpy()
    model.eval()
    mean = (softmax(on_arrays(images) / 2) + softmax(model(images).detach().numpy() / 2)) / 2
    np.testing.assert_allclose(both, mean, atol=1e-6)

    def ensemble(x):
        return (model(x) + model(x * 2)) / 2

    assert Distillation(ensemble).soft_targets(images, outputs).shape == (6, 2)
    assert all(p.grad is None for p in model.parameters())


def test_a_student_learns_from_its_teacher_through_fit():
    teacher, student = network(0), network(1)
    trained(teacher, epochs=4)
    loss = Distillation(teacher, 2.0, 1.0)
    history = trained(student, loss=loss, validation=loader(stripes(seed=1)), epochs=4)
    assert history["loss"][-1] < history["loss"][0]
    assert history["validation_loss"][-1] < history["validation_loss"][0]
    assert history[-1]["validation_accuracy"] > 0.9
    assert evaluate(teacher, loader(), loss=Distillation(teacher, 2.0, 1.0)).loss == pytest.approx(
        0, abs=1e-6
    )


def test_dark_knowledge_teaches_a_class_that_no_target_shows():
    """Hinton et al. 2015, section 3: the student learns a class that it has never been given as a target."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)).astype(np.float32)
    directions = np.array([[1, 0], [-0.5, 0.87], [-0.5, -0.87]], np.float32)
    labels = (x @ directions.T).argmax(axis=1)

    def batches(rows):
        return [(minicnn.tensor(x[i]), minicnn.tensor(labels[i])) for i in np.array_split(rows, 4)]

    seen = np.flatnonzero(labels != 2)
    minicnn.manual_seed(0)
    student = nn.Linear(2, 3)
    loss = Distillation(lambda images: 8 * np.asarray(images) @ directions.T, 4.0, 1.0)
    trained(student, batches(seen), optimizer=optim.SGD(student.parameters(), lr=0.3), loss=loss, epochs=100)
    answers = student(minicnn.tensor(x)).detach().numpy().argmax(axis=1)
    assert (answers == labels)[labels == 2].mean() > 0.9


def test_cached_answers_are_the_teachers_and_new_images_are_asked_anew():
    asked = []
    model = network()

    def teacher(images):
        asked.append(len(images))
        return model(images)

    cached = CachedTeacher(teacher, loader(stripes(48)))
    assert sum(asked) == 48
    model.eval()
    images = pictures(48)
    np.testing.assert_allclose(cached(images[::2]).numpy(), model(images[::2]).detach().numpy(), atol=1e-6)
    assert sum(asked) == 48
    cached(pictures(6, seed=7))
    assert sum(asked) == 54
    with pytest.raises(ValueError, match="hold no images"):
        CachedTeacher(teacher, [])


def test_caching_changes_no_training():
    teacher, plain, student = network(0), network(1), network(1)
    trained(plain, loss=Distillation(teacher))
    trained(student, loss=Distillation(CachedTeacher(teacher, loader())))
    for a, b in zip(plain.parameters(), student.parameters(), strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-4, atol=1e-5)


def wider(seed=0):
    minicnn.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 2)
    )


def test_hints_are_half_the_mean_square_to_a_regressors_result(rng):
    """Romero et al. 2015, eq. 3."""
    student, teacher = network(), wider()
    hints = Hints(student, teacher, {"0": "0", "4": "4"}, pictures(2), weight=3.0)
    assert [type(r).__name__ for r in hints.regressors] == ["Conv2d", "Identity"]
    images = pictures()
    student(images)
    with minicnn.no_grad():
        teacher(images)
    loss = hints()
    hints.close()
    regressed = hints.regressors[0](student[0](images)).detach().numpy()
    first = np.square(regressed - teacher[0](images).detach().numpy()).mean()
    second = np.square(student(images).detach().numpy() - teacher(images).detach().numpy()).mean()
    assert loss.item() == pytest.approx(3 / 2 * (first + second), rel=1e-5)
    loss.backward()
    assert hints.regressors[0].weight.grad is not None
    assert student[0].weight.grad is not None
    assert teacher[0].weight.grad is None


def test_attention_is_where_the_energy_of_the_channels_lies(rng):
    """Zagoruyko and Komodakis 2017, eq. 2."""
    student, teacher = network(), wider()
    term = AttentionTransfer(student, teacher, {"1": "2"}, weight=10.0)  # 8 x 8 against 4 x 4
    images = pictures()
    student(images)
    teacher(images)
    loss = term()
    term.close()

    def q(features):
        energy = np.square(features).mean(axis=1).reshape(len(features), -1)
        return energy / np.linalg.norm(energy, axis=1, keepdims=True)

    ours = student[:2](images).detach().numpy().reshape(6, 4, 4, 2, 4, 2).mean(axis=(3, 5))
    theirs = teacher[:3](images).detach().numpy()
    assert loss.item() == pytest.approx(5 * np.square(q(ours) - q(theirs)).mean(), rel=1e-4)
    loss.backward()
    assert student[0].weight.grad is not None
    assert teacher[0].weight.grad is None


def test_attention_of_a_dead_layer_has_a_gradient(rng):
    from minicnn.compress.features import attention

    dead = minicnn.zeros(2, 3, 4, 4, requires_grad=True)
    attention(dead).sum().backward()
    assert np.isfinite(dead.grad.numpy()).all()
    x = minicnn.tensor(rng.normal(size=(2, 3, 4, 4)), requires_grad=True)
    assert minicnn.gradcheck(attention, [x], tol=1e-6)


def distilled(student, teacher, **options):
    hints = Hints(student, teacher, {"0": "0"}, pictures(2), weight=0.1)
    attention = AttentionTransfer(student, teacher, {"1": "1"}, weight=10.0)
    loss = Distillation(teacher, 2.0, 0.5, hints, attention)
    optimizer = optim.SGD([*student.parameters(), *loss.parameters()], lr=0.05, momentum=0.9)
    try:
        return trained(
            student, optimizer=optimizer, loss=loss, validation=loader(stripes(seed=1)), **options
        ), loss
    finally:
        hints.close()
        attention.close()


def test_hints_and_attention_train_through_fit_and_leave_no_hooks():
    teacher, student = wider(), network(1)
    trained(teacher, epochs=3)
    start = student.state_dict().keys()
    history, loss = distilled(student, teacher, epochs=4)
    assert history["loss"][-1] < history["loss"][0]
    assert history[-1]["validation_accuracy"] > 0.9
    assert student.state_dict().keys() == start
    assert not any(module._forward_hooks for one in (student, teacher) for module in one.modules())
    assert len(list(loss.parameters())) == 2


def test_a_resumed_distillation_goes_on_with_its_regressors(tmp_path):
    teacher, whole, broken, resumed = wider(), network(1), network(1), network(2)
    minicnn.manual_seed(3)
    distilled(whole, teacher, checkpoint=tmp_path / "other.npz")
    options = {"checkpoint": tmp_path / "c.npz", "checkpoint_every": "1 batch"}
    minicnn.manual_seed(3)
    with pytest.raises(Stop):
        distilled(broken, teacher, callbacks=[CrashAt(1, 2)], **options)
    minicnn.manual_seed(4)
    distilled(resumed, teacher, resume=True, **options)
    assert_same_weights(whole, resumed)


def test_knowledge_goes_from_a_large_network_to_a_small_one():
    """Article 002, "knowledge distillation": its listing copies weights and trains again, without a teacher.

    Knowledge is what the teacher answers, so the student may be smaller: here by a factor of five.
    """

    def mlp(hidden, seed):
        minicnn.manual_seed(seed)
        return nn.Sequential(nn.Linear(32, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    rng = np.random.default_rng(0)
    centers = rng.normal(size=(10, 32))
    labels = rng.integers(0, 10, 400)
    x = (centers[labels] + rng.normal(scale=0.8, size=(400, 32))).astype(np.float32)
    batches = [(minicnn.tensor(x[i::10]), minicnn.tensor(labels[i::10])) for i in range(10)]
    teacher, student = mlp(64, 0), mlp(12, 1)
    trained(teacher, batches, optimizer=optim.Adam(teacher.parameters(), lr=0.01), epochs=10)
    before = [p.detach().numpy().copy() for p in teacher.parameters()]
    loss = Distillation(teacher, temperature=2.0, alpha=0.7)
    trained(student, batches, optimizer=optim.Adam(student.parameters(), lr=0.01), loss=loss, epochs=25)
    assert evaluate(student, batches).accuracy > 0.95
    for p, value in zip(teacher.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), value)


@pytest.mark.parametrize("compile", [False, True])
def test_a_pruned_quantized_model_learns_from_its_dense_self(compile):
    """Masks, then lattices, then a teacher, with batch norm folded: all on one model."""

    def normalized(seed):
        minicnn.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 2),
        )

    teacher, model = normalized(0), normalized(0)
    trained(teacher, epochs=3)
    model.load_state_dict(teacher.state_dict())
    prune(model, 0.5)
    quantize(model, loader(), bits=4)
    assert type(model[1]) is nn.Identity
    masked = {i: model[i].weight_transforms.mask.keep.numpy().copy() for i in (0, 5)}
    loss = Distillation(teacher, 2.0, 0.9)
    optimizer = optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
    history = trained(
        model, optimizer=optimizer, loss=loss, validation=loader(stripes(seed=1)), compile=compile
    )
    assert history["loss"][-1] < history["loss"][0]
    assert history[-1]["validation_accuracy"] > 0.9
    freeze_quantizers(model)
    model.eval()
    assert sparsity(model) == pytest.approx(0.5)
    for i, keep in masked.items():
        weight = model[i].weight.detach().numpy()
        assert not weight[~keep].any()
        assert max(len(np.unique(row)) for row in weight.reshape(len(weight), -1)) <= 15


def test_a_checkpoint_of_other_regressors_is_refused(tmp_path):
    student = network(1)
    distilled(student, wider(), checkpoint=tmp_path / "c.npz")
    with pytest.raises(minicnn.training.CheckpointError, match=r"loss 'Hints.0.weight'"):
        trained(student, resume=tmp_path / "c.npz", validation=loader())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "temperature > 0, got 0"),
        ({"temperature": float("nan")}, "temperature > 0"),
        ({"alpha": 1.5}, r"alpha in \[0, 1\], got 1.5"),
        ({"teacher": []}, "one teacher or more"),
    ],
)
def test_bad_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Distillation(**{"teacher": network()} | arguments)


def test_a_teacher_that_does_not_fit_is_named():
    with pytest.raises(TypeError, match="can be called, got str"):
        Distillation("teacher.npz")
    with pytest.raises(ValueError, match=r"the teacher gave \(6, 5\) where the student gives \(6, 2\)"):
        Distillation(lambda x: np.zeros((6, 5), np.float32))(minicnn.zeros(6, 2), None, pictures())
    student, teacher = network(), wider()
    hints = Hints(student, teacher, {"0": "0"}, pictures(2))
    with pytest.raises(ValueError, match="Hints was made with another teacher"):
        Distillation(network(), hints=hints)


def test_layers_that_do_not_exist_or_fit_are_named_and_leave_no_hooks():
    student, teacher = network(), wider()
    minicnn_layers = nn.Sequential({"conv1": nn.Conv2d(1, 4, 3), "flatten": nn.Flatten()})
    with pytest.raises(ValueError, match=r"no layer 'cov1'; did you mean 'conv1'\?"):
        AttentionTransfer(student, minicnn_layers, {"0": "cov1"})
    with pytest.raises(ValueError, match="Hints: expected features of one kind"):
        Hints(student, teacher, {"0": "4"}, pictures(2))
    with pytest.raises(ValueError, match="expected pairs of layers"):
        AttentionTransfer(student, teacher, {})
    with pytest.raises(ValueError, match="weight of at least 0"):
        AttentionTransfer(student, teacher, {"0": "0"}, weight=-1)
    assert not any(module._forward_hooks for one in (student, teacher) for module in one.modules())
    term = AttentionTransfer(student, teacher, {"4": "4"})
    with pytest.raises(RuntimeError, match="has not run"):
        term()
    for model in (student, teacher):
        model(pictures())
    with pytest.raises(ValueError, match=r"features \(N, C, H, W\), got \(6, 2\) from the pair '4': '4'"):
        term()
    with pytest.raises(RuntimeError, match="has not run since"):  # features are taken once
        term()
