"""Which images are shown: fixed by the exits and the order of the test split alone."""

from __future__ import annotations

import torch
from torch import Tensor


def earliest(exits: Tensor, count: int) -> list[int]:
    """The images that leave first, those of lower index first; exits are int64 [N]."""
    return _chosen(exits, count)


def latest(exits: Tensor, count: int, without: list[int]) -> list[int]:
    """The images that leave last, those of lower index first, but for `without`."""
    taken = set(without)
    return [index for index in _chosen(-exits, count + len(without)) if index not in taken][:count]


def lost(exits: Tensor, correct: Tensor, count: int) -> list[int]:
    """The first images that are right after all timesteps and wrong at their exit; `correct` is bool [N, T]."""
    at_exit = correct.gather(1, exits[:, None] - 1)[:, 0]
    return torch.nonzero(correct[:, -1] & ~at_exit)[:count, 0].tolist()


def _chosen(keys: Tensor, count: int) -> list[int]:
    return torch.argsort(keys, stable=True)[:count].tolist()  # type: ignore[no-any-return]
