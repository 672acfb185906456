"""Recipes: what may stand in them, what is wrong with one, and that they run the same after any break."""

import numpy as np
import pytest
from test_cli import write_folder

from minicnn.compress.model_file import load_trained
from minicnn.compress.recipe import (
    Binarize,
    Distill,
    LowRank,
    Prune,
    Quantize,
    Recipe,
    Share,
    load_recipe,
    recipe_names,
)
from minicnn.compress.run import run_recipe
from minicnn.compress.structure import describe
from minicnn.nn.transform import attached
from minicnn.training import CheckpointError, trainer


def values(*steps, **options):
    return {"epochs": 10, "steps": list(steps), **options}


def test_a_recipe_says_in_toml_what_it_says_in_python(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        """
        epochs = 12
        model = "lenet-5"
        [[steps]]
        do = "prune"
        rate = { conv2 = 0.5, "fc*" = 0.9 }
        start = 3
        end = 8
        [[steps]]
        do = "quantize"
        bits = 4
        start = 8
        layers_bits = { conv1 = 8 }
        """
    )
    steps = (
        Prune(rate={"conv2": 0.5, "fc*": 0.9}, start=3, end=8),
        Quantize(bits=4, start=8, layers_bits={"conv1": 8}),
    )
    assert load_recipe(str(path)) == Recipe(name="mine", epochs=12, model="lenet-5", steps=steps)


def test_recipes_of_the_package_are_valid_and_survive_the_way_through_plain_values():
    assert {"prune-90", "four-bits", "deep-compression"} <= set(recipe_names())
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.description
        assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_the_timeline_tells_what_happens_when():
    steps = (Quantize(bits=4), Prune(rate=0.9, start=3, end=8, unit="filter"), Distill(teacher="big.npz"))
    assert Recipe(epochs=10, steps=steps).timeline() == [
        "10 epochs of sgd at a learning rate of 0.05",
        "after epoch 3 to 8: prune, rate = 0.9, unit = filter",
        "at the end: quantize, bits = 4",
        "from the beginning: distill, teacher = big.npz",
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epoch": 3}, "recipe: unknown key 'epoch'; did you mean epochs?"),
        (values({"do": "prun", "rate": 0.5}), "step 1: do: expected one of prune, .*did you mean prune?"),
        (values({"do": ["prune"]}), "step 1: do: expected one of prune"),
        (values(augment="flip"), "augment: expected a list of one or more texts, got 'flip'"),
        (values({"rate": 0.5}), "step 1: do: expected one of prune, .* it has none"),
        (values({"do": "prune", "rat": 0.5}), r"step 1 \(prune\): unknown key 'rat'; did you mean rate?"),
        (values({"do": "prune", "rate": 1.0}), "rate: expected a number of at least 0 and below 1"),
        (values({"do": "prune", "rate": {"a": 2}}), "or a table of layers with one each"),
        (values({"do": "prune"}), "rate is missing"),
        (values({"do": "prune", "rate": 0.5, "layers": "conv*"}), "layers: expected a list of one or more"),
        (
            values({"do": "prune", "rate": 0.5, "unit": "row"}),
            "unit: expected one of weight, filter, channel",
        ),
        (values({"do": "prune", "rate": 0.5, "score": "tayler"}), "score: expected .*did you mean taylor?"),
        (values({"do": "prune", "rate": 0.5, "start": 10}), "start = 10 is not within the 10 epochs"),
        (values({"do": "prune", "rate": 0.5, "start": 3, "end": 11}), "end = 11 is not within the 10 epochs"),
        (values({"do": "prune", "rate": 0.5, "start": 3, "end": 3}), "end = 3 is not after start = 3"),
        (values({"do": "prune", "rate": 0.5, "end": 3}), "end = 3 without start"),
        (values({"do": "prune", "rate": 0.5, "initial": 0.1}), "initial = 0.1 without end"),
        (
            values({"do": "prune", "rate": 0.5, "every": "1 day"}),
            "every: expected '1 epoch' or '100 batches'",
        ),
        (values({"do": "prune", "rate": 0.5, "score": "bn_scale"}), "bn_scale"),
        (
            values({"do": "quantize", "bits": 1}),
            "bits: expected an integer of at least 2 and below 17, got 1",
        ),
        (values({"do": "quantize", "bits": True}), "bits: expected an integer"),
        (values({"do": "quantize", "per_channel": 1}), "per_channel: expected true or false, got 1"),
        (values({"do": "quantize", "learned": True}), "learned step sizes are learned while training"),
        (values({"do": "quantize"}, {"do": "quantize"}), "quantize stands there 2 times"),
        (values({"do": "binarize"}), "signs are learned while training"),
        (values({"do": "quantize"}, {"do": "binarize", "start": 1}), "expected one of them"),
        (values({"do": "low_rank"}), "expected one of rank, energy and ratio, got none"),
        (values({"do": "low_rank", "rank": 2, "ratio": 0.5}), "got rank and ratio"),
        (values({"do": "share", "clusters": 1}), "clusters: expected an integer of at least 2"),
        (
            values({"do": "share", "clusters": {"fc1": 1}}),
            "clusters: expected an integer .* or a table of layers with one each",
        ),
        (values({"do": "share", "clusters": {"fc1": 4}, "layers": ["fc1"]}), "clusters names layers already"),
        (values({"do": "share", "biases": 1}), "biases: expected an integer of at least 2"),
        (values({"do": "distill"}), "teacher is missing"),
        (values(model="simpel"), "model: expected one of .*did you mean simple?"),
        (values(epochs=2, warmup=2), "warmup = 2: expected fewer epochs"),
        (values(augment=["flp"]), "unknown augmentation 'flp'"),
        (values(report=["pdf"]), "report: expected some of markdown, json, html, got"),
        (values(lr=0), "lr: expected a number above 0, got 0"),
        ({"steps": {"do": "prune"}}, r"steps: expected a list of tables, each headed \[\[steps\]\]"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(wrong)


def test_recipes_that_cannot_be_read(tmp_path):
    (tmp_path / "broken.toml").write_text("epochs = = 3")
    for source, message in (
        ("prune-91", "did you mean prune-90?"),
        (str(tmp_path / "nowhere.toml"), "there is no such file"),
        (str(tmp_path / "broken.toml"), "no valid TOML"),
    ):
        with pytest.raises(ValueError, match=message):
            load_recipe(source)


# -- carrying them out --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bands(tmp_path_factory):
    return str(write_folder(tmp_path_factory.mktemp("data") / "bands"))


@pytest.fixture(scope="module")
def trained(bands, tmp_path_factory):
    """The model file of a small trained network."""
    folder = tmp_path_factory.mktemp("trained")
    run_recipe(recipe(bands), folder, progress=False)
    return folder / "model.npz"


def recipe(folder, *steps, **options):
    """A short training on bands."""
    base = {"epochs": 4, "batch_size": 10, "lr": 0.02, "warmup": 0, "augment": [], "report": ("json",)}
    base |= {"model_options": {"width": 0.5}}
    return Recipe(data=folder, steps=steps, **(base | options))


class KilledError(Exception):
    """Stands for kill -9: nothing is saved any more."""


def kill_after(monkeypatch, batches):
    original, count = trainer.Run.train_batch, [0]

    def train_batch(run, images, targets):
        if count[0] == batches:
            raise KilledError
        count[0] += 1
        original(run, images, targets)

    monkeypatch.setattr(trainer.Run, "train_batch", train_batch)


STEPS = {
    "prune, then share": (
        Prune(rate=0.8, start=1, end=3, scope="global"),
        Share(clusters=4, biases=3, start=3),
    ),
    "prune by loss, then learned lattices": (
        Prune(rate=0.5, start=1, score="taylor"),
        Quantize(bits=4, activation_bits=8, learned=True, start=2),
    ),
    "lattices over batch norm": (Quantize(bits=8, start=2, correct_bias=True, equalize=True),),
    "prune, then ternary weights": (Prune(rate=0.5, start=1), Binarize(ternary=True, start=2)),
    "low rank, then filters": (
        LowRank(ratio=0.5, start=1),
        Prune(rate=0.25, start=2, unit="filter", layers=("conv*",)),
    ),
    "prune what may return": (
        Prune(rate=0.9, start=0, end=3, regrow=True, every="2 batches", scope="global"),
    ),
    "after training": (Prune(rate=0.5), Quantize(bits=8)),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_recipe_that_was_killed_goes_on_bit_for_bit(name, bands, tmp_path, monkeypatch):
    options = {"model_options": {"width": 0.5, "batch_norm": True}} if "batch norm" in name else {}
    whole = recipe(bands, *STEPS[name], **options)
    run_recipe(whole, tmp_path / "whole", progress=False)
    for batches in (8, 20):  # in the second and the fourth epoch: after one step, and after all of them
        with monkeypatch.context() as patch:
            kill_after(patch, batches)
            with pytest.raises(KilledError):
                run_recipe(whole, tmp_path / str(batches), progress=False)
        run_recipe(whole, tmp_path / str(batches), resume=True, progress=False)
        model, _ = load_trained(tmp_path / str(batches) / "model.npz")
        expected, _ = load_trained(tmp_path / "whole" / "model.npz")
        assert describe(model) == describe(expected)
        for key, value in expected.state_dict().items():
            np.testing.assert_array_equal(model.state_dict()[key].numpy(), value.numpy(), err_msg=key)


def test_what_may_return_is_gone_at_the_end(bands, tmp_path):
    step = Prune(rate=0.9, start=0, end=3, regrow=True, every="2 batches", scope="global")
    run_recipe(recipe(bands, step), tmp_path, progress=False)
    model, _ = load_trained(tmp_path / "model.npz")
    for one in attached(model, "mask"):
        hidden = one.module._parameters[one.place].detach().numpy()[~one.transform.keep.numpy()]
        assert hidden.size
        assert not hidden.any()


def test_the_file_of_a_compressed_model_gives_the_same_answers(bands, tmp_path):
    steps = (Prune(rate=0.5, start=1), Share(clusters=4, start=2), Quantize(bits=8))
    report = run_recipe(recipe(bands, *steps), tmp_path, progress=False)
    model, configuration = load_trained(tmp_path / "model.npz")
    assert {one.transform.kind for one in attached(model)} == {"mask", "codebook", "quantize"}
    assert configuration["steps"]["2"]["clusters"] == 4
    from minicnn import data, evaluate

    test = data.IdxFolder(bands, train=False, transform=data.Normalize(**configuration["normalize"]))
    result = evaluate(model, data.DataLoader(test, 250))
    assert result.accuracy == report["after"]["accuracy"]
    assert result.loss == pytest.approx(report["after"]["loss"], rel=1e-5)


def test_a_trained_model_is_compressed_without_training(bands, trained, tmp_path):
    report = run_recipe(
        recipe(bands, Quantize(bits=8), epochs=0), tmp_path, checkpoint=trained, progress=False
    )
    assert report["before"]["accuracy"] == report["after"]["accuracy"]
    assert report["after"]["total"]["bytes"] < 0.3 * report["before"]["total"]["bytes"]
    with pytest.raises(ValueError, match="epochs = 0 trains nothing; give the checkpoint"):
        run_recipe(recipe(bands, Quantize(bits=8), epochs=0), tmp_path, progress=False)


def test_a_teacher_is_learned_from_and_killed_like_any_other(bands, trained, tmp_path, monkeypatch):
    student = recipe(bands, Distill(teacher=str(trained)), model_options={"width": 0.25}, epochs=2)
    report = run_recipe(student, tmp_path / "whole", progress=False)
    alone = run_recipe(
        recipe(bands, model_options={"width": 0.25}, epochs=2), tmp_path / "alone", progress=False
    )
    assert report["after"]["loss"] != alone["after"]["loss"]
    with monkeypatch.context() as patch:
        kill_after(patch, 8)
        with pytest.raises(KilledError):
            run_recipe(student, tmp_path / "killed", progress=False)
    resumed = run_recipe(student, tmp_path / "killed", resume=True, progress=False)
    assert resumed["after"]["loss"] == report["after"]["loss"]


def test_a_checkpoint_of_another_recipe_is_refused(bands, trained, tmp_path):
    run_recipe(recipe(bands, Prune(rate=0.5, start=1)), tmp_path, progress=False)
    with pytest.raises(CheckpointError, match=r"steps\.1\.rate is 0\.5 in the checkpoint and 0\.6 here"):
        run_recipe(recipe(bands, Prune(rate=0.6, start=1)), tmp_path, resume=True, progress=False)
    with pytest.raises(CheckpointError, match="model is simple in the checkpoint and lenet-300-100 here"):
        run_recipe(
            recipe(bands, model="lenet-300-100", model_options={}),
            tmp_path / "b",
            checkpoint=trained,
            progress=False,
        )
    with pytest.raises(CheckpointError, match="there is no such file"):
        run_recipe(recipe(bands, Distill(teacher="nowhere.npz")), tmp_path / "c", progress=False)


def test_a_layer_that_does_not_exist_is_named_before_anything_is_trained(bands, tmp_path):
    for start in (None, 2):
        with pytest.raises(ValueError, match=r"no layer 'conv3'.*did you mean"):
            run_recipe(
                recipe(bands, Prune(rate=0.5, start=start, layers=("conv3",))), tmp_path, progress=False
            )
    assert not (tmp_path / "checkpoint.npz").exists()
