"""Options given as KEY=VALUE, typed and checked against the fields of the dataclass they configure."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from benchmark.errors import UsageError, near_matches
from benchmark.spec import Scalar


def parse_settings(settings: Iterable[str]) -> dict[str, str]:
    """`KEY=VALUE` strings as a dict. Raises UsageError for a missing `=` or a key given twice."""
    parsed: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"{setting!r} is not KEY=VALUE.")
        if key in parsed:
            raise UsageError(f"{key} is given twice.")
        parsed[key] = value
    return parsed


def parse_policy_text(text: str) -> tuple[str, dict[str, str]]:
    """`name` or `name[key=value,...]` in its parts. Raises UsageError for another form."""
    name, bracket, rest = text.partition("[")
    if bracket and not rest.endswith("]"):
        raise UsageError(f"policy {text!r}: the closing bracket is missing.")
    options: dict[str, str] = {}
    for part in filter(None, rest.removesuffix("]").split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"policy {text!r}: {part!r} is not KEY=VALUE.")
        options[key.strip()] = value.strip()
    return name, options


def parse_preprocessing(settings: Iterable[str]) -> dict[str, Any] | None:
    """`KEY=VALUE` strings as the JSON of a Preprocessing, None if there are none. Raises UsageError for a wrong one."""
    from benchmark.data.images import Preprocessing

    given = parse_settings(settings)
    if not given:
        return None
    numbers = {"divisor": "255", "mean": "0", "std": "1", **given}
    try:
        values: dict[str, Any] = {
            key: [float(part) for part in value.split(",")] if key in ("mean", "std") else value
            for key, value in numbers.items()
        }
        channels = max(len(values["mean"]), len(values["std"]))
        for key in ("mean", "std"):
            values[key] = values[key] * channels if len(values[key]) == 1 else values[key]
        for key in ("resize", "crop"):
            if key in values:
                values[key] = int(values[key])
        unknown = sorted(values.keys() - {item.name for item in dataclasses.fields(Preprocessing)})
        if unknown:
            raise UsageError(
                f"preprocessing has no {unknown[0]!r}: {', '.join(i.name for i in dataclasses.fields(Preprocessing))}."
            )
        return Preprocessing.from_dict(values).to_dict()
    except (TypeError, ValueError) as error:
        raise UsageError(f"--preprocessing: {error}.") from error


def typed_options(cls: type, settings: Mapping[str, Scalar], owner: str) -> dict[str, Scalar]:
    """The settings in the types of the dataclass fields.

    Raises UsageError for an unknown key (with near matches) or a value of the wrong type.
    """
    fields = {field.name for field in dataclasses.fields(cls) if field.init and not field.metadata.get("fitted")}
    hints = typing.get_type_hints(cls)
    typed = {}
    for key, value in settings.items():
        if key not in fields:
            known = ", ".join(sorted(fields)) or "none"
            raise UsageError(
                f"{owner} has no option {key!r}.", f"{near_matches(key, fields)} Options: {known}.".strip()
            )
        typed[key] = _convert(value, hints[key], f"option {key!r} of {owner}")
    return typed


def build(cls: type, settings: Mapping[str, Scalar], owner: str) -> Any:
    """An instance of the dataclass with these settings. Raises UsageError for unknown or invalid ones."""
    try:
        return cls(**typed_options(cls, settings, owner))
    except ValueError as error:
        raise UsageError(f"{owner}: {error}") from error


def _convert(value: Scalar, hint: Any, name: str) -> Any:
    kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType] if _is_union(hint) else [hint]
    if not isinstance(value, str) and any(
        type(value) is kind or (kind is float and type(value) is int) for kind in kinds
    ):
        return float(value) if float in kinds and int not in kinds else value
    text = str(value)
    for kind in (kind for kind in (bool, int, float, str) if kind in kinds):
        try:
            return _parse(text, kind)
        except ValueError:
            continue
    expected = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise UsageError(f"{name} must be {expected}, not {text!r}.")


def _parse(text: str, kind: type) -> Any:
    if kind is bool:
        lowered = text.lower()
        if lowered not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError(text)
        return lowered in ("true", "1", "yes")
    value = kind(text)
    if kind is float and not math.isfinite(value):
        raise ValueError(text)
    return value


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)
