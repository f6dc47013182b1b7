"""Arrays that come in parts, put into one place as they come: no part has to be kept, and nothing is there twice."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Joined:
    """The rows of consecutive parts one after the other, of those arrays that all parts have.

    Args:
        rows: how many there are going to be, in all parts together.
        summed: names of arrays that are added up instead.
    """

    def __init__(self, rows: int, summed: tuple[str, ...] = ()):
        self._rows, self._summed = rows, summed
        self._filled = 0
        self._arrays: dict[str, Tensor] | None = None

    def add(self, part: Mapping[str, Tensor]) -> None:
        """Copy the next part, arrays [n, ...] by name. Raises ValueError if there are more rows than were announced."""
        lengths = {len(value) for name, value in part.items() if name not in self._summed}
        if len(lengths) != 1:
            raise ValueError(f"arrays of a part must be equally long, these are {sorted(lengths)}")
        stop = self._filled + lengths.pop()
        if stop > self._rows:
            raise ValueError(f"{self._rows} rows were announced, and there are at least {stop}")
        if self._arrays is None:
            self._arrays = {name: self._start(name, value) for name, value in part.items()}
        self._arrays = {name: value for name, value in self._arrays.items() if name in part}
        for name, whole in self._arrays.items():
            if name in self._summed:
                whole.add_(part[name])
            else:
                whole[self._filled : stop] = part[name]
        self._filled = stop

    def _start(self, name: str, first: Tensor) -> Tensor:
        if name in self._summed:
            return torch.zeros_like(first)
        return torch.empty((self._rows, *first.shape[1:]), dtype=first.dtype)

    def arrays(self) -> dict[str, Tensor]:
        """All of them, by name. Raises ValueError if there are fewer rows than were announced."""
        if self._arrays is None or self._filled != self._rows:
            raise ValueError(f"{self._rows} rows were announced, and there are {self._filled}")
        return dict(self._arrays)
