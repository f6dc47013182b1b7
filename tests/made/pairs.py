"""Parameters of tests that try everything with everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def pairs_in_turn(first: Sequence[object], second: Sequence[object], each: int = 1) -> list[Any]:
    """Each of `first` with each of `second`; all but `each` of a row are slow tests, and these fall to all columns in turn."""
    return [
        pytest.param(
            one,
            other,
            id=f"{one}-{other}",
            marks=() if (column - row) % len(second) < each else pytest.mark.slow,
        )
        for row, one in enumerate(first)
        for column, other in enumerate(second)
    ]
