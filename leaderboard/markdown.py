"""Text of any origin as Markdown that cannot break its surroundings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

# An underscore inside a word never starts emphasis, so `max_prob` stays readable in the source.
SPECIAL = re.compile(r"[\\`*\[\]<>|~$&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def one_line(value: str) -> str:
    """The value with every run of white space as one space, without control characters and encodable as UTF-8."""
    return CONTROL.sub("", " ".join(value.split())).encode(errors="replace").decode()


@lru_cache(maxsize=4096)  # the same labels and remarks stand in row after row
def text(value: str) -> str:
    """The value as one line of literal text, safe in a table cell."""
    return SPECIAL.sub(lambda match: f"\\{match.group()}", one_line(value))


@lru_cache(maxsize=4096)
def code(value: str) -> str:
    """The value as a code span. Not for table cells unless it holds no pipe."""
    value = one_line(value)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", value)), default=0))
    space = " " if value.startswith("`") or value.endswith("`") else ""
    return f"{fence}{space}{value}{space}{fence}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str]) -> str:
    """A pipe table; the columns named in `left` are aligned left, the others right. Cells are Markdown already.

    Cells are not padded: a longer one elsewhere would change every line of the diff. Written here because tabulate takes most
    of the time of a large page.
    """
    alignment = "|".join(":---" if header in left else "---:" for header in headers)
    lines = [f"| {' | '.join(cells)} |" for cells in (headers, *rows)]
    return "\n".join([lines[0], f"|{alignment}|", *lines[1:]])
