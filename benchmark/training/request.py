"""From names and changes, as a user gives them, to a `TrainCell`. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from benchmark import registry
from benchmark.errors import UsageError, unknown_name
from benchmark.spec import Scalar
from benchmark.training.presets import AUGMENTATIONS, PRESETS
from benchmark.training.recipe import Recipe
from benchmark.training.spec import TrainCell
from benchmark.weights import RELU, trained_as


def training_cell(
    *,
    method: str,
    method_options: Mapping[str, Scalar],
    dataset: str,
    data_dir: str | None = None,
    model: str | None = None,
    preset: str | None = None,
    init: str | None = None,
    teacher: str | None = None,
    teacher_model: str | None = None,
    changes: Mapping[str, Any],
    limit: int | None = None,
    preprocessing: dict[str, Any] | None = None,
    flags: tuple[str, ...] = (),
) -> TrainCell:
    """The request for a training.

    Args:
        method: a known method, or `relu`.
        preset: name of the recipe to start from; None for that of the paper.
        changes: of the recipe, by name of its field; None leaves what the preset says. `augment` as names with commas.
        others: those of `TrainCell`.

    Raises UsageError for an unknown name, an impossible recipe, or a preset that lacks the weights to start from.
    """
    name = preset or default_preset(trained_as(method), registry.entry("datasets", dataset), init is not None)
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS, "python -m benchmark train --help")
    if PRESETS[name].fine_tunes and init is None:
        raise UsageError(
            f"preset {name} starts from trained weights: pass --init.", "From scratch: another --preset; see --help."
        )
    if teacher is not None and changes.get("distill") is None:
        changes = {**changes, "distill": 0.5}
    return TrainCell(
        method=method,
        method_options={**_fitting(PRESETS[name].options, trained_as(method)), **method_options},
        dataset=dataset,
        data_dir=data_dir,
        model=model,
        init=init,
        teacher=teacher,
        teacher_model=teacher_model,
        recipe=recipe_of(name, changes),
        limit=limit,
        preprocessing=preprocessing,
        flags=flags,
    )


def default_preset(method: str, entry: Any, starts: bool) -> str:
    """The recipe where none is named: the paper's for the method and the size of the images."""
    if getattr(entry, "embedded", False):
        return "embedded"
    if getattr(entry, "large", False):
        return "qcfs-imagenet"
    if method == "surrogate":
        return "surrogate-cifar"
    if method == "qffs" and starts:
        return "qffs-cifar"
    return "qcfs-cifar"


def recipe_of(preset: str, changes: Mapping[str, Any]) -> Recipe:
    """A preset with what the user changed; its warm-up keeps its share of the epochs.

    Raises UsageError naming what is impossible.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    if "augment" in given:
        names = [] if given["augment"] == "none" else [part.strip() for part in given["augment"].split(",")]
        for name in names:
            if name not in AUGMENTATIONS:
                raise unknown_name("augmentation", name, AUGMENTATIONS, "python -m benchmark train --help")
        given["augment"] = tuple(names)
    fields = {**PRESETS[preset].recipe, **given}
    if "warmup_epochs" not in given and "warmup_epochs" in fields:  # the preset's share of the epochs
        fields["warmup_epochs"] *= fields["epochs"] / PRESETS[preset].recipe["epochs"]
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = "--" + str(first["loc"][0]).replace("_", "-") + ": " if first["loc"] else ""
        raise UsageError(f"{place}{first['msg'].removeprefix('Value error, ')}.") from error


def _fitting(options: Mapping[str, int | float], method: str) -> dict[str, int | float]:
    """The preset's options that the method has."""
    if method == RELU or not options:
        return {}
    known = {item.name for item in dataclasses.fields(registry.load("methods", method))}
    return {key: value for key, value in options.items() if key in known}
