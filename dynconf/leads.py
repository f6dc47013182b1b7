"""By how much the present answer has been winning lately: the leads it gained over every other class in the last timesteps.

A converted network in its steady state adds nearly the same logits in every timestep, so where the sum will end shows in what
the last timesteps added, earlier than in the sum, which still holds the transient of the first ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Over how many of the last timesteps leads are taken.
WINDOWS = (1, 2, 4, 8)
# So many numbers stay in the cache.
SUMS_AT_ONCE = 2**15


class Leads:
    """Follows a batch of images and remembers their last sums of logits."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def advance(self, sums: Tensor) -> Tensor:
        """The leads after one more timestep, float32 [B, len(WINDOWS)].

        For a window of w timesteps: the logits that the class with the largest sum got during the last w timesteps, minus the
        most that any other class got, per timestep. From the start, if there were fewer than w.

        Args:
            sums: summed logits, float32 [B, K], with K at least 2.
        """
        answer = sums.argmax(-1, keepdim=True)
        present = sums.double()
        leads = []
        for window in WINDOWS:
            steps = min(window, len(self._sums) + 1)
            gained = present - self._sums[-window].double() if window <= len(self._sums) else present
            own = gained.gather(-1, answer)[..., 0]
            others = gained.scatter(-1, answer, -torch.inf).amax(-1)
            leads.append((own - others) / steps)
        self._sums = [*self._sums[-max(WINDOWS) + 1 :], sums]
        return torch.stack(leads, -1).float()

    def keep(self, mask: Tensor) -> None:
        """Go on with the images where `mask` [B] is True."""
        self._sums = [sums[mask] for sums in self._sums]


def leads_of(sums: Tensor) -> Tensor:
    """What `Leads.advance` gives at each timestep, float32 [B, T, len(WINDOWS)], from summed logits float32 [B, T, K]."""
    together = max(1, SUMS_AT_ONCE // max(1, sums[0].numel())) if len(sums) else 1
    return torch.cat([_leads_of(part) for part in sums.split(together)])


def _leads_of(sums: Tensor) -> Tensor:
    timesteps = sums.shape[1]
    answer = sums.argmax(-1, keepdim=True)
    present = sums.double()
    leads = []
    for window in WINDOWS:
        gained = present.clone()
        gained[:, window:] -= present[:, :-window]
        own = gained.gather(-1, answer)[..., 0]
        others = gained.scatter_(-1, answer, -torch.inf).amax(-1)
        steps = torch.arange(1, timesteps + 1, dtype=torch.float64, device=sums.device).clamp_(max=window)
        leads.append((own - others) / steps)
    return torch.stack(leads, -1).float()
