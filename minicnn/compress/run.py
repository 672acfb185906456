"""run_recipe: from a recipe to a compressed model, its file and its report.

Train as the recipe says, let its steps happen (`steps.py`), measure before and after (`report/`). Everything
is checked before the first epoch, and every epoch leaves a checkpoint to go on from.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import minicnn
from minicnn import nn
from minicnn.compress.distill import CachedTeacher, Distillation
from minicnn.compress.model_file import load_trained, read_trained, save_trained
from minicnn.compress.recipe import Distill, Recipe
from minicnn.compress.report import measure, write_reports
from minicnn.compress.steps import Compressor, Steps
from minicnn.compress.structure import restore
from minicnn.data import DataLoader, Dataset
from minicnn.nn.module import Module
from minicnn.training.checkpoint import Checkpoint, differences, load_checkpoint
from minicnn.training.errors import CheckpointError
from minicnn.training.metrics import History
from minicnn.training.options import (
    Images,
    load_images,
    make_loader,
    make_model,
    make_optimizer,
    make_scheduler,
)
from minicnn.training.trainer import fit


def run_recipe(
    recipe: Recipe,
    output: str | os.PathLike[str],
    *,
    data: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_every: str = "1 epoch",
    progress: bool | None = None,
    device: str = "cpu",
    compare: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Carry out `recipe`; gives what report.json holds, "before" and "after" as `measure` gives them.

    output: folder for model.npz, checkpoint.npz, metrics.jsonl and the reports. data: other data than the
    recipe names. checkpoint: a trained model to begin with, of the recipe's architecture. resume: go on from
    the checkpoint in `output`, bit for bit. device: "cpu" or "cuda", where it trains and tests.
    compare: results by name that the report shows beside this one.

    Raises ValueError for a recipe without epochs and without checkpoint, CheckpointError for a checkpoint of
    another recipe, model or data, and what `fit` raises.
    """
    source = recipe.data if data is None else data
    recipe = replace(recipe, data=source if source == "fashion-mnist" else os.path.abspath(source))
    if not recipe.epochs and checkpoint is None:
        raise ValueError(
            f"recipe {recipe.name!r}: epochs = 0 trains nothing; give the checkpoint of a trained model"
        )
    options = asdict(recipe)
    images = load_images(options)
    configuration = recipe.configuration() | images.facts
    minicnn.manual_seed(recipe.seed)
    model = make_model(configuration)
    folder = Path(output)
    path = folder / "checkpoint.npz"
    state = _steps_of(path, configuration) if resume and path.exists() else None
    if state is not None:
        restore(model, state["initial"])
    elif checkpoint is not None:
        _begin_with(checkpoint, model, configuration)

    model.to(device)

    def numbers(dataset: Dataset) -> dict[str, Any]:
        return measure(model, DataLoader(dataset, 250), class_names=images.facts["class_names"])

    optimizer = make_optimizer(options, model)
    compressor = Compressor(recipe, model, images.train)
    steps = Steps(compressor, optimizer, functools.partial(numbers, images.test))
    if state is not None:
        steps.rebuild(state)
    folder.mkdir(parents=True, exist_ok=True)
    history = History()
    if recipe.epochs:
        loader = make_loader(options, images.train)
        steps.scheduler = make_scheduler(options, optimizer, len(loader))
        history = fit(
            model,
            loader,
            optimizer=optimizer,
            loss=_loss(recipe, images),
            epochs=recipe.epochs,
            validation=DataLoader(images.watched, 250),
            validation_name=images.watched_name,
            scheduler=steps.scheduler,
            scheduler_step="batch",
            clip_norm=recipe.clip_norm,
            max_norm=recipe.max_norm,
            checkpoint=Checkpoint(path, every=checkpoint_every, keep_best=False),
            resume=resume,
            metrics=folder / "metrics.jsonl",
            progress=progress,
            callbacks=[steps, *steps.gradual()],
            device=device,
            configuration=configuration,
        )
    before = steps.before or numbers(images.test) | {"epochs": recipe.epochs}
    compressor.finish()
    report = {
        "name": recipe.name,
        "description": recipe.description,
        "timeline": recipe.timeline(),
        "epochs": recipe.epochs,
        "watched": images.watched_name,
        "before": before,
        "after": numbers(images.test),
        "history": history.rows,
        "compare": compare or {},
        "recipe": configuration,
        "minicnn": minicnn.__version__,
    }
    if images.watched is not images.test:
        report["held_out"] = numbers(images.watched)
    save_trained(model, folder / "model.npz", configuration)
    write_reports(folder, report, recipe.report)
    return report


def _steps_of(path: Path, configuration: dict[str, Any]) -> dict[str, Any]:
    """What Steps wrote into a checkpoint. Raises CheckpointError if it is of another recipe."""
    state = load_checkpoint(path)
    different = differences("", state["configuration"], configuration)
    if different:
        shown = "; ".join(different[:8]) + (f"; and {len(different) - 8} more" if len(different) > 8 else "")
        raise CheckpointError(
            f"checkpoint {path}: belongs to another recipe: {shown}; "
            f"resume with the recipe that it was made with, or start anew"
        )
    return state["run"]["callbacks"][Steps.__name__]


def _begin_with(path: str | os.PathLike[str], model: Module, configuration: dict[str, Any]) -> None:
    """Give `model` the form and the values of a trained one. Raises CheckpointError if it is another."""
    theirs, structure, values = read_trained(path)
    keys = ("model", "model_options", "image_shape", "class_names", "normalize")
    ours = {key: configuration[key] for key in keys}
    different = differences("", {"model_options": {}} | {k: theirs[k] for k in keys if k in theirs}, ours)
    if different:
        raise CheckpointError(
            f"checkpoint {path}: is of another model than the recipe: {'; '.join(different)}; "
            f"change the recipe, or name another checkpoint"
        )
    if structure is not None:
        restore(model, structure)
    model.load_state_dict(values)


def _loss(recipe: Recipe, images: Images) -> Callable[..., Any]:
    """Cross-entropy, or what a teacher of the same images and classes says.

    Images that are never augmented are shown to the teacher once.
    """
    loss = functools.partial(nn.functional.cross_entropy, label_smoothing=recipe.label_smoothing)
    teachers = [step for step in recipe.steps if isinstance(step, Distill)]
    if not teachers:
        return loss
    step = teachers[0]
    teacher, theirs = load_trained(step.teacher)
    different = differences("", {key: theirs[key] for key in images.facts}, images.facts)
    if different:
        raise CheckpointError(f"teacher {step.teacher}: knows other data: {'; '.join(different)}")
    answering = teacher if recipe.augment else CachedTeacher(teacher, DataLoader(images.train, 250))
    return Distillation(answering, temperature=step.temperature, alpha=step.alpha, hard=loss)
