"""On which line of a TOML file something stands; tomllib does not tell."""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""^\s*([A-Za-z0-9_-]+|"[^"]*"|'[^']*')(\s*\.\s*([A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*\s*=""")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'')


class Lines:
    """The lines of one valid TOML document; paths are keys and, in arrays of tables, numbers from 0."""

    def __init__(self, text: str):
        self._text = text.splitlines()
        self._lines: dict[Path, int] = {}
        table: Path = ()
        counts: dict[Path, int] = {}
        depth = 0
        for number, line in enumerate(self._text, 1):
            if depth == 0 and (header := _HEADER.match(line)):
                table = self._table(header[2], header[1] == "[[", counts)
                self._lines.setdefault(table, number)
                continue
            if depth == 0 and (key := _KEY.match(line)):
                self._lines.setdefault((*table, *_parts(key[0].rstrip().removesuffix("="))), number)
            bare = _STRING.sub("", line).partition("#")[0]
            depth += sum(map(bare.count, "[{")) - sum(map(bare.count, "]}"))

    def of(self, path: Path, value: str | None = None) -> int:
        """The line of a key, or of the nearest thing around it that has one; of a string in its value if that is found."""
        while path and path not in self._lines:
            path = path[:-1]
        first = self._lines.get(path, 1)
        if value is not None:
            later = min((line for line in self._lines.values() if line > first), default=len(self._text) + 1)
            for number in range(first, later):
                if f'"{value}"' in self._text[number - 1] or f"'{value}'" in self._text[number - 1]:
                    return number
        return first

    @staticmethod
    def _table(name: str, is_array: bool, counts: dict[Path, int]) -> Path:
        path: Path = ()
        *before, last = _parts(name)
        for part in before:
            path = (*path, part)
            if path in counts:
                path = (*path, counts[path])
        path = (*path, last)
        if is_array:
            counts[path] = counts.get(path, -1) + 1
        return (*path, counts[path]) if path in counts else path


def _parts(key: str) -> list[str]:
    """The parts of a dotted key."""
    return [part.strip().strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[^.\s]+", key)]
