"""Early exit by chance: what remains of a rule if it knows when images leave, but not which."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from dynconf.evidence import Evidence
from dynconf.names import POLICIES
from dynconf.policy import FITTED, GIVEN, Policy, unfitted
from dynconf.rechoosing import Rechosen, of_choosing_part, rechosen
from dynconf.recording import Recording

_MANTISSA = 12


@dataclass(frozen=True)
class RandomExit(Policy):
    """Stop at random, at the rate at which the images leave under a reference policy on the calibration recording.

    A sanity control: a rule that looks at the image has to be more accurate than this at the same latency. After timestep t
    an image that is still there leaves with probability `rates[t - 1]`, the share of the calibration images still there that
    leave then under `reference` (a name of `dynconf.names`, with its default options); so the exit times have the same
    distribution.

    The dice are a hash of the two largest sums at that timestep, of t and of `seed`. So an image leaves at the same time in
    replay and online, in whatever batch and order it comes, while the hash leaves nothing of how sure the network is. The
    sums are rounded to 12 bits first, so that float32 rounding, which differs between batch sizes, rarely throws the dice
    anew. Images whose sums are equal leave together.
    """

    name: ClassVar[str] = "random"

    reference: str = "dynamic-confidence"
    seed: int = 0
    rates: tuple[float, ...] | None = field(default=None, metadata=FITTED)
    selection: str = "reference"

    def __post_init__(self) -> None:
        others = [name for name in POLICIES if name != self.name]
        if self.reference not in others:
            raise ValueError(f"reference must be one of {', '.join(others)}, not {self.reference!r}")
        if self.selection == GIVEN and self.rates is None:
            raise ValueError("rates are not given")

    def decide(self, evidence: Evidence, timestep: int) -> Tensor:
        if self.rates is None:
            raise unfitted("the rate of each timestep")
        rate = self.rates[timestep - 1] if timestep <= len(self.rates) else 1.0
        return self.dice(evidence, timestep) < rate

    def dice(self, evidence: Evidence, timestep: int) -> Tensor:
        """Pseudo-random numbers in [0, 1), float64, the shape of the evidence."""
        mantissa, exponent = torch.frexp(evidence.top[..., :2].double())
        digits = (mantissa * 2**_MANTISSA).round().long() + (exponent.long() << 32)
        state = torch.full_like(digits[..., 0], self.seed * 1_000_003 + timestep)
        for column in range(digits.shape[-1]):
            state = _mixed(state ^ digits[..., column])
        return (_mixed(state) & (2**53 - 1)).double() / 2**53

    def _fit(self, recording: Recording) -> RandomExit:
        if self.selection == GIVEN:
            return self
        exits = self._fitted_reference(recording).exit_steps(recording)
        rates = _rates(torch.bincount(exits - 1, minlength=recording.timesteps).double())
        return dataclasses.replace(self, rates=tuple(rates.tolist()))

    def _fitted_reference(self, recording: Recording) -> Policy:
        entry = POLICIES[self.reference]
        module, _, attribute = entry.target.partition(":")
        reference: Policy = getattr(importlib.import_module(module), attribute)(**entry.options)
        return reference.fit(recording)


def _rates(leaving: Tensor) -> Tensor:
    """The share of those still there that leaves at each timestep; `leaving` and the result are float64 [..., T]."""
    there = leaving.flip(-1).cumsum(-1).flip(-1)
    return torch.where(there > 0, leaving / there.clamp_min(1), 1.0)


def _mixed(value: Tensor) -> Tensor:
    """A bijection of int64 in which every bit depends on every bit: multiply by odd numbers, fold high bits onto low ones."""
    for shift, factor in ((32, 0x2545F4914F6CDD1D), (29, 0x5851F42D4C957F2D), (32, 1)):
        value = (value ^ ((value >> shift) & (2 ** (64 - shift) - 1))) * factor
    return value + 0x1E3779B97F4A7C15


@rechosen.register
def _rechosen(policy: RandomExit, part: Recording, test: Recording, counts: Tensor) -> Rechosen | None:
    """The reference chooses anew in each resample, and the rates are those of the drawn images under it."""
    if policy.selection == GIVEN:
        return None
    reference = policy._fitted_reference(part)
    own, own_counts = of_choosing_part(reference, part, counts)
    found = rechosen(reference, own, part, own_counts)
    if found is None:
        found = Rechosen(reference.exit_steps(part)[:, None].short(), torch.zeros(len(counts), dtype=torch.long))
    timesteps = part.timesteps
    weights = counts[: len(found.choice)].double()
    leaving = torch.zeros(len(weights), timesteps, dtype=torch.float64)
    for resample, variant in enumerate(found.choice.tolist()):
        column = found.exits[:, variant].long() - 1
        leaving[resample] = torch.bincount(column, weights[resample], minlength=timesteps)
    rates = _rates(leaving)
    exits = torch.full((len(test), len(rates)), test.timesteps, dtype=torch.int16)
    for timestep in reversed(range(1, test.timesteps)):
        rate = rates[:, timestep - 1] if timestep <= timesteps else torch.ones(len(rates), dtype=torch.float64)
        dice = policy.dice(test.evidence[:, timestep - 1], timestep)
        exits[dice[:, None] < rate] = timestep
    return Rechosen(exits, torch.arange(len(rates)))
