"""Where randomness comes from: numbers that say what it is for. Nothing has to be stored to go on after a stop."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What a stream of random numbers is for."""

    ORDER = 0
    SHIFTS = 1
    PICTURE = 2
    STEP = 3
    HOLES = 4


def seed_of(seed: int, purpose: Purpose, *numbers: int) -> int:
    """A seed for torch in 0..2^63-1, as good as independent for any other arguments."""
    return int(np.random.SeedSequence([seed, int(purpose), *numbers]).generate_state(1, np.uint64)[0] >> 1)


def generator(seed: int, purpose: Purpose, *numbers: int) -> torch.Generator:
    """A CPU generator seeded so."""
    return torch.Generator().manual_seed(seed_of(seed, purpose, *numbers))
