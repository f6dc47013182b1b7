"""The whole page: head with the policy that forbids the network, index, filter, one section per table, remarks, numbers."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from leaderboard.bibliography import sources_of
from leaderboard.published import Published
from leaderboard.site.entries import Entry, entries
from leaderboard.site.grid import HEADINGS, grid
from leaderboard.site.island import chart_numbers, island
from leaderboard.site.looks import SHAPES, Look, looks, shapes, swatch
from leaderboard.site.markup import Content, Markup, element, joined
from leaderboard.site.plot import plot
from leaderboard.site.reading import READING
from leaderboard.site.remarks import missing, remarks
from leaderboard.table import Table

HERE = Path(__file__).parent
TITLE = "Leaderboard of low-latency spiking networks"
INTRODUCTION = (
    "A row is one stopping rule on one converted network. Latency is the prelude plus the timesteps until exit. Thresholds "
    "and smoothing were chosen on a held-out calibration split, never on test images; intervals are 95%."
)
ORACLE = f'<svg class="swatch" aria-hidden="true"><use class="oracle" href="#shape-{len(SHAPES)}"/></svg>'
AXES = (("latency", "latency"), ("synops", "SynOps"), ("spikes", "spikes"), ("energy", "energy (INT8)"))


def document(
    tables: Sequence[Table],
    problems: Sequence[str],
    published: Sequence[Published],
    reports: Mapping[str, str],
) -> str:
    """The page as HTML text; the same records give the same text. `reports`: id of a record -> link to more about it."""
    look = looks(tables)
    rows = {table.slug: entries(table) for table in tables}
    charts = [chart_numbers(table, rows[table.slug], look, published) for table in tables if table.records]
    style = (HERE / "page.css").read_text(encoding="utf-8") + _labels()
    script = (HERE / "page.js").read_text(encoding="utf-8")
    body = joined(
        element("a", "Skip to the tables", href="#tables", class_="skip"),
        shapes(),
        element("header", element("h1", TITLE), element("p", INTRODUCTION), READING, _index(tables, rows)),
        _filter(look, sum(map(len, rows.values()))) if look else (),
        element(
            "main",
            [_section(table, rows[table.slug], look, reports) for table in tables],
            element("p", "No records yet.") if not tables else (),
            _unreadable(problems),
            id="tables",
        ),
        element(
            "footer",
            "Made from the result records by ",
            element("code", "python -m benchmark leaderboard --html"),
            ". One file; it loads nothing.",
        ),
        island(charts),
        element("script", Markup(script)),
    )
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = joined(
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", TITLE),
        element("link", rel="icon", href="data:,"),  # or a browser would ask the server for one
        element("style", Markup(style)),
    )
    return f"<!DOCTYPE html>\n{element('html', element('head', head), element('body', body), lang='en')}\n"


def _hash(text: str) -> str:
    """As a content security policy names a style or a script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _labels() -> str:
    """On a phone a row is a card, in which the style sheet names the cells; here rather than once in every cell."""
    named = [
        (number, title)
        for number, title in enumerate(HEADINGS, 1)
        if title not in ("method", "stopping rule", "record")
    ]
    rules = "".join(f'tbody td:nth-child({number})::before{{content:"{title}"}}' for number, title in named)
    return f"@media screen and (max-width:47.99rem){{{rules}}}"


def _index(tables: Sequence[Table], rows: Mapping[str, Sequence[Entry]]) -> Content:
    if not tables:
        return ()
    items = [
        element(
            "li",
            element("a", table.title, href=f"#{table.slug}"),
            element("small", _extent(table, rows[table.slug])),
            element("small", table.protocol),
        )
        for table in tables
    ]
    return element("nav", element("ul", items), aria_label="Tables")


def _extent(table: Table, rows: Sequence[Entry]) -> str:
    parts = [_number(len(table.records), "network"), _number(len(rows), "row"), _images(table)]
    return ", ".join(filter(None, parts))


def _images(table: Table) -> str:
    """How many images the accuracies are of; tables of one network often differ in that. A smoke test says it already."""
    if table.title != f"{table.dataset} · {table.model}":
        return ""
    counts = sorted({record.static.accuracy.n for record in table.records if record.static})
    return f"{counts[0]:,}{f' to {counts[-1]:,}' if len(counts) > 1 else ''} test images" if counts else ""


def _number(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _filter(look: Mapping[str, Look], total: int) -> Markup:
    """The script shows it; without one it could do nothing."""
    options = [
        element("option", "all methods", value=""),
        *(element("option", name, value=name) for name in sorted(look)),
    ]
    return element(
        "form",
        element(
            "label",
            "Find ",
            element("input", type="search", name="q", placeholder="method, rule, record", autocomplete="off"),
        ),
        element("label", "Method ", element("select", options, name="method", autocomplete="off")),
        _check("guaranteed", "only rules with a guarantee"),
        _check("best", "best rule of each record"),
        element("button", "Reset", type="button", name="reset"),
        element("output", f"{total} of {total} rows", name="count"),
        id="filter",
        role="search",
        aria_label="Filter tables and charts",
        hidden=True,
    )


def _check(name: str, words: str, checked: bool = False) -> Markup:
    box = element("input", type="checkbox", name=name, checked=checked, autocomplete="off")
    return element("label", box, f" {words}", class_="check")


def _section(table: Table, rows: Sequence[Entry], look: Mapping[str, Look], reports: Mapping[str, str]) -> Markup:
    heading = f"{table.slug}-heading"
    content: list[Content] = [
        element("h2", table.title, element("small", f" {_images(table)}"), id=heading),
        element("p", "Protocol: ", element("code", table.protocol), class_="protocol"),
    ]
    said = remarks(table)
    if rows:
        content += [_figure(table, rows, look), _papers(table), grid(table, rows, look, said, reports)]
        content.append(element("p", "No row matches the filter.", class_="none", hidden=True))
    lists = [
        element("ul", [element("li", remark) for remark in said.general]) if said.general else (),
        element("ol", [element("li", remark) for remark in said.numbered]) if said.numbered else (),
        element("ul", [element("li", f"Missing: {remark}") for remark in missing(table)]) if table.missing else (),
    ]
    if any(lists):
        content.append(element("div", element("h3", "Remarks"), lists, class_="remarks"))
    return element("section", content, id=table.slug, aria_labelledby=heading)


def _papers(table: Table) -> Content:
    """Where the methods come from, once and not in every row: each link is a stop for who moves by keyboard."""
    found: list[Content] = []
    for method in sorted({record.spec.method for record in table.records}):
        links = [element("a", source.venue, href=source.url) for source in sources_of(method)]
        if links:
            found += [
                " · " if found else "Papers: ",
                f"{method} ",
                [[", " if number else "", link] for number, link in enumerate(links)],
            ]
    return element("p", found, class_="protocol") if found else ()


def _figure(table: Table, rows: Sequence[Entry], look: Mapping[str, Look]) -> Markup:
    caption = (
        "A line is fixed time, the small mark at its end all timesteps; a mark is a stopping rule with the 95% intervals of "
        "accuracy and mean latency, prelude included. Oracles are drawn over latency only, lines not over energy."
    )
    return element(
        "figure",
        _choices(table),
        element("div", plot(table, rows, look), class_="canvas"),
        _legend(table, look),
        element("figcaption", caption),
    )


def _choices(table: Table) -> Markup:
    """The script shows them."""
    radios = [
        element(
            "label",
            element(
                "input",
                type="radio",
                name=f"{table.slug}-x",
                value=value,
                checked=value == "latency",
                autocomplete="off",
            ),
            f" {words}",
            class_="check",
        )
        for value, words in AXES
    ]
    return element(
        "div",
        element("fieldset", element("legend", "Accuracy over"), radios),
        element(
            "fieldset",
            element("legend", "View"),
            _check("log", "logarithmic", checked=True),
            _check("whole", "whole curves"),
            _check("published", "published by others"),
        ),
        class_="choices",
        hidden=True,
    )


def _legend(table: Table, look: Mapping[str, Look]) -> Markup:
    methods = sorted({record.spec.method for record in table.records})
    keys: list[Markup] = [
        element("li", swatch(look[name]), element("span", name), data_method=name) for name in methods
    ]
    keys.append(element("li", Markup(ORACLE), element("span", "consistency oracle")))
    level = '<svg class="key" viewBox="0 0 28 14" aria-hidden="true"><path class="level" d="M0 7H28"/></svg>'
    keys.append(element("li", Markup(level), element("span", "ANN")))
    cross = Markup('<svg class="swatch" aria-hidden="true"><use href="#shape-cross"/></svg>')
    keys.append(element("li", cross, element("span", "published by others"), class_="others", hidden=True))
    return element("ul", keys, class_="legend")


def _unreadable(problems: Sequence[str]) -> Content:
    if not problems:
        return ()
    lines = [element("li", problem) for problem in problems]
    return element("section", element("h2", "Records that could not be read", id="unreadable"), element("ul", lines))
