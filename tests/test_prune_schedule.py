"""Pruning while a model trains: the polynomial schedule, dynamic surgery, proximal steps, lottery tickets."""

import copy

import numpy as np
import pytest
from test_checkpoint import CrashAt, Stop
from test_training import loader, stripes, trained

import minicnn
from minicnn import nn, optim
from minicnn.compress import (
    PolynomialPruning,
    Proximal,
    Rewind,
    Surgery,
    iterative_pruning,
    lottery_ticket,
    masks,
    prune,
    prune_below,
    set_masks,
    sparsities,
    sparsity,
)
from minicnn.nn.transform import attached, find, raw
from minicnn.training import Callback, CheckpointError

BATCHES = 4  # 64 images in batches of 16


pytestmark = pytest.mark.usefixtures("one_thread")


def net(seed=0):
    minicnn.manual_seed(seed)
    return nn.Sequential(
        {
            "conv": nn.Conv2d(1, 4, 3, padding=1),
            "bn": nn.BatchNorm2d(4),
            "relu": nn.ReLU(),
            "pool": nn.MaxPool2d(2),
            "flatten": nn.Flatten(),
            "drop": nn.Dropout(0.2),
            "fc": nn.Linear(64, 2),
        }
    )


def state(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def assert_same_state(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def used(model, name):
    return model.get_submodule(name).weight.detach().numpy()


class Watch(Callback):
    """What `look(model)` says after each batch."""

    def __init__(self, look):
        self.look, self.seen = look, []

    def on_batch(self, run):
        self.seen.append(self.look(run.model))


def assert_resumes_bit_for_bit(make_callback, tmp_path, moments, epochs=4, **options):
    """A training that crashes at any of `moments` (epoch, batch), and goes on, ends with the same bits."""
    options = {"epochs": epochs} | options

    def run(model, *more, **extra):
        adam = optim.Adam(model.parameters(), lr=0.01)
        return trained(model, optimizer=adam, callbacks=[make_callback(), *more], **options, **extra)

    whole = net(0)
    minicnn.manual_seed(5)
    run(whole)
    for moment in moments:
        path = tmp_path / f"{moment[0]}-{moment[1]}.npz"
        crashed = net(0)
        minicnn.manual_seed(5)
        with pytest.raises(Stop):
            run(crashed, CrashAt(*moment), checkpoint=path, checkpoint_every="1 batch")
        rest = net(9)
        run(rest, resume=path)
        assert_same_state(state(whole), state(rest))
        assert [m.transform.hard for m in attached(whole, "mask")] == [
            m.transform.hard for m in attached(rest, "mask")
        ]
    return whole


# -- polynomial -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "every"),
    [(0, 3, "1 epoch"), (1, 3, "1 batch"), (0, 2, "3 batches"), (0.5, 2.5, "2 batches"), (1, 2, "5 epochs")],
)
def test_the_rate_follows_the_polynomial_and_ends_exactly(start, end, every):
    model, watch = net(), Watch(lambda m: sparsities(m)["fc"])
    trained(model, epochs=4, callbacks=[PolynomialPruning(start, end, 0.2, 0.9, every=every), watch])
    number, unit = every.split()
    interval = int(number) * (BATCHES if unit.startswith("epoch") else 1)
    first, last = round(start * BATCHES), round(end * BATCHES)
    expected, rate = [], 0.2 if start == 0 else 0.0
    for t in range(1, 4 * BATCHES + 1):
        if t == last or (first <= t < last and (t - first) % interval == 0):
            rate = 0.9 - 0.7 * (1 - (t - first) / (last - first)) ** 3
        expected.append(round(rate * 128) / 128)
    assert watch.seen == expected
    assert sparsities(model) == {"conv": round(0.9 * 36) / 36, "fc": round(0.9 * 128) / 128}


def test_power_one_is_a_straight_line_and_final_rates_may_differ_by_layer():
    schedule = PolynomialPruning(2, 6, 0.1, {"conv": 0.5, "fc": 0.9}, power=1)
    assert schedule.rate_at(4) == pytest.approx({"conv": 0.3, "fc": 0.5})
    assert schedule.rate_at(6) == schedule.rate_at(99) == {"conv": 0.5, "fc": 0.9}
    model = net()
    trained(model, epochs=2, callbacks=[PolynomialPruning(0, 2, 0.0, {"fc": 0.75})])
    assert list(masks(model)) == ["fc"]
    assert sparsities(model) == {"conv": 0.0, "fc": 0.75}


@pytest.mark.parametrize("options", [{}, {"score": "random", "seed": 3}, {"hard": False}, {"unit": "filter"}])
def test_a_pruning_training_resumes_bit_for_bit(tmp_path, options):
    rate = 0.5 if "unit" in options else 0.9
    whole = assert_resumes_bit_for_bit(
        lambda: PolynomialPruning(0, 3, 0.0, rate, every="3 batches", **options),
        tmp_path,
        [(0, 2), (1, 4), (2, 1)] if not options else [(1, 3)],
    )
    expected = {"conv": 0.5, "fc": 0.0} if "unit" in options else {"conv": 32 / 36, "fc": 115 / 128}
    assert sparsities(whole) == expected


def test_validation_sees_the_model_that_is_saved(tmp_path):
    """Masks are set before validation, so that the accuracy that a checkpoint is kept for is its own."""
    seen = []

    class AfterEpoch(Callback):
        def on_epoch(self, run):
            model = copy.deepcopy(run.model)
            again = minicnn.evaluate(model, loader(stripes(32, seed=1))).loss
            seen.append((run.history[-1]["validation_loss"], again))

    trained(
        net(),
        epochs=3,
        compile=False,
        validation=loader(stripes(32, seed=1)),
        callbacks=[PolynomialPruning(0, 3, 0.0, 0.9), AfterEpoch()],
    )
    for reported, again in seen:
        assert reported == pytest.approx(again, rel=1e-6)


def test_a_checkpoint_of_another_schedule_is_refused_and_the_model_untouched(tmp_path):
    path = tmp_path / "c.npz"
    trained(net(), callbacks=[PolynomialPruning(0, 2, 0.0, 0.9)], checkpoint=path)
    model = net(3)
    before = state(model)
    with pytest.raises(CheckpointError, match=r"PolynomialPruning\.final is 0\.9 in the checkpoint and 0\.8"):
        trained(model, callbacks=[PolynomialPruning(0, 2, 0.0, 0.8)], resume=path)
    assert list(model.state_dict()) == list(before), "no mask is left behind"
    for name, value in before.items():
        np.testing.assert_array_equal(value, model.state_dict()[name].numpy())


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3, 3, 0.0, 0.9), {}, "expected 0 <= start < end, got start=3, end=3"),
        ((0, 3, 0.0, 1.0), {}, r"PolynomialPruning: rate must be a number in \[0, 1\), got 1.0"),
        ((0, 3, 0.5, 0.4), {}, r"final 0\.4 lies below initial 0\.5"),
        ((0, 3, 0.0, {"fc": 1.5}), {}, "got 1.5"),
        ((0, 3, 0.0, 0.9), {"power": 0}, "expected power > 0"),
        ((0, 3, 0.0, 0.9), {"every": "often"}, "expected '1 epoch'"),
        ((0, 3, 0.0, 0.9), {"every": "9 seconds"}, "in epochs or batches, not seconds"),
        ((0, 3, 0.0, 0.9), {"unit": "2:4"}, "n:m is one rate"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        PolynomialPruning(*arguments, **options)


def test_an_option_that_prune_does_not_have_is_refused_at_once():
    with pytest.raises(TypeError, match="scroe"):
        PolynomialPruning(0, 3, 0.0, 0.9, scroe="l1")


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (lambda: PolynomialPruning(0, 9, 0.0, 0.9), "ends after epoch 9, but training after 3"),
        (lambda: PolynomialPruning(0, 2, 0.0, 0.9, layers=["cnov"]), "no layer 'cnov'; did you mean 'conv'"),
        (lambda: Surgery(0.5, layers=["fd"]), "no layer 'fd'; did you mean 'fc'"),
        (lambda: Proximal(0.1, layers=["fd"]), "no layer 'fd'; did you mean 'fc'"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_the_first_batch(callback, message):
    model = net()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        trained(model, callbacks=[callback()])
    assert_same_state(before, state(model))


def test_iterative_pruning_retrains_after_each_rate():
    model = net()

    def retrain(m):
        before = sparsity(m)
        trained(m, epochs=1)
        return before, sparsity(m)

    results = iterative_pruning(model, (0.5, 0.75), retrain)
    assert results == [(82 / 164, 82 / 164), (123 / 164, 123 / 164)]


def test_iterative_pruning_checks_all_rates_before_it_trains():
    with pytest.raises(ValueError, match="iterative_pruning: rate must be"):
        iterative_pruning(net(), (0.5, 1.5), lambda m: pytest.fail("trained"))


# -- surgery --------------------------------------------------------------------------------------


def test_surgery_cuts_below_and_splices_above_its_two_thresholds():
    model = net()
    start = np.abs(used(model, "fc")).astype(np.float64)
    t = start.mean() + 0.3 * start.std()
    looks = Watch(lambda m: (np.abs(raw(m.fc, "weight").detach().numpy()), masks(m)["fc"]))
    trained(model, epochs=3, callbacks=[Surgery(0.3, gamma=0.0, layers=["fc"]), looks])
    keep = np.ones((2, 64), bool)
    for magnitude, after in looks.seen:
        keep = np.where(magnitude <= 0.9 * t, False, np.where(magnitude > 1.1 * t, True, keep))
        np.testing.assert_array_equal(after, keep)
    grown = [(b[1] & ~a[1]).any() for a, b in zip(looks.seen, looks.seen[1:], strict=False)]
    assert any(grown), "nothing came back, so the test shows little"
    assert find(model.fc, "weight", "mask").hard
    assert not raw(model.fc, "weight").detach().numpy()[~keep].any()


def test_surgery_becomes_rarer_and_stops():
    changes = Watch(lambda m: masks(m)["fc"])
    trained(net(), epochs=4, callbacks=[Surgery(0.3, gamma=1e9, layers=["fc"]), changes])
    assert all(keep.all() for keep in changes.seen), "with probability 1e-9 nothing happens"

    model, looks = net(), Watch(lambda m: (masks(m)["fc"], find(m.fc, "weight", "mask").hard))
    trained(model, epochs=4, callbacks=[Surgery(0.3, gamma=0.0, stop=1.5, layers=["fc"]), looks])
    assert [hard for _, hard in looks.seen] == [False] * 5 + [True] * 11
    for keep, _ in looks.seen[6:]:
        np.testing.assert_array_equal(keep, looks.seen[5][0])


@pytest.mark.parametrize("stop", [None, 2])
def test_surgery_resumes_bit_for_bit(tmp_path, stop):
    whole = assert_resumes_bit_for_bit(
        lambda: Surgery({"conv": 0.0, "fc": 0.3}, gamma=0.1, stop=stop, seed=4),
        tmp_path,
        [(0, 3), (2, 1), (3, 2)],
        clip_norm=0.1,  # where masks are soft, gradients behind them count
    )
    assert 0.2 < sparsity(whole) < 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"c": 0.5, "margin": 1.0}, "margin must be a number in"),
        ({"c": 0.5, "gamma": -1}, "expected gamma and power of at least 0"),
        ({"c": 0.5, "stop": 0}, "stop must be a number of epochs above 0"),
        ({"c": {"fc": 0.5}, "layers": ["fc"]}, "c by layer excludes layers="),
    ],
)
def test_surgery_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        Surgery(**options)


def test_surgery_that_would_cut_everything_is_refused():
    with pytest.raises(ValueError, match="c=99 would prune all of layer 'conv'"):
        trained(net(), callbacks=[Surgery(99)])


# -- proximal -------------------------------------------------------------------------------------


def test_a_proximal_step_is_the_soft_threshold_of_the_plain_step():
    lr, amount = 0.1, 0.3
    plain, sparse = net(), net()
    for model, callbacks in ((plain, []), (sparse, [Proximal(amount, layers=["fc"])])):
        minicnn.manual_seed(1)
        batches = [next(iter(loader()))]
        trained(model, batches, epochs=1, callbacks=callbacks, optimizer=optim.SGD(model.parameters(), lr=lr))
    w = used(plain, "fc")
    expected = np.sign(w) * np.maximum(np.abs(w) - np.float32(lr * amount), 0)
    np.testing.assert_allclose(used(sparse, "fc"), expected, rtol=1e-6, atol=1e-8)
    assert (used(sparse, "fc") == 0).sum() > 20
    np.testing.assert_array_equal(used(sparse, "conv"), used(plain, "conv"))


def test_proximal_gradient_descent_finds_the_lasso():
    """With squared error and decorrelated inputs it is known: the soft threshold of the regression."""
    rng = np.random.default_rng(0)
    x, _ = np.linalg.qr(rng.standard_normal((64, 8)))
    x = (x * 8).astype(np.float32)  # x^T x / 64 is the identity
    y = (x @ np.array([2, -1, 0.3, 0.1, 0, 0, -0.2, 1])[:, None] + rng.standard_normal((64, 1)) * 0.1).astype(
        "f"
    )
    model = nn.Sequential(nn.Linear(8, 1, bias=False))
    batches = [(minicnn.tensor(x), minicnn.tensor(y))]
    half = lambda output, target: (output - target).square().mean() * 0.5  # noqa: E731
    sgd = optim.SGD(model.parameters(), lr=0.5)
    trained(model, batches, epochs=60, loss=half, optimizer=sgd, callbacks=[Proximal(0.25)])
    regression = x.T @ y / 64
    expected = np.sign(regression) * np.maximum(np.abs(regression) - 0.25, 0)
    np.testing.assert_allclose(used(model, "0"), expected.T, atol=1e-5)
    assert (used(model, "0") == 0).sum() == 4
    prune_below(model, 0)
    assert (~masks(model)["0"]).sum() == 4


def test_proximal_steps_on_scales_silence_channels():
    model = net()
    trained(model, epochs=3, callbacks=[Proximal(1.5, of="bn_scale")])
    gamma = used(model, "bn")
    assert 0 < (gamma == 0).sum() <= 4
    assert (used(model, "fc") != 0).all()


def test_proximal_leaves_what_is_frozen():
    model = net()
    raw(model.conv, "weight").requires_grad_(False)
    before = used(model, "conv").copy()
    trained(
        model,
        optimizer=optim.SGD(model.fc.parameters(), lr=0.1),
        callbacks=[Proximal(0.5)],
    )
    np.testing.assert_array_equal(used(model, "conv"), before)


def test_proximal_training_resumes_bit_for_bit(tmp_path):
    assert_resumes_bit_for_bit(lambda: Proximal(0.5), tmp_path, [(1, 2)], epochs=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"amount": -1}, "amount must be a number of at least 0"), ({"amount": 1, "of": "bias"}, "of='weight'")],
)
def test_proximal_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        Proximal(**options)


# -- lottery tickets ------------------------------------------------------------------------------


class Begin(Callback):
    """The state of each training before its first batch."""

    def __init__(self):
        self.states, self.moments = [], []

    def on_start(self, run):
        momentum = {
            i: entries["momentum_buffer"].numpy().copy()
            for i, entries in run.optimizer.state_dict()["state"].items()
        }
        self.states.append((state(run.model), momentum, minicnn.get_rng_state()))
        self.moments.append((run.epoch, run.batch))


@pytest.mark.parametrize("rewind_epoch", [0, 2])
def test_a_ticket_is_rewound_to_the_bit(rewind_epoch):
    begin, kept = Begin(), []

    class Keep(Callback):
        def on_start(self, run):
            self.on_epoch(run)

        def on_epoch(self, run):
            if not kept and run.epoch == rewind_epoch:
                kept.append(state(run.model))

    def train(model, callbacks):
        history = trained(model, epochs=4, callbacks=[*callbacks, begin, Keep()])
        return len(history), state(model)

    lottery = lottery_ticket(lambda: net(3), train, rounds=2, rate=0.5, rewind_epoch=rewind_epoch)
    assert [round(ticket.sparsity, 3) for ticket in lottery.tickets] == [0, 0.5, 0.75]
    assert begin.moments == [(0, 0), (rewind_epoch, 0), (rewind_epoch, 0)]
    first, second = begin.states[1:]
    assert first[2] == second[2]
    for (start, momentum, _), ticket in zip((first, second), lottery.tickets[1:], strict=True):
        assert len(momentum) == (6 if rewind_epoch else 0)
        for name, value in kept[0].items():
            layer = name.removesuffix(".weight")
            keep = ticket.masks.get(layer) if name.endswith(".weight") else None
            expected = value if keep is None else np.where(keep, value, 0)
            np.testing.assert_array_equal(start[name], expected, err_msg=name)
    assert [ticket.result[0] for ticket in lottery.tickets] == [4, 4, 4]
    for ticket in lottery.tickets[1:]:
        for layer, keep in ticket.masks.items():
            assert not ticket.result[1][f"{layer}.weight"][~keep].any()


def test_an_unpruned_rerun_of_a_rewound_training_is_the_same_training():
    model, rewind = net(), Rewind(1)
    trained(model, epochs=3, callbacks=[rewind])
    first = state(model)
    trained(model, epochs=3, callbacks=[rewind])
    assert_same_state(first, state(model))


def test_a_tickets_masks_fit_a_fresh_model():
    lottery = lottery_ticket(net, lambda m, c: trained(m, epochs=1, callbacks=c), rounds=1, rate={"fc": 0.5})
    control = net(7)
    set_masks(control, lottery.tickets[-1].masks)
    assert sparsities(control) == {"conv": 0.0, "fc": 0.5}


def test_a_lottery_whose_training_ignores_the_callbacks_is_told_so():
    with pytest.raises(ValueError, match="train did not give its callbacks to fit"):
        lottery_ticket(net, lambda model, callbacks: None, rounds=1)


def test_a_lottery_checks_its_rate_before_it_trains():
    with pytest.raises(ValueError, match="lottery_ticket: rate must be"):
        lottery_ticket(net, lambda model, callbacks: pytest.fail("trained"), rounds=1, rate=1.2)


def test_masks_of_an_earlier_pruning_hold_in_every_schedule():
    model = net()
    prune(model, 0.5)
    first = masks(model)
    trained(model, epochs=2, callbacks=[PolynomialPruning(0, 2, 0.5, 0.8)])
    for name, keep in masks(model).items():
        assert not (keep & ~first[name]).any()
