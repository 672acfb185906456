"""Trainings on device "cuda" that check themselves: python tests/cuda_training.py NAME, in the simulator.

`test_cuda_training.py` runs each in a process of its own. What they are compared with is trained on the host
by the reference, which compiles nothing.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cuda_step
import numpy as np

import minicnn
import minicnn_kernels as kernels
from minicnn import compress, data, nn, optim
from minicnn.training import Callback, TrainingError, TrainingInterrupted, evaluate, fit, predict

rng = np.random.default_rng(0)
IMAGES = rng.standard_normal((10, 1, 8, 8)).astype(np.float32)
DATA = data.ArrayDataset(IMAGES, rng.integers(0, 5, 10))


def network() -> nn.Module:
    minicnn.manual_seed(0)
    with kernels.use("reference"):
        return cuda_step.network()


def loader(dataset: Any = DATA) -> data.DataLoader:
    return data.DataLoader(dataset, 4, shuffle=True)  # the last batch of an epoch is smaller


def trained(model: nn.Module, device: str, **options: Any) -> Any:
    """The history of two epochs with dropout, momentum and a learning rate that changes."""
    minicnn.manual_seed(1)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    options = {"epochs": 2, "progress": False, "train_loader": loader(), "scheduler_step": "batch"} | options
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    run = Seen()
    options["callbacks"] = [*options.get("callbacks", ()), run]
    history = fit(model, optimizer=optimizer, scheduler=schedule, device=device, **options)
    compiled = device == "cuda" and options.get("compile", True)
    assert bool(run.recordings) is compiled, "a compiled training is recorded"
    return history


class Seen(Callback):
    """Keeps what a run has recorded."""

    def on_end(self, run: Any) -> None:
        self.recordings = [] if run._step is None else run._step.recordings()


def on_host(run: Callable[[], Any]) -> Any:
    with kernels.use("reference"):
        return run()


def same(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, mine), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        np.testing.assert_array_equal(mine.cpu().numpy(), other.cpu().numpy(), err_msg=name)


def as_on_the_host(**options: Any) -> None:
    """The losses of the host, compiled and not, and the same predictions after."""
    for compile in (False, True):
        host, device = network(), network()
        rows = [
            on_host(lambda: trained(host, "cpu", validation=loader(), compile=compile, **options)),  # noqa: B023
            trained(device, "cuda", validation=loader(), compile=compile, **options),
        ]
        for column in ("loss", "validation_loss", "accuracy", "validation_accuracy"):
            np.testing.assert_allclose(rows[1][column], rows[0][column], rtol=1e-4, err_msg=column)
        assert all(p.device == "cuda" for p in device.parameters())
        theirs = on_host(lambda: predict(host, IMAGES))  # noqa: B023
        np.testing.assert_allclose(predict(device, IMAGES), theirs, rtol=1e-3, atol=1e-5)
        ours, theirs = evaluate(device, loader()), on_host(lambda: evaluate(host, loader()))  # noqa: B023
        np.testing.assert_array_equal(ours.confusion, theirs.confusion)


def fit_follows_the_host() -> None:
    as_on_the_host()


def limits_follow_the_host() -> None:
    as_on_the_host(clip_norm=0.5, clip_value=0.2, max_norm=1.5, l1=1e-3, epochs=1)


class Stop(Callback):
    """Ctrl-C after so many batches."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_batch(self, run: Any) -> None:
        self.batches -= 1
        run.interrupted = self.batches == 0


def a_resumed_training_is_the_unbroken_one() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for optimizer in ("sgd", "adam"):
            whole, halved, resumed = network(), network(), network()
            path = Path(folder, f"{optimizer}.npz")

            def run(model: nn.Module, **options: Any) -> Any:
                minicnn.manual_seed(1)
                make = cuda_step.OPTIMIZERS[optimizer]  # noqa: B023
                return fit(model, loader(), optimizer=make(model.parameters()), epochs=3, progress=False,
                           device="cuda", **options)  # fmt: skip

            expected = run(whole)
            try:
                run(halved, checkpoint=path, callbacks=[Stop(4)])
            except TrainingInterrupted:
                pass
            else:
                raise AssertionError("the training was not interrupted")
            history = run(resumed, checkpoint=path, resume=True)
            same(resumed, whole)
            assert history["loss"] == expected["loss"], (history["loss"], expected["loss"])
            on_the_host = network()  # the device's checkpoint is anybody's
            on_the_host.load_state_dict(minicnn.load(path)["run"]["model"])
            same(on_the_host, whole)
            resumed.load_state_dict(network().state_dict())  # from the host into the device
            assert all(p.device == "cuda" for p in resumed.parameters())
            same(resumed, network())


def a_loss_that_is_not_finite_is_found() -> None:
    model, message = network(), ""
    with minicnn.no_grad():
        model[-1].bias[0] = np.inf
    try:
        trained(model, "cuda")
    except TrainingError as error:
        message = str(error)
    assert "epoch 1, batch 1: the loss became nan" in message, message
    assert "made '" in message, message


def a_norm_that_is_not_finite_is_found() -> None:
    """The squares of these gradients overflow; scaled by 1 / infinity they would be 0, and a step be lost."""
    message = ""
    try:
        trained(network(), "cuda", loss=lambda outputs, _: (outputs * 1e25).mean(), clip_norm=1.0)
    except TrainingError as error:
        message = str(error)
    assert "epoch 1, batch 1: the loss or the norm of the gradient became nan" in message, message


def copies_are_their_own() -> None:
    model = network().to("cuda")
    copied = copy.deepcopy(model)
    assert all(p.device == "cuda" for p in copied.parameters())
    before = copy.deepcopy(copied)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    fit(model, loader(), optimizer=optimizer, epochs=1, progress=False, early_stopping=1, validation=loader())
    same(copied, before)
    assert {buffer["momentum_buffer"].device for buffer in optimizer.state.values()} == {"cuda"}
    fit(model, loader(), optimizer=optimizer, epochs=1, progress=False, device="cpu", compile=False)
    assert {buffer["momentum_buffer"].__class__ for buffer in optimizer.state.values()} == {np.ndarray}


def batches_are_never_overwritten() -> None:
    """Places are used again only when nobody holds the batch that lies in them."""
    from minicnn.data.on_device import on_device

    moved = on_device(data.DataLoader(DATA, 2), "cuda")
    kept = []
    for _ in range(3):
        for images, _ in moved:
            kept.append(images[:1])  # a view keeps its batch
    for i, images in enumerate(kept):
        np.testing.assert_array_equal(images.cpu().numpy()[0], IMAGES[i % 5 * 2])
    conveyor, seen = kernels.backend("cuda").Conveyor(), set()
    for i in range(12):
        parcel = conveyor.send([np.full(3, i, np.float32)])
        (array,) = parcel.open()
        seen.add(id(array.memory.place))
        assert kernels.to_host(array).tolist() == [i] * 3
        del parcel
    assert len(seen) <= 3, "memory of batches that are gone is used again"
    plain = [(minicnn.ones(2, 1), minicnn.ones(2))] * 3  # any iterable will do
    assert [x.device for pair in on_device(plain, "cuda") for x in pair] == ["cuda"] * 6


def compression_follows_the_host() -> None:
    """Weights are pruned while training and stay zero; then quantizers are calibrated, and train along."""
    found = []
    for device in ("cpu", "cuda"):
        model = network().to(device)
        model[7].p = 0.0  # a lattice makes much of the last bits

        def run(model: nn.Module = model, device: str = device) -> tuple[Any, ...]:
            schedule = compress.PolynomialPruning(0, 2, 0.0, 0.6, every="1 batch")
            pruned = trained(model, device, callbacks=[schedule])
            zeros = compress.masks(model)
            compress.quantize(model, loader(), bits=8)
            quantized = trained(model, device, epochs=1)
            return pruned["loss"], quantized["loss"], predict(model, IMAGES), zeros

        found.append(on_host(run) if device == "cpu" else run())
        assert all(value.device == device for value in model.state_dict().values())
        for weight in (model[0].weight, model[-1].weight):
            assert (weight.detach().cpu().numpy() == 0).mean() > 0.3
    for ours, theirs in zip(found[1][:3], found[0][:3], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-2)
    for name, keep in found[0][3].items():
        np.testing.assert_array_equal(kernels.to_host(found[1][3][name]), keep, err_msg=name)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
