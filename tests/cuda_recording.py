"""Steps recorded and repeated on device "cuda": python tests/cuda_recording.py NAME, in the simulator.

`test_cuda_recording.py` runs each in a process of its own. A repetition is compared with the function itself,
bit for bit. What a GPU captures as a graph is the very record that the simulator repeats.
"""

from __future__ import annotations

import copy
import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any

import cuda_step
import numpy as np

import minicnn
import minicnn_kernels as kernels
from minicnn import compress, graph, nn, optim
from minicnn_kernels.cuda import driver, maps, storage

rng = np.random.default_rng(0)
BATCHES = [
    tuple(
        minicnn.tensor(array).cuda()
        for array in (rng.standard_normal((n, 1, 6, 6), np.float32), rng.integers(0, 5, n))
    )
    for n in (4, 4, 3, 4, 4, 3, 3, 4)
]


@functools.cache
def fresh() -> nn.Module:
    minicnn.manual_seed(0)
    with kernels.use("reference"):
        return nn.Sequential(
            nn.Conv2d(1, 3, kernel_size=3, stride=2),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(3 * 2 * 2, 5),
        )


def network() -> nn.Module:
    return copy.deepcopy(fresh()).cuda()


Change = Callable[[nn.Module, int], None]


def nothing(*arguments: Any) -> None:
    """Nothing changes but what always does: rates, counts of steps, random numbers."""


def losses(
    model: nn.Module, compiled: bool, change: Change, make: str, update: Callable[..., None]
) -> tuple[list[Any], Any]:
    """(loss of every batch, and all weights and buffers after it; what was compiled).

    change: before batch i. make: the optimizer's name. update: what it does, given optimizer, model and i; an
    attribute `before` of it is called just before.
    """
    forward = minicnn.compile(model)

    def learn(images: Any, labels: Any) -> Any:
        loss = nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        return loss, "learnt"

    optimizer = cuda_step.OPTIMIZERS[make](model.parameters())
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    i = 0

    def move() -> None:
        update(optimizer, model, i)

    step = graph.compile_step(learn, model) if compiled else learn
    turn = graph.compile_update(move, model) if compiled else move
    minicnn.manual_seed(1)
    found: list[Any] = []
    for i, (images, labels) in enumerate(BATCHES):
        change(model, i)
        optimizer.zero_grad()
        seen = model[1].running_mean._version.count
        loss, said = step(images, labels)
        assert said == "learnt"
        assert (model[1].running_mean._version.count > seen) is model.training, "the tape watches buffers"
        found.append(loss.detach())  # read at the end: a result is not overwritten by the next call
        getattr(update, "before", nothing)(optimizer, model, i)
        turn()
        schedule.step()
    state = [value.cpu().numpy() for value in model.state_dict().values()]
    return [*(loss.item() for loss in found), minicnn.get_rng_state(), *state], (step, turn)


def steps(optimizer: optim.Optimizer, model: nn.Module, i: int) -> None:
    optimizer.step()


def both(
    change: Change = nothing, make: str = "adam", update: Callable[..., None] = steps
) -> tuple[Any, Any]:
    """The compiled step and update, which gave what the functions themselves give."""
    expected, _ = losses(network(), False, change, make, update)
    found, compiled = losses(network(), True, change, make, update)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=f"{change.__name__} {update.__name__}")
    return compiled


def same(change: Change = nothing) -> Any:
    """The compiled step of `both`."""
    return both(change)[0]


def a_repetition_has_the_bits_of_the_function() -> None:
    for make in cuda_step.OPTIMIZERS:
        for compiled in both(make=make):
            assert len(compiled.recordings()) == 2, "one for each shape"
            assert all(recording.refusal is None for recording in compiled.recordings())


def an_update_decides_anew_in_every_step() -> None:
    def masks(optimizer: optim.Optimizer, model: nn.Module, i: int) -> None:
        if i == 4:
            compress.prune(model, 0.5)
        optimizer.step()

    def reads(optimizer: optim.Optimizer, model: nn.Module, i: int) -> None:
        optimizer.step()
        if i == 4:  # the bias of this step, not of the one before
            model[1].running_mean.copy_(minicnn.tensor(model[0].bias.tolist()).cuda())

    def restores(optimizer: optim.Optimizer, model: nn.Module, i: int) -> None:
        optimizer.step()

    def restore(optimizer: optim.Optimizer, model: nn.Module, i: int) -> None:
        if i == 4:  # as many launches after it, in other memory
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            spoil_the_pool(model, i)

    def parts(optimizer: optim.Optimizer, model: nn.Module, i: int) -> None:
        optimizer.param_groups[0]["lr"] *= 1 + i
        optimizer.step()
        if i % 2:
            optim.max_norm_(model.parameters(), 0.5)  # memory of its own for every number on the way

    def groups(optimizer: optim.Optimizer, model: nn.Module, i: int) -> None:
        if i == 0:  # two groups with equal numbers, until they are not
            weights = optimizer.param_groups[0]["params"]
            optimizer.param_groups[0]["params"] = weights[:3]
            optimizer.add_param_group({"params": weights[3:]})
        if i == 4:
            optimizer.param_groups[1]["lr"] *= 2
        optimizer.step()

    restores.before = restore
    for update in (masks, reads, restores, parts, groups):
        both(update=update)

    def fails(optimizer: optim.Optimizer, model: nn.Module, i: int) -> None:
        optimizer.step()
        if i == 7:
            raise KeyboardInterrupt

    weights = []
    for compiled in (False, True):
        model = network()
        try:
            losses(model, compiled, nothing, "sgd", fails)
        except KeyboardInterrupt:
            weights.append(model[0].weight.detach().cpu().numpy())
    np.testing.assert_array_equal(*weights)


def spoil_the_pool(model: nn.Module, i: int) -> None:
    """Fill all memory that is not in use with something that would show."""
    maps._uploaded.cache_clear()
    spoilt = [
        kernels.to_device(np.full(elements.size, 77, dtype), "cuda")
        for (dtype, _), unused in list(storage._pool.unused.items())
        for elements in list(unused)
    ]
    del spoilt


def memory_of_a_recording_is_lent_to_nobody() -> None:
    assert len(same(spoil_the_pool).recordings()) == 2


def changes_of_the_model_are_seen() -> None:
    def rebind(model: nn.Module, i: int) -> None:
        if i == 4:  # memory that the recording does not know, and the old one is soon used for other things
            model[-1].weight.data = kernels.of(model[-1].weight.data).copy(model[-1].weight.data)
        spoil_the_pool(model, i)

    def freeze(model: nn.Module, i: int) -> None:
        model[0].weight.requires_grad_(i < 4)

    def option(model: nn.Module, i: int) -> None:
        model[-2].p = 0.25 if i < 4 else 0.5

    def mode(model: nn.Module, i: int) -> None:
        model.train(i not in (2, 4))

    def overwrite(model: nn.Module, i: int) -> None:
        if i == 4:
            model.load_state_dict(fresh().state_dict())

    for change in (rebind, freeze, option, mode, overwrite):
        assert not same(change)._refused, change.__name__

    def always(model: nn.Module, i: int) -> None:
        model.note = object()  # which a forward pass could look at

    assert not same(always).recordings()


def a_gradient_that_is_there_is_added_to() -> None:
    totals = []
    for compiled in (False, True):
        model = network()
        model[-2].p = 0.0

        def learn(images: Any, labels: Any) -> None:
            nn.functional.cross_entropy(model(images), labels).backward()  # noqa: B023

        step = graph.compile_step(learn, model) if compiled else learn
        for first, second in ((0, 1), (3, 4), (4, 7), (7, 0)):
            model.zero_grad()
            step(*BATCHES[first])
            step(*BATCHES[second])
        totals.append(model[0].weight.grad.cpu().numpy())
    np.testing.assert_array_equal(*totals)


def evaluation_is_repeated_too() -> None:
    model = network().eval()

    def answer(images: Any) -> Any:
        with minicnn.no_grad():
            return model(images)

    step = graph.compile_step(answer, model)
    kept = [step(images) for images, _ in BATCHES if len(images) == 4]
    expected = [answer(images) for images, _ in BATCHES if len(images) == 4]
    for ours, theirs in zip(kept, expected, strict=True):
        np.testing.assert_array_equal(ours.cpu().numpy(), theirs.cpu().numpy())
    assert len(step.recordings()) == 1


def without_a_graph_launches_go_one_by_one() -> None:
    """As on a GPU whose driver captures none: what captures is not here."""
    ran: list[int] = []

    class Counted:
        def run(self) -> None:
            ran.append(1)

    driver.SIMULATED = False
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        repeat = driver.repeated([Counted(), Counted()])
    assert ["no graph was captured" in str(warning.message) for warning in said] == [True]
    repeat()
    repeat()
    assert len(ran) == 4


def what_cannot_be_recorded_says_why_and_is_right() -> None:
    model = network()
    hooked = network()
    hooked[0].register_forward_hook(lambda module, inputs, output: None)

    def reads(images: Any, labels: Any) -> float:
        return nn.functional.cross_entropy(model(images), labels).item()

    def copies(images: Any, labels: Any) -> Any:
        return images.sum() + kernels_sum(np.ones(3, np.float32))

    def kernels_sum(array: np.ndarray) -> Any:
        return minicnn.tensor(array).cuda().sum()

    def draws(images: Any, labels: Any) -> Any:
        minicnn.random.default_generator.reserve(4)
        return images.sum()

    def forgets(images: Any, labels: Any) -> Any:
        return model(images).sum()

    def calls(images: Any, labels: Any) -> Any:
        with minicnn.no_grad():
            return hooked(images)

    optimizer = optim.SGD(model.parameters(), lr=0.0)

    def turns(images: Any, labels: Any) -> None:
        model(images).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    for step, words in (
        (turns, "an optimizer steps in it"),
        (reads, "cuda_recording.py, line"),
        (copies, "copied from the host"),
        (draws, "outside of dropout"),
        (forgets, "backward comes after the step"),
        (calls, "hooks"),
    ):
        owner = hooked if step is calls else model
        compiled = graph.compile_step(step, owner)
        for i in range(4):
            minicnn.manual_seed(i)
            expected = step(*BATCHES[0])
            minicnn.manual_seed(i)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                found = compiled(*BATCHES[0])
            texts = [str(warning.message) for warning in said]
            assert (len(texts) == 1 and words in texts[0]) if i == 1 else not texts, (step.__name__, i, texts)
            if step is turns:
                continue
            if isinstance(expected, minicnn.Tensor):
                assert found.requires_grad == expected.requires_grad
                found, expected = (x.detach().cpu().numpy() for x in (found, expected))
            np.testing.assert_array_equal(found, expected)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
