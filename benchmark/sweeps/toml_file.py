"""A sweep file as it stands on disk: TOML, checked key by key, with its line numbers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError

from benchmark.errors import UsageError, near_matches
from benchmark.sweeps.lines import Lines
from benchmark.sweeps.lines import Path as Place

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOP = ("name", "include", "plugins", "defaults", "resources", "cells", "trainings", "exclude")


class SweepError(UsageError):
    """A sweep file is wrong; the message names file and line."""


@dataclass(frozen=True)
class TomlFile:
    """One parsed file; every complaint about it names the line."""

    path: Path
    content: dict[str, Any]
    lines: Lines

    @classmethod
    def read(cls, path: Path) -> TomlFile:
        """Parse a file and check its top level. Raises SweepError."""
        try:
            text = path.read_text(encoding="utf-8")
            file = cls(path, tomllib.loads(text), Lines(text))
        except (OSError, UnicodeDecodeError) as error:
            raise SweepError(f"{path} cannot be read: {error}.") from error
        except tomllib.TOMLDecodeError as error:
            raise SweepError(f"{path} is not TOML: {error}.") from error
        file.known((), file.content, TOP)
        for key, kind in (
            ("defaults", dict),
            ("resources", dict),
            ("cells", list),
            ("trainings", list),
            ("exclude", list),
        ):
            value = file.content.get(key, kind())
            if not isinstance(value, kind) or (kind is list and not all(isinstance(row, dict) for row in value)):
                file.wrong(
                    (key,), f"{key} is written as {'[[' if kind is list else '['}{key}{']]' if kind is list else ']'}."
                )
        return file

    def wrong(self, place: Place, message: str, hint: str | None = None, value: str | None = None) -> NoReturn:
        """Raise SweepError for what stands at a place."""
        raise SweepError(f"{self.path}:{self.lines.of(place, value)}: {message}", hint)

    def known(self, place: Place, table: Mapping[str, Any], names: Sequence[str]) -> None:
        """Complain about a key that is not among these names."""
        for key in table:
            if key not in names:
                hint = near_matches(key, names) or f"There are {', '.join(names)}."
                self.wrong((*place, key), f"unknown key {key!r}.", hint)

    def text(self, key: str) -> str | None:
        """A string at the top level, if it is there."""
        value = self.content.get(key)
        if value is not None and not isinstance(value, str):
            self.wrong((key,), f"{key} must be a string.")
        return value

    def listed(self, key: str) -> list[str]:
        """A list of strings at the top level."""
        value = self.content.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.wrong((key,), f"{key} must be a list of strings.")
        return value

    def plugins(self) -> list[str]:
        """Absolute paths of plug-in files."""
        return [self.path_of(("plugins",), name) for name in self.listed("plugins")]

    def path_of(self, place: Place, text: Any) -> str:
        """An absolute path; a relative one starts in the current folder, as those of flags do."""
        if not isinstance(text, str):
            self.wrong(place, f"{place[-1]} must be a string.")
        full = str(Path(os.path.expandvars(text)).expanduser())
        if "$" in full:
            self.wrong(place, f"{text} names an environment variable that is not set.")
        return os.path.abspath(full)  # noqa: PTH100  # links in a cluster's paths stay what they are

    def built(self, kind: type[BaseModel], fields: Mapping[str, Any], place: Place) -> Any:
        """A value of the type, or the line of the key that it does not like."""
        try:
            return kind.model_validate(fields)
        except ValidationError as error:
            problem = error.errors()[0]
            key = str(problem["loc"][0]).replace("_", "-") if problem["loc"] else ""
            said = problem["msg"].removeprefix("Value error, ")
            self.wrong((*place, key), f"{key or 'row'}: {said}, not {problem['input']!r}.")


def toml_files(path: Path, including: tuple[Path, ...] = ()) -> Iterator[TomlFile]:
    """A file after those that it includes."""
    file = TomlFile.read(path)
    for number, name in enumerate(file.listed("include")):
        other = path.parent / name
        if other.resolve() in {each.resolve() for each in (*including, path)}:
            file.wrong(("include",), f"{name} includes itself.", value=name)
        if not other.is_file():
            file.wrong(("include", number), f"{other} is not there.", value=name)
        yield from toml_files(other, (*including, path))
    yield file
