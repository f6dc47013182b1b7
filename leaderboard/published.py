"""What others have published, from `published.toml`: each figure with its source, as counted there and with its prelude."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from leaderboard import markdown, numerals

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).with_name("published.toml")
ABSENT = "—"
COLUMNS = ("method", "network", "ANN %", "accuracy % at T, as counted there", "with the prelude", "dynamic", "source")
LEFT = tuple(column for column in COLUMNS if column != "ANN %")

Percent = Annotated[float, Field(ge=0, le=100)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Strict):
    """A paper."""

    id: str
    title: str
    venue: str
    url: str = Field(pattern=r"^https://")


class Dynamic(_Strict):
    """What a stopping rule reaches: percent, if it is told, at a mean number of timesteps."""

    rule: str
    latency: float = Field(gt=0)
    accuracy: Percent | None = None


class Published(_Strict):
    """What one source says of one network.

    `accuracy` is T -> percent, with T as counted there; `prelude` are the timesteps before, which are not. `quoted`: the
    source did not measure it, or is not where results are published.
    """

    method: str
    dataset: str
    network: str
    settings: str | None = None
    ann: Percent | None = None
    prelude: int = Field(default=0, ge=0)
    accuracy: dict[PositiveInt, Percent] = Field(default_factory=dict)
    dynamic: Dynamic | None = None
    source: Source
    where: str
    quoted: bool = False

    def is_of(self, model: str) -> bool:
        """Whether the network is the one that we call so."""
        return _plain(self.network) == _plain(model)

    @property
    def label(self) -> str:
        """Method and settings as Markdown."""
        return markdown.text(f"{self.method} ({self.settings})" if self.settings else self.method)

    @property
    def cited(self) -> str:
        """The source as Markdown, and whether it is second-hand."""
        said = f"[{markdown.text(self.source.venue)}]({self.source.url}), {markdown.text(self.where)}"
        return f"{said} (second-hand)" if self.quoted else said


def load_published(path: Path = FILE) -> tuple[Published, ...]:
    """All rows of a file, in its order. Raises ValueError for one that is wrong, or whose source is not there."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    sources = {each["id"]: each for each in content.pop("source", [])}
    rows = content.pop("row", [])
    unknown = {*content, *({row["source"] for row in rows} - sources.keys())}
    if unknown:
        raise ValueError(f"{path}: unknown: {', '.join(sorted(unknown))}")
    return tuple(Published.model_validate({**row, "source": sources[row["source"]]}) for row in rows)


def published_table(rows: Sequence[Published]) -> tuple[list[str], list[list[str]]]:
    """Headers and Markdown cells."""
    return list(COLUMNS), [_cells(row) for row in rows]


def _cells(row: Published) -> list[str]:
    shifted = {step + row.prelude: value for step, value in row.accuracy.items()}
    return [
        row.label,
        markdown.text(row.network),
        numerals.rounded(row.ann) if row.ann is not None else ABSENT,
        _series(row.accuracy),
        f"{_series(shifted)} (prelude {row.prelude})" if row.prelude else ABSENT,
        _dynamic(row.dynamic) if row.dynamic else ABSENT,
        row.cited,
    ]


def _series(accuracy: Mapping[int, float]) -> str:
    return ", ".join(f"{step}: {numerals.rounded(value)}" for step, value in sorted(accuracy.items())) or ABSENT


def _dynamic(found: Dynamic) -> str:
    accuracy = f"{numerals.rounded(found.accuracy)} at " if found.accuracy is not None else ""
    return f"{accuracy}{numerals.rounded(found.latency)} timesteps, {markdown.text(found.rule)}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
