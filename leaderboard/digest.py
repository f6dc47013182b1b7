"""The fingerprint of a value, by which the check notices changes that rounding or a drawing hides."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
    """Hexadecimal sha256 of the value as canonical JSON: sorted keys, no spaces, full floats."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
