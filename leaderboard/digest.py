"""The fingerprint of a value, by which the check notices changes that rounding or a drawing hides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any


def digest(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Hexadecimal sha256 of the value as canonical JSON: sorted keys, no spaces, full floats.

    `default` turns what JSON does not know into what it does.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=default)
    return hashlib.sha256(text.encode()).hexdigest()
