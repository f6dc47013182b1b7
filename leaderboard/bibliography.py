"""The papers behind the tables: which method and stopping rule come from which, and all of them as BibTeX."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import metadata

from benchmark.records import ResultRecord
from leaderboard.published import OTHERS, Published, Source, load_sources
from leaderboard.table import Table

PROJECT = "dynconf-bench"
PROJECT_KEY = "dynconfbench"
PROJECT_TITLE = "dynconf-bench: a reference benchmark for low-latency spiking neural networks"
PROJECT_AUTHORS = "The dynconf-bench authors"
# Words that begin a title without saying what it is about.
INSIGNIFICANT = re.compile("an?|and|as|at|by|for|from|in|is|of|on|or|the|towards?|to|via|with")
CONTAINER = {"article": "journal", "inproceedings": "booktitle", "misc": "howpublished"}
# `\{` would still count as a brace for BibTeX, so braces have commands as well.
SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\textbraceleft{}",
        "}": r"\textbraceright{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{character: rf"\{character}" for character in "&%$#_"},
    }
)


def sources_of(method: str) -> tuple[Source, ...]:
    """The papers of one of our methods; none for a method of a plug-in."""
    return tuple(source for source in _shipped() if method in source.methods)


def sources_of_rule(rule: str) -> tuple[Source, ...]:
    """The papers of one of our stopping rules; none for a baseline, for a rule of this benchmark and for one of a plug-in."""
    return tuple(source for source in _shipped() if rule in source.rules)


def sources_in(records: Iterable[ResultRecord]) -> tuple[Source, ...]:
    """The papers of the methods and stopping rules of records, without repetition."""
    found: dict[Source, None] = {}
    for record in records:
        found |= dict.fromkeys(sources_of(record.spec.method))
        for policy in record.policies:
            found |= dict.fromkeys(sources_of_rule(policy.name))
    return tuple(found)


def cited(tables: Iterable[Table], published: Iterable[Published]) -> tuple[Source, ...]:
    """The papers of all tables, and those whose published figures are on the datasets of the tables; without repetition."""
    tables = tuple(tables)
    datasets = {table.dataset for table in tables}
    found = [*sources_in(record for table in tables for record in table.records + table.missing)]
    found += [row.source for row in published if row.dataset in datasets]
    return tuple(dict.fromkeys(found))


def keys(sources: Iterable[Source]) -> dict[Source, str]:
    """BibTeX keys: first author's family name, year, first significant word of the title; ASCII, and a letter where two agree.

    The order of `sources` does not matter, which others are among them does.
    """
    found: dict[Source, str] = {}
    for source in sorted(set(sources), key=lambda source: (_key(source), source.title, source.id)):
        letters = iter("bcdefghijklmnopqrstuvwxyz")
        key = _key(source)
        while key in found.values():
            key = _key(source) + next(letters)
        found[source] = key
    return found


def bibtex(sources: Iterable[Source]) -> str:
    """An entry per paper, sorted by key. UTF-8: accents stay letters, what BibTeX or LaTeX would take for markup is escaped."""
    known = keys(sources)
    return "\n\n".join(
        _entry(source.kind, known[source], _fields(source)) for source in sorted(known, key=known.__getitem__)
    )


def project_entry() -> str:
    """This benchmark, in the version that is installed."""
    about = metadata(PROJECT)
    links = about.get_all("Project-URL") or []
    fields = {
        "author": f"{{{_escaped(PROJECT_AUTHORS)}}}",  # in braces of its own: a group has no family name
        "title": _title(PROJECT_TITLE),
        "version": about["Version"],
        "url": links[0].partition(", ")[2] if links else None,
    }
    return _entry("software", PROJECT_KEY, fields)


@cache
def _shipped() -> tuple[Source, ...]:
    return load_sources()


def _key(source: Source) -> str:
    family = _ascii(source.authors[0].partition(",")[0])
    words = [_ascii(word) for word in re.findall(r"\w+", source.title)]
    significant = [word for word in words if word and not INSIGNIFICANT.fullmatch(word)]
    return f"{family or _ascii(source.id)}{source.year}{next(iter(significant), '')}"


def _ascii(text: str) -> str:
    """Letters and digits alone, in lower case and without accents."""
    return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFKD", text).casefold())


def _fields(source: Source) -> dict[str, str | None]:
    authors = [author if author == OTHERS else _escaped(author) for author in source.authors]
    return {
        "author": " and ".join(authors),
        "title": _title(source.title),
        CONTAINER[source.kind]: _escaped(source.published_in),
        "year": str(source.year),
        "eprint": source.eprint,
        "archiveprefix": "arXiv" if source.eprint else None,
        "doi": source.doi,
        "url": source.url,
    }


def _entry(kind: str, key: str, fields: Mapping[str, str | None]) -> str:
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value is not None]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _title(title: str) -> str:
    """Escaped, with braces around the words whose capitals a bibliography style must not lower."""
    return re.sub(r"[^\s:;,.!?()]+", lambda word: _word(word[0]), title)


def _word(word: str) -> str:
    capitals = any(letter.isupper() for part in word.split("-") for letter in part[1:])
    return f"{{{_escaped(word)}}}" if capitals else _escaped(word)


def _escaped(text: str) -> str:
    return text.translate(SPECIAL)
