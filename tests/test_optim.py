"""Optimizers and schedules: equal to PyTorch's step by step, exact after a resume, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minicnn
from minicnn import nn, optim
from minicnn.optim import lr_scheduler


def start(seed=0):
    """A matrix in the memory order of weights and a vector, both to be trained."""
    rng = np.random.default_rng(seed)
    weight = nn.init.empty_weight((4, 3))
    weight[...] = rng.standard_normal((4, 3))
    return nn.Parameter(weight), nn.Parameter(rng.standard_normal(5).astype(np.float32))


def gradients(step):
    rng = np.random.default_rng(100 + step)
    return rng.standard_normal((4, 3)).astype(np.float32), rng.standard_normal(5).astype(np.float32)


def run(optimizer, params, steps):
    for step in steps:
        for p, g in zip(params, gradients(step), strict=True):
            p.grad = minicnn.tensor(g)
        optimizer.step()


OPTIMIZERS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.1}),
    ("Adam", {"lr": 0.1, "amsgrad": True, "maximize": True}),
    ("AdamW", {"lr": 0.1}),
    ("AdamW", {"lr": 0.1, "amsgrad": True, "weight_decay": 0.3}),
    ("RMSprop", {"lr": 0.05}),
    ("RMSprop", {"lr": 0.05, "momentum": 0.9, "centered": True, "weight_decay": 0.1}),
]


@pytest.mark.peers
@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_ten_steps_equal_pytorchs(name, options):
    torch = pytest.importorskip("torch")
    params = start()
    theirs = [torch.nn.Parameter(torch.tensor(p.detach().numpy().copy())) for p in params]
    ours, reference = getattr(optim, name)(params, **options), getattr(torch.optim, name)(theirs, **options)
    for step in range(10):
        run(ours, params, [step])
        for q, g in zip(theirs, gradients(step), strict=True):
            q.grad = torch.tensor(g)
        reference.step()
        for p, q in zip(params, theirs, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.peers
def test_defaults_are_pytorchs():
    torch = pytest.importorskip("torch")
    for name in ("SGD", "Adam", "AdamW", "RMSprop"):
        ours = getattr(optim, name)(start()).defaults
        theirs = getattr(torch.optim, name)([torch.zeros(1)]).defaults
        assert {key: theirs[key] for key in ours if key != "l1"} == {
            k: v for k, v in ours.items() if k != "l1"
        }


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_a_resumed_optimizer_continues_bit_for_bit(name, options, tmp_path):
    params = start()
    optimizer = getattr(optim, name)(params, **options)
    run(optimizer, params, range(3))
    minicnn.save(
        {"params": [p.detach() for p in params], "optimizer": optimizer.state_dict()}, tmp_path / "s"
    )
    run(optimizer, params, range(3, 6))

    state = minicnn.load(tmp_path / "s")
    resumed = start(seed=9)
    with minicnn.no_grad():
        for p, value in zip(resumed, state["params"], strict=True):
            p.copy_(value)
    other = getattr(optim, name)(resumed, lr=7.0)
    other.load_state_dict(state["optimizer"])
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    run(other, resumed, range(3, 6))
    for p, q in zip(params, resumed, strict=True):
        assert p.detach().numpy().tobytes() == q.detach().numpy().tobytes()


def test_saved_state_does_not_follow_later_steps_once_loaded():
    params = start()
    optimizer = optim.SGD(params, 0.1, momentum=0.9)
    run(optimizer, params, [0])
    other = optim.SGD(start(), 0.1, momentum=0.9)
    other.load_state_dict(optimizer.state_dict())
    before = other.state[other.param_groups[0]["params"][0]]["momentum_buffer"].copy()
    run(optimizer, params, [1])
    np.testing.assert_array_equal(other.state[other.param_groups[0]["params"][0]]["momentum_buffer"], before)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    params = start()
    optimizer = optim.SGD(params, 0.1, momentum=0.9)
    run(optimizer, params, [0])
    state = optimizer.state_dict()
    one = optim.SGD(params[:1], 0.5)
    with pytest.raises(ValueError, match=r"expected parameter groups of \[1\] tensors, got \[2\]"):
        one.load_state_dict(state)
    swapped = optim.SGD(params[::-1], 0.5)
    with pytest.raises(
        ValueError, match=r"momentum_buffer of parameter 0: expected shape \(5,\), got \(4, 3\)"
    ):
        swapped.load_state_dict(state)
    assert swapped.param_groups[0]["lr"] == 0.5
    with pytest.raises(ValueError, match="options amsgrad, betas, eps are missing"):
        optim.Adam(params).load_state_dict(state)


def test_parameters_without_a_gradient_are_left_alone():
    a, b = start()
    before = b.detach().numpy().copy()
    optimizer = optim.Adam([a, b], weight_decay=0.1)
    a.grad = minicnn.tensor(gradients(0)[0])
    optimizer.step()
    np.testing.assert_array_equal(b.detach().numpy(), before)
    assert list(optimizer.state) == [a]


def test_a_step_between_forward_and_backward_is_seen():
    weight, _ = start()
    loss = (weight * weight).sum()
    weight.grad = minicnn.tensor(gradients(0)[0])
    optim.SGD([weight], 0.1).step()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_a_closure_computes_the_loss_anew():
    weight, _ = start()
    optimizer = optim.SGD([weight], 0.1)

    def closure():
        optimizer.zero_grad()
        loss = (weight * weight).sum()
        loss.backward()
        return loss

    with minicnn.no_grad():
        losses = [optimizer.step(closure).item() for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]


def test_groups_have_options_of_their_own():
    a, b = start()
    optimizer = optim.SGD([{"params": a, "lr": 1.0}], lr=0.1)
    optimizer.add_param_group({"params": [b]})
    before = [p.detach().numpy().copy() for p in (a, b)]
    run(optimizer, (a, b), [0])
    for p, old, g, lr in zip((a, b), before, gradients(0), (1.0, 0.1), strict=True):
        np.testing.assert_allclose(p.detach().numpy(), old - np.float32(lr) * g, rtol=1e-6)
    assert "lr: 0.1" in repr(optimizer)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: optim.SGD(p, lr=-1), ValueError, "SGD: lr must be at least 0, got -1"),
        (lambda p: optim.SGD(p, nesterov=True), ValueError, "SGD: nesterov must be False without momentum"),
        (lambda p: optim.SGD(p, weight_decay=-1), ValueError, "SGD: weight_decay"),
        (lambda p: optim.SGD(p, lr=math.nan), ValueError, "SGD: lr must be at least 0, got nan"),
        (
            lambda p: optim.Adam(p, betas=(0.9, 1.0)),
            ValueError,
            r"Adam: betas must be two numbers in \[0, 1\)",
        ),
        (lambda p: optim.RMSprop(p, alpha=2), ValueError, r"RMSprop: alpha must be in \[0, 1\], got 2"),
        (lambda p: optim.SGD([]), ValueError, "nothing to optimize"),
        (lambda p: optim.SGD(p[0]), TypeError, "got a single Parameter"),
        (lambda p: optim.SGD([1.0]), TypeError, "can only optimize tensors, got float"),
        (lambda p: optim.SGD([p[0], p[0]]), ValueError, r"shape \(4, 3\) appears twice"),
        (lambda p: optim.SGD([p[0] * 2]), ValueError, "can only optimize leaves, got the result of Mul"),
        (lambda p: optim.SGD([{"params": p, "momentun": 1}]), TypeError, "unknown option 'momentun'"),
        (lambda p: optim.SGD(p, foreach=True), TypeError, "foreach"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make(list(start()))


# -- clipping -------------------------------------------------------------------------------------


def with_gradients():
    params = start()
    for p, g in zip(params, gradients(0), strict=True):
        p.grad = minicnn.tensor(g)
    return params


@pytest.mark.peers
@pytest.mark.parametrize(("limit", "norm_type"), [(1.0, 2.0), (100.0, 2.0), (0.5, math.inf)])
def test_clipping_by_norm_equals_pytorchs(limit, norm_type):
    torch = pytest.importorskip("torch")
    params = with_gradients()
    theirs = [torch.zeros(p.shape, requires_grad=True) for p in params]
    for q, g in zip(theirs, gradients(0), strict=True):
        q.grad = torch.tensor(g)
    total = optim.clip_grad_norm_(params, limit, norm_type)
    expected = torch.nn.utils.clip_grad_norm_(theirs, limit, norm_type)
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    for p, q in zip(params, theirs, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-5)


def test_clipping_by_value_limits_every_element():
    params = with_gradients()
    nn.utils.clip_grad_value_(params, 0.5)
    for p, g in zip(params, gradients(0), strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), np.clip(g, -0.5, 0.5))


def test_a_norm_that_is_not_finite_is_told_on_request_and_never_hidden():
    params = with_gradients()
    params[0].grad[0, 0] = math.nan
    with pytest.raises(RuntimeError, match="the gradients' norm is nan"):
        optim.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    assert math.isnan(optim.clip_grad_norm_(params, 1.0, math.inf).item())
    assert np.isnan(params[1].grad.numpy()).all()


def test_clipping_refuses_negative_limits_and_other_norms():
    with pytest.raises(ValueError, match="max_norm must be a number of at least 0, got -1"):
        optim.clip_grad_norm_(with_gradients(), -1)
    with pytest.raises(ValueError, match="norm_type must be 2 or infinity, got 3"):
        optim.clip_grad_norm_(with_gradients(), 1, 3)
    with pytest.raises(ValueError, match="clip_value must be a number of at least 0, got -1"):
        optim.clip_grad_value_(with_gradients(), -1)


# -- schedules ------------------------------------------------------------------------------------

SCHEDULES = [
    ("StepLR", {"step_size": 3, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [2, 5, 5]}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("CosineAnnealingLR", {"T_max": 6, "eta_min": 0.01}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2, "eta_min": 0.01}),
    ("CosineAnnealingWarmRestarts", {"T_0": 4}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 0.1, "end_factor": 0.5, "total_iters": 4}),
    ("LambdaLR", {"lr_lambda": lambda step: 1 / (1 + step)}),
    ("LambdaLR", {"lr_lambda": [lambda step: 0.9**step, lambda step: 1]}),
    ("OneCycleLR", {"max_lr": 2.0, "total_steps": 20}),
    ("OneCycleLR", {"max_lr": [2.0, 1.0], "epochs": 4, "steps_per_epoch": 5, "anneal_strategy": "linear"}),
    ("OneCycleLR", {"max_lr": 2.0, "total_steps": 20, "three_phase": True, "pct_start": 0.4}),
    ("OneCycleLR", {"max_lr": 2.0, "total_steps": 20, "cycle_momentum": False}),
]


def two_groups(library, tensors, name="SGD"):
    momentum = {"momentum": 0.9} if name == "SGD" else {}
    a, b = tensors
    groups = [{"params": [a], "lr": 0.5}, {"params": [b]}]
    return getattr(library, name)(groups, lr=0.1, **momentum)


@pytest.mark.peers
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize(("name", "options"), SCHEDULES)
def test_learning_rates_equal_pytorchs_step_by_step(name, options, optimizer):
    torch = pytest.importorskip("torch")
    ours = two_groups(optim, start(), optimizer)
    theirs = two_groups(torch.optim, [torch.zeros(1), torch.zeros(1)], optimizer)
    schedule = getattr(lr_scheduler, name)(ours, **options)
    reference = getattr(torch.optim.lr_scheduler, name)(theirs, **options)
    for _ in range(20):
        assert schedule.get_last_lr() == pytest.approx(reference.get_last_lr(), rel=1e-9)
        for group, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            for key in ("lr", "momentum", "betas"):
                assert key not in group or group[key] == pytest.approx(other[key], rel=1e-9)
        theirs.step()
        schedule.step()
        reference.step()


@pytest.mark.peers
def test_a_warm_up_followed_by_cosine_equals_pytorchs():
    torch = pytest.importorskip("torch")

    def build(library, schedules, tensors):
        optimizer = two_groups(library, tensors)
        parts = [
            schedules.LinearLR(optimizer, 0.1, total_iters=3),
            schedules.CosineAnnealingLR(optimizer, 8),
            schedules.ExponentialLR(optimizer, 0.5),
        ]
        return optimizer, schedules.SequentialLR(optimizer, parts, milestones=[3, 11])

    _, schedule = build(optim, lr_scheduler, start())
    theirs, reference = build(torch.optim, torch.optim.lr_scheduler, [torch.zeros(1), torch.zeros(1)])
    for _ in range(16):
        assert schedule.get_last_lr() == pytest.approx(reference.get_last_lr(), rel=1e-9)
        theirs.step()
        schedule.step()
        reference.step()


@pytest.mark.peers
@pytest.mark.parametrize(
    "options",
    [
        {"factor": 0.5, "patience": 2},
        {"mode": "max", "patience": 1, "threshold": 0.05, "threshold_mode": "abs", "cooldown": 2},
        {"mode": "max", "patience": 0, "min_lr": [0.01, 0.001]},
        {"patience": 0, "factor": 0.9, "eps": 0.02},
    ],
)
def test_plateau_equals_pytorchs(options):
    torch = pytest.importorskip("torch")
    ours, theirs = two_groups(optim, start()), two_groups(torch.optim, [torch.zeros(1), torch.zeros(1)])
    schedule = lr_scheduler.ReduceLROnPlateau(ours, **options)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    for measure in (
        1,
        0.9,
        0.9,
        0.95,
        0.91,
        0.9,
        0.5,
        0.6,
        0.61,
        0.62,
        math.nan,
        0.7,
        0.4,
        0.8,
        0.9,
        -0.5,
        1.2,
    ):
        schedule.step(measure)
        reference.step(measure)
        assert schedule.get_last_lr() == pytest.approx(reference.get_last_lr(), rel=1e-12)


def all_schedules():
    for name, options in SCHEDULES:
        yield (
            name,
            lambda optimizer, name=name, options=options: getattr(lr_scheduler, name)(optimizer, **options),
        )
    yield (
        "SequentialLR",
        lambda optimizer: lr_scheduler.SequentialLR(
            optimizer,
            [lr_scheduler.LinearLR(optimizer), lr_scheduler.StepLR(optimizer, 2)],
            milestones=[4],
        ),
    )


@pytest.mark.parametrize(
    "make", [make for _, make in all_schedules()], ids=[name for name, _ in all_schedules()]
)
def test_a_resumed_schedule_continues_exactly(make, tmp_path):
    optimizer = two_groups(optim, start())
    schedule = make(optimizer)
    for _ in range(5):
        schedule.step()
    minicnn.save([optimizer.state_dict(), schedule.state_dict()], tmp_path / "s")
    other = two_groups(optim, start())
    resumed = make(other)
    for target, state in zip((other, resumed), minicnn.load(tmp_path / "s"), strict=True):
        target.load_state_dict(state)
    for _ in range(6):
        assert resumed.get_last_lr() == schedule.get_last_lr()
        schedule.step()
        resumed.step()


def test_a_resumed_plateau_continues_exactly():
    optimizer = two_groups(optim, start())
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)
    for measure in (3, 2, 2, 2):
        schedule.step(measure)
    other = two_groups(optim, start())
    resumed = lr_scheduler.ReduceLROnPlateau(other, patience=2)
    resumed.load_state_dict(schedule.state_dict())
    resumed.step(2)
    assert other.param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda o: lr_scheduler.StepLR(o, 0),
            ValueError,
            "StepLR: step_size must be an integer of at least 1",
        ),
        (
            lambda o: lr_scheduler.LinearLR(o, 0),
            ValueError,
            r"LinearLR: start_factor must be in \(0, 1\], got 0",
        ),
        (lambda o: lr_scheduler.OneCycleLR(o, 1.0), ValueError, "give total_steps, or epochs and steps"),
        (lambda o: lr_scheduler.OneCycleLR(o, [1.0], 9), ValueError, "expected 2 values of max_lr, got 1"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, "least"), ValueError, "mode must be 'min' or 'max'"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=1), ValueError, r"factor must be in \[0, 1\)"),
        (lambda o: lr_scheduler.SequentialLR(o, [], []), ValueError, "one milestone less"),
        (lambda o: lr_scheduler.LambdaLR(o, [abs]), ValueError, "expected 2 functions, got 1"),
        (lambda o: lr_scheduler.StepLR(3, 1), TypeError, "expected an optimizer, got int"),
    ],
)
def test_a_bad_schedule_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(two_groups(optim, start()))


def test_one_cycle_ends_with_a_clear_error():
    schedule = lr_scheduler.OneCycleLR(two_groups(optim, start()), 1.0, total_steps=3)
    for _ in range(3):
        schedule.step()
    with pytest.raises(ValueError, match="step 4 lies behind the last one, total_steps=3"):
        schedule.step()
