"""What others have published, from `published.toml`: papers, and figures as counted there and with their prelude."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from leaderboard import markdown, numerals

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).with_name("published.toml")
ABSENT = "—"
COLUMNS = ("method", "network", "ANN %", "accuracy % at T, as counted there", "with the prelude", "dynamic", "source")
LEFT = tuple(column for column in COLUMNS if column != "ANN %")

OTHERS = "others"  # the last author of a list that is not complete

Percent = Annotated[float, Field(ge=0, le=100)]
Author = Annotated[str, Field(pattern=rf"^([^,{{}}]+, [^,{{}}]+|{OTHERS})$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Strict):
    """A paper.

    `authors` are "Family, Given", with "others" at the end where there are more; `venue` ends with the year. `methods` and
    `rules` are our names of what comes from it.
    """

    id: str
    kind: Literal["article", "inproceedings", "misc"]
    authors: tuple[Author, ...] = Field(min_length=1)
    title: str
    venue: str
    year: int
    url: str = Field(pattern=r"^https://[^\s{}]+$")
    eprint: str | None = Field(default=None, pattern=r"^\d{4}\.\d{4,5}$")
    doi: str | None = Field(default=None, pattern=r"^10\.\d{4,9}/[^\s{}]+$")
    methods: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Source:
        if OTHERS in self.authors[:-1] or self.authors == (OTHERS,):
            raise ValueError(f"{self.id}: {OTHERS!r} stands behind the authors that are known")
        if not self.venue.endswith(f" {self.year}"):
            raise ValueError(f"{self.id}: the venue {self.venue!r} is not of {self.year}")
        return self

    @property
    def published_in(self) -> str:
        """The venue without the year."""
        return self.venue.removesuffix(f" {self.year}")


class Dynamic(_Strict):
    """What a stopping rule reaches: percent, if it is told, at a mean number of timesteps."""

    rule: str
    latency: float = Field(gt=0)
    accuracy: Percent | None = None


class Published(_Strict):
    """What one source says of one network.

    `accuracy` is T -> percent, with T as counted there; `prelude` are the timesteps before, which are not. `quoted`: known at
    second hand, from tables of others or a page that is no publication.
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


def load_sources(path: Path = FILE) -> tuple[Source, ...]:
    """All papers of a file, in its order. Raises ValueError for one that is wrong, or there twice."""
    return _sources(path, _content(path))


def load_published(path: Path = FILE) -> tuple[Published, ...]:
    """All rows of a file, in its order. Raises ValueError for one that is wrong, or whose source is not there."""
    content = _content(path)
    sources = {source.id: source for source in _sources(path, content)}
    rows = content.get("row", [])
    unknown = {str(row.get("source")) for row in rows} - sources.keys()
    if unknown:
        raise ValueError(f"{path}: unknown source: {', '.join(sorted(unknown))}")
    return tuple(Published.model_validate({**row, "source": sources[row["source"]]}) for row in rows)


def _content(path: Path) -> dict[str, Any]:
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    unknown = content.keys() - {"source", "row"}
    if unknown:
        raise ValueError(f"{path}: unknown: {', '.join(sorted(unknown))}")
    return content


def _sources(path: Path, content: Mapping[str, Any]) -> tuple[Source, ...]:
    sources = tuple(Source.model_validate(each) for each in content.get("source", []))
    twice = [name for name, times in Counter(source.id for source in sources).items() if times > 1]
    if twice:
        raise ValueError(f"{path}: a source is there twice: {', '.join(twice)}")
    return sources


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
