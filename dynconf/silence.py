"""Early exit once a network that settles has come to rest."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynconf.evidence import Evidence
from dynconf.policy import GIVEN, Policy, Watch, default, unfitted
from dynconf.recording import Recording


@dataclass(frozen=True)
class Silence(Policy):
    """Stop after a timestep in which no neuron fired and no sum of logits moved, if it is later than `after`.

    For networks that are driven for a while and then settle, like `qffs` and `st-bif`: when image and biases have ceased to
    act, a timestep without a spike leaves every membrane as it is, so there will be none ever after and the answer is that
    of all timesteps. While the biases act, that of the readout moves the sums, which is why they are looked at. A network
    whose readout has no bias may be silent and still be driven; `after`, the number of timesteps it is driven for, makes the
    rule exact there too. Without `after`, fit takes the last timestep at which a calibration image was at rest and moved
    again later, or 0. Networks that are driven for ever hardly come to rest and run to T; so
    do images of which rounding moves a few neurons to and fro.
    """

    name: ClassVar[str] = "silence"
    needs_spikes: ClassVar[bool] = True

    after: int | None = None
    selection: str = ""

    def __post_init__(self) -> None:
        if self.after is not None and self.after < 0:
            raise ValueError(f"after must not be negative, got {self.after}")
        default(self, selection=GIVEN if self.after is not None else "calibration")

    def watch(self) -> Watch:
        if self.after is None:
            raise unfitted("the time of rest")
        return _Rest(self.after)

    def _fit(self, recording: Recording) -> Silence:
        if self.selection == GIVEN:
            return self
        return dataclasses.replace(self, after=int(last_false_rest(recording).max()))


def last_false_rest(recording: Recording) -> Tensor:
    """The last timestep at which each image was at rest and moved again later, 0 if there is none; int64 [N]."""
    watch = _Rest(0)
    resting = torch.stack(
        [watch.stops(recording.evidence[:, t], t + 1, recording.spikes[:, t]) for t in range(recording.timesteps)]
    )
    for_good = resting.flip(0).int().cumprod(0).flip(0).bool()
    return ((resting & ~for_good) * torch.arange(1, len(resting) + 1)[:, None]).amax(0)


class _Rest(Watch):
    """Whether each image's neurons and sums stood still in the last timestep."""

    def __init__(self, after: int):
        super().__init__()
        self._after = after
        self._sums: Tensor | None = None
        self._answer: Tensor | None = None

    def stops(self, evidence: Evidence, timestep: int, spikes: Tensor) -> Tensor:
        sums, answer = evidence.top, evidence.prediction
        if self._sums is None:  # at the first timestep there is nothing to compare with
            stops = torch.zeros_like(answer, dtype=torch.bool)
        else:
            stops = (spikes == 0) & (sums == self._sums).all(-1) & (answer == self._answer)
        self._sums, self._answer = sums, answer
        return stops & (timestep > self._after)

    def keep(self, mask: Tensor) -> None:
        if self._sums is not None and self._answer is not None:
            self._sums, self._answer = self._sums[mask], self._answer[mask]
