"""What is recorded of summed logits, for all timesteps together."""

from __future__ import annotations

import torch
from torch import Tensor

from dynconf.evidence import statistics_of
from dynconf.leads import Leads, leads_of


def statistics_over_time(sums: Tensor, scales: tuple[float, ...]) -> dict[str, Tensor]:
    """The statistics of `StatisticEvidence` and the leads, of summed logits float32 [B, T, K] at every timestep: [B, T, ...].

    To the last bit those of each timestep alone, as a stopping rule sees them online.
    """
    if sums.is_cpu:
        return {**statistics_of(sums, scales), "leads": leads_of(sums)}
    # A GPU adds in another order where there are more rows.
    leads = Leads()
    columns: dict[str, list[Tensor]] = {}
    for total in sums.unbind(1):
        step = {**statistics_of(total.contiguous(), scales), "leads": leads.advance(total)}
        for name, value in step.items():
            columns.setdefault(name, []).append(value)
    return {name: torch.stack(values, 1) for name, values in columns.items()}
