"""One table of the page: a row per record and rule, complete as it stands, with the full values for the script to sort by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmark.records import Guarantee, PolicyResult, Static
from leaderboard import numerals
from leaderboard.site.columns import NOTHING, NUMBERS, RANK, Column
from leaderboard.site.entries import Entry
from leaderboard.site.looks import Look, dashes, swatch
from leaderboard.site.markup import Markup, element, escaped
from leaderboard.site.remarks import Remarks
from leaderboard.table import Table

HEADINGS = ("rank", "method", "stopping rule", *(column.label for column in NUMBERS), "record")
# The parameters that a reader asks for first; the others follow by name.
MAIN_PARAMETERS = ("scale", "threshold")
NO_BREAK = "\u00a0"


def grid(
    table: Table, rows: Sequence[Entry], looks: Mapping[str, Look], remarks: Remarks, reports: Mapping[str, str]
) -> Markup:
    """The table in a box that scrolls where the page is too narrow; `reports` are links by record id."""
    methods = _methods(table, looks, remarks)
    links = {record.id: _link(record.id, reports.get(record.id)) for record in table.records}
    body = "".join(_row(entry, methods[entry.number], links[entry.record.id]) for entry in rows)
    head = element(
        "tr",
        _heading(RANK),
        _text_heading("method", "method"),
        _text_heading("rule", "stopping rule"),
        [_heading(column) for column in NUMBERS],
        _text_heading("record", "record"),
    )
    caption = f"Stopping rules on {table.title}"
    inner = element("table", element("caption", caption), element("thead", head), element("tbody", Markup(body)))
    # What scrolls must be reachable by keyboard.
    return element("div", inner, class_="scroll", role="region", aria_label=caption, tabindex="0")


def rule(policy: PolicyResult) -> tuple[str, str]:
    """The name of a rule, and its scalar parameters and how its threshold was chosen.

    What stands in the guarantee is not said twice, and a tolerance of nothing not at all.
    """
    said = ["epsilon", "delta"] if policy.guarantee else []
    if not policy.params.get("tolerance"):
        said.append("tolerance")
    scalars = {
        name: value
        for name, value in policy.params.items()
        if isinstance(value, int | float | str) and name not in said
    }
    names = [name for name in MAIN_PARAMETERS if name in scalars]
    names += sorted(set(scalars) - set(names))
    return policy.name, ", ".join([policy.selection, *(_parameter(name, scalars[name]) for name in names)])


def _parameter(name: str, value: float | str) -> str:
    """A parameter in words that stay on one line."""
    words = name.replace("_", " ")
    if value is True:
        return words
    if isinstance(value, float):
        # Confidence thresholds crowd below 1, and 1 itself means that no image stops early.
        value = f"1-{1 - value:.2g}" if 0.99995 <= value < 1 else f"{value:.4g}"
    return f"{words} {value}".replace(" ", NO_BREAK)


def _heading(column: Column) -> Markup:
    return element(
        "th",
        column.title,
        element("small", column.note) if column.note else (),
        scope="col",
        data_key=column.key,
        data_first="descending" if column.descending else "ascending",
    )


def _text_heading(key: str, title: str) -> Markup:
    return element("th", title, scope="col", data_key=key, data_first="ascending", data_text=True)


def _methods(table: Table, looks: Mapping[str, Look], remarks: Remarks) -> list[str]:
    """For each record the cell of its method, which all its rows share."""
    labels = table.labels()
    found: list[str] = []
    for record, dash in zip(table.records, dashes(table.records), strict=True):
        assert record.ann
        method = record.spec.method
        marks = ", ".join(map(str, remarks.marks.get(record.id, ())))
        details = labels[record.id].removeprefix(method).strip().removeprefix("(").removesuffix(")")
        words = [
            swatch(looks[method], dash),
            element("b", method),
            element("sup", marks) if marks else (),
            element("small", details) if details else (),
            element("small", f"ANN {numerals.percent(record.ann.accuracy.value)}%"),
            element("small", _prelude(record.static)) if record.static and record.static.prelude else (),
        ]
        found.append(element("th", words, scope="row", data_value=method))
    return found


def _prelude(static: Static) -> str:
    streaming = static.streaming_prelude
    waiting = f", streaming {streaming}" if streaming not in (None, static.prelude) else ""
    return f"prelude {static.prelude}{waiting}"


def _levels(promise: Guarantee) -> str:
    return f"ε{NO_BREAK}{100 * promise.epsilon:.4g}%, δ{NO_BREAK}{100 * promise.delta:.4g}%"


def _row(entry: Entry, method: str, link: str) -> str:
    # Plain strings: a large page has a hundred thousand cells.
    policy = entry.policy
    promise = policy.guarantee if policy else None
    if policy:
        name, details = rule(policy)
        words = f"{escaped(name)}<small>{escaped(details)}</small>"
        if promise:
            words += f'<small class="promise">guarantee {_levels(promise)}</small>'
    else:
        name = f"fixed T={entry.record.spec.timesteps}"
        words = escaped(name)
    flags = (" data-best" if entry.best else "") + (" data-guaranteed" if promise else "")
    cells = "".join(_number(column, entry) for column in NUMBERS)
    return (
        f"<tr{flags}>{_number(RANK, entry)}{method}"
        f'<th scope="row" data-value="{escaped(name)}">{words}</th>{cells}{link}</tr>\n'
    )


def _number(column: Column, entry: Entry) -> str:
    cell = column.cell(entry)
    note = f"<small>{cell.note}</small>" if cell.note else ""
    # Without a value a row sorts last; a card on a phone leaves out what says nothing.
    kind = ' class="void"' if cell == NOTHING else "" if cell.value is None else f' data-value="{cell.value!r}"'
    return f"<td{kind}>{cell.text}{note}</td>"


def _link(identity: str, target: str | None) -> str:
    words = element("code", identity)
    return element("td", element("a", words, href=target) if target else words, data_value=identity)
