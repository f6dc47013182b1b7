"""Parameters of tests that try everything with everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def pairs_in_turn(first: Sequence[object], second: Sequence[object], each: int = 1) -> list[Any]:
    """Each of `first` with each of `second`: `each` of a row, on all columns in turn, by default; the others are slow tests."""
    assert len(first) * each >= len(second) and each >= 1, "some of the second would only be in slow tests"
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
