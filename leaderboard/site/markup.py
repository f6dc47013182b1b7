"""HTML and SVG as text in which nothing is left unescaped: plain strings are text, `Markup` is finished markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TypeAlias

VOID = frozenset({"meta", "link", "input"})
# Neither HTML nor UTF-8 has them.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Markup(str):
    """Text that is HTML or SVG already."""

    __slots__ = ()


Content: TypeAlias = "str | Iterable[Content]"


def escaped(text: str) -> Markup:
    """A string as text or attribute of a page; what no page can hold becomes U+FFFD. Markup stays as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(UNPRINTABLE.sub("\ufffd", text)))


def joined(*content: Content) -> Markup:
    """Strings, markup, and nested iterables of them as one piece of markup."""
    return Markup("".join(escaped(part) if isinstance(part, str) else joined(*part) for part in content))


def element(name: str, /, *content: Content, **attributes: str | float | bool | None) -> Markup:
    """An element with its content and attributes.

    A trailing underscore of an attribute's name is dropped and the others become hyphens (`class_`, `aria_label`). True
    gives an attribute without value; those that are None or False are left out.
    """
    parts = [name]
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(attribute)
        elif value is not None and value is not False:
            parts.append(f'{attribute}="{escaped(str(value))}"')
    head = f"<{' '.join(parts)}>"
    return Markup(head if name in VOID else f"{head}{joined(*content)}</{name}>")
