"""Rows of a sweep file as tasks: every combination of their lists that is not excluded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from benchmark import registry
from benchmark.errors import BenchmarkError, near_matches, unknown_name
from benchmark.options import parse_policy_text
from benchmark.spec import Cell, ExecSpec, PolicySpec, Slice
from benchmark.sweeps.lines import Path as Place
from benchmark.sweeps.tasks import TRAINING, CellTask, Resources, TrainingTask
from benchmark.sweeps.toml_file import SweepError, TomlFile
from benchmark.training.presets import PRESETS
from benchmark.training.recipe import Recipe
from benchmark.training.request import training_cell
from benchmark.training.spec import TrainExec
from benchmark.weights import RELU

# A list of one of these is a choice of values: the row stands for every combination.
CELL_AXES = ("method", "dataset", "model", "checkpoint", "timesteps", "seed", "precision", "limit", "calibration-size")
CELL_REST = ("data-dir", "policies", "set", "preprocessing", "resources", "slices")
CELL_EXECUTION = ("batch-size", "workers", "device", "measure")
RECIPE = tuple(name.replace("_", "-") for name in Recipe.model_fields if name != "augment")
TRAINING_AXES = ("method", "dataset", "model", "init", "teacher", "teacher-model", "preset", "limit", *RECIPE)
TRAINING_REST = ("name", "data-dir", "set", "preprocessing", "resources", "augment", "flags")
TRAINING_EXECUTION = (
    "workers",
    "device",
    "channels-last",
    "compile",
    "sync-batch-norm",
    "checkpoint-seconds",
    "half",
)  # fmt: skip
SHARED = ("dataset", "data-dir", "model", "workers", "device", "resources")  # defaults that trainings take too


@dataclass(frozen=True)
class _Choice:
    """One combination of a row's values."""

    file: TomlFile
    place: Place
    values: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)

    def fields(self, names: Sequence[str]) -> dict[str, Any]:
        return {name.replace("-", "_"): self.values[name] for name in names if name in self.values}

    def name(self, key: str, check: Any) -> str | None:
        """A name that `check` knows."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self.file.wrong((*self.place, key), f"{key} must be a name, not {value!r}.")
        try:
            check(value)
        except BenchmarkError as error:
            message, _, hint = str(error).partition("\n")
            self.file.wrong((*self.place, key), message, hint or None, value=value)
        return value

    def filled(self, key: str) -> str | None:
        """A text in which {seed}, {model} and other names of the row stand for their values."""
        text = self.values.get(key)
        if text is None:
            return None
        if not isinstance(text, str):
            self.file.wrong((*self.place, key), f"{key} must be a string, not {text!r}.")
        known = {**self.values, **self.options}
        try:
            return text.format_map({name: value for name, value in known.items() if not isinstance(value, dict | list)})
        except (KeyError, ValueError, IndexError) as error:
            self.file.wrong((*self.place, key), f"{text!r} does not say a name of the row in its braces: {error}.")


class Rows:
    """The rows of all files, and what holds for all of them."""

    def __init__(self, files: Sequence[TomlFile]):
        self._files = files
        self._defaults: dict[str, Any] = {}
        self._resources = Resources()
        for file in files:
            defaults = file.content.get("defaults", {})
            file.known(("defaults",), defaults, (*CELL_AXES, *CELL_REST, *CELL_EXECUTION))
            self._defaults = _merged(self._defaults, defaults)
            own: Resources = file.built(Resources, file.content.get("resources", {}), ("resources",))
            self._resources = own.over(self._resources)
        self._names: dict[str, TrainingTask] = {}

    # Trainings

    def trainings(self) -> Iterator[TrainingTask]:
        """Every training; before `cells`, which may need them."""
        shared = {key: value for key, value in self._defaults.items() if key in SHARED}
        for file in self._files:
            for number, row in enumerate(file.content.get("trainings", [])):
                place = ("trainings", number)
                file.known(place, row, (*TRAINING_AXES, *TRAINING_REST, *TRAINING_EXECUTION))
                if "name" not in row:
                    file.wrong(place, "a training needs a name, by which cells call its checkpoint.")
                for choice in _product(file, place, _merged(shared, row), TRAINING_AXES):
                    yield self._training(choice)

    def _training(self, choice: _Choice) -> TrainingTask:
        file, place = choice.file, choice.place
        name = choice.filled("name")
        assert name is not None
        method = choice.name("method", _is_method_or_relu) or "qcfs"
        dataset = choice.name("dataset", lambda value: registry.entry("datasets", value))
        if dataset is None:
            file.wrong(place, "a training needs a dataset.")
        changes = {**choice.fields(RECIPE), "augment": choice.values.get("augment")}
        try:
            cell = training_cell(
                method=method,
                method_options=choice.options,
                dataset=dataset,
                data_dir=_data_dir(choice),
                model=choice.name("model", _is_model),
                preset=choice.name("preset", _is_preset),
                init=_weights(choice, "init"),
                teacher=_weights(choice, "teacher"),
                teacher_model=choice.values.get("teacher-model"),
                changes=changes,
                limit=choice.values.get("limit"),
                preprocessing=choice.values.get("preprocessing"),
                flags=tuple(choice.values.get("flags", ())),
            )
        except ValidationError as error:
            problem = error.errors()[0]
            file.wrong((*place, str(problem["loc"][0])), f"{problem['loc'][0]}: {problem['msg']}.")
        except SweepError:
            raise
        except BenchmarkError as error:
            message, _, hint = str(error).partition("\n")
            key = message.partition(":")[0].removeprefix("--")
            file.wrong((*place, key), message.removeprefix("--"), hint or None)
        task = TrainingTask(
            name=name,
            cell=cell,
            execution=file.built(TrainExec, choice.fields(TRAINING_EXECUTION), place),
            resources=self._asked(choice),
            needs=self._needed(choice, cell.init, "init"),
        )
        if self._names.setdefault(name, task).key != task.key:
            file.wrong((*place, "name"), f"two trainings are called {name!r}.", "Put {seed} or {model} into the name.")
        return task

    # Cells

    def cells(self) -> Iterator[CellTask]:
        """Every cell, and every slice of one."""
        used: set[tuple[int, int]] = set()
        excluded = [
            (number, place, self._excluded(file, place, table))
            for number, file in enumerate(self._files)
            for place, table in enumerate(file.content.get("exclude", []))
        ]
        for file in self._files:
            for number, row in enumerate(file.content.get("cells", [])):
                place = ("cells", number)
                file.known(place, row, (*CELL_AXES, *CELL_REST, *CELL_EXECUTION))
                for choice in _product(file, place, _merged(self._defaults, row), CELL_AXES):
                    matching = {(of, which) for of, which, rule in excluded if _matches(rule, choice)}
                    used |= matching
                    if not matching:
                        yield from self._cell(choice)
        for of, which, _ in excluded:
            if (of, which) not in used:
                self._files[of].wrong(("exclude", which), "this excludes nothing.")

    def _excluded(self, file: TomlFile, number: int, table: Mapping[str, Any]) -> dict[str, list[Any]]:
        place = ("exclude", number)
        file.known(place, table, (*CELL_AXES, "set"))
        rule = {key: value for key, value in table.items() if key != "set"}
        options = table.get("set", {})
        return {
            **{key: _as_list(value) for key, value in rule.items()},
            **{f"set.{key}": _as_list(value) for key, value in options.items()},
        }

    def _cell(self, choice: _Choice) -> Iterator[CellTask]:
        file, place = choice.file, choice.place
        choice.name("method", lambda value: registry.entry("methods", value))
        choice.name("dataset", lambda value: registry.entry("datasets", value))
        choice.name("model", _is_model)
        checkpoint = _weights(choice, "checkpoint")
        fields = {
            **choice.fields(CELL_AXES),
            "checkpoint": checkpoint,
            "data_dir": _data_dir(choice),
            "method_options": choice.options,
        }
        if "policies" in choice.values:
            fields["policies"] = _policies(choice)
        if "preprocessing" in choice.values:
            fields["preprocessing"] = choice.values["preprocessing"]
        task = CellTask(
            cell=file.built(Cell, fields, place),
            execution=file.built(ExecSpec, choice.fields(CELL_EXECUTION), place),
            resources=self._asked(choice),
            needs=self._needed(choice, checkpoint, "checkpoint"),
        )
        slices = choice.values.get("slices")
        if slices is None:
            yield task
            return
        if type(slices) is not int or slices < 1:
            file.wrong((*place, "slices"), f"slices must be a number from 1, not {slices!r}.")
        if task.execution.measure:
            file.wrong((*place, "measure"), "slices are not measured on the clock.")
        for number in range(1, slices + 1):
            part = task.execution.model_copy(update={"slice": Slice(number=number, of=slices)})
            yield task.model_copy(update={"execution": part})

    # Both

    def _asked(self, choice: _Choice) -> Resources:
        place = (*choice.place, "resources")
        own: Resources = choice.file.built(Resources, choice.values.get("resources", {}), place)
        return own.over(self._resources)

    def _needed(self, choice: _Choice, checkpoint: str | None, key: str) -> str | None:
        if checkpoint is None or not checkpoint.startswith(TRAINING):
            return None
        name = checkpoint.removeprefix(TRAINING)
        if name not in self._names:
            known = near_matches(name, self._names) or f"There are {', '.join(self._names) or 'none'}."
            choice.file.wrong((*choice.place, key), f"there is no training {name!r}.", known)
        return self._names[name].key


def _merged(base: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The row over the defaults; `set`, `resources` and `preprocessing` key by key."""
    merged = {**base, **row}
    for key in ("set", "resources", "preprocessing"):
        if isinstance(base.get(key), dict) and isinstance(row.get(key), dict):
            merged[key] = {**base[key], **row[key]}
    return merged


def _product(file: TomlFile, place: Place, row: Mapping[str, Any], axes: Sequence[str]) -> Iterator[_Choice]:
    """Every combination of a row's lists."""
    options = row.get("set", {})
    for key in ("set", "resources", "preprocessing"):
        if not isinstance(row.get(key, {}), dict):
            file.wrong((*place, key), f"{key} must be a table.")
    chosen = [key for key in axes if key in row]
    lists = [_as_list(row[key]) for key in chosen] + [_as_list(value) for value in options.values()]
    for key, choices in zip([*chosen, *[f"set.{option}" for option in options]], lists, strict=True):
        if not choices:
            file.wrong((*place, *key.split(".")), f"{key} is an empty list: the row stands for nothing.")
    for combination in itertools.product(*lists):
        one = dict(zip([*chosen, *[("set", option) for option in options]], combination, strict=True))
        values = {**row, **{key: one[key] for key in chosen}}
        yield _Choice(file, place, values, {option: one["set", option] for option in options})


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _matches(rule: Mapping[str, Sequence[Any]], choice: _Choice) -> bool:
    known = {**choice.values, **{f"set.{key}": value for key, value in choice.options.items()}}
    return all(known.get(key) in values for key, values in rule.items())


def _is_method_or_relu(name: str) -> None:
    if name != RELU:
        registry.entry("methods", name)


def _is_preset(name: str) -> None:
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS, "python -m benchmark train --help")


def _is_model(name: str) -> None:
    if not name.startswith("timm:"):
        registry.entry("models", name)


def _data_dir(choice: _Choice) -> str | None:
    if "data-dir" not in choice.values:
        return None
    return choice.file.path_of((*choice.place, "data-dir"), choice.values["data-dir"])


def _weights(choice: _Choice, key: str) -> str | None:
    """A checkpoint by name as it is, or a file by its whole path."""
    text = choice.filled(key)
    if text is None or text.startswith(("zoo:", "timm:", TRAINING)):
        return text
    return choice.file.path_of((*choice.place, key), text)


def _policies(choice: _Choice) -> tuple[PolicySpec, ...]:
    place, texts = (*choice.place, "policies"), choice.values["policies"]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        choice.file.wrong(place, "policies must be a list of names, each with its options in brackets.")
    found = []
    for text in texts:
        try:
            name, options = parse_policy_text(text)
            registry.entry("policies", name)
        except BenchmarkError as error:
            message, _, hint = str(error).partition("\n")
            choice.file.wrong(place, message, hint or None, value=text)
        found.append(PolicySpec(name=name, options=dict(options)))
    return tuple(found)
