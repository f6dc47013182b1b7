"""What a stopping rule is: fitted once on calibration images, then asked timestep after timestep who may leave."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from dynconf.evidence import Evidence
from dynconf.recording import Recording

PolicyType = TypeVar("PolicyType", bound="Policy")

GIVEN = "given"

# Metadata of fields that `fit` fills in; they are parameters of a fitted policy, but no options of one that is asked for.
FITTED = {"fitted": True}
# Those that `fit` fills in for the next `fit` only: a choice that is made anew repeats its last stage alone. No parameters.
REMEMBERED = {"fitted": True, "remembered": True}


class FitError(ValueError):
    """A policy must not, or cannot, be fitted on this recording."""


@dataclass(frozen=True)
class Promise:
    """P(risk <= epsilon) >= 1 - delta over draws of the calibration images; `risk` says in words what it is."""

    epsilon: float
    delta: float
    risk: str


class Watch:
    """A policy at work on one batch of images. What a subclass remembers of an image stays and goes with that image.

    This one remembers nothing and asks `decide` of the sum of logits alone.
    """

    def __init__(self, decide: Callable[[Evidence, int], Tensor] | None = None):
        self._decide = decide

    def stops(self, evidence: Evidence, timestep: int, spikes: Tensor) -> Tensor:
        """Whether each image may stop now, bool [B].

        To be called once for every timestep, from 1 on, with what the images that are left have shown: their `evidence`
        [B], and their `spikes` in this timestep alone, int64 [B].
        """
        assert self._decide is not None, "a subclass must override stops or pass decide"
        return self._decide(evidence, timestep)

    def keep(self, mask: Tensor) -> None:
        """Go on with the images where `mask` [B] is True."""


class Policy(ABC):
    """A stopping rule. Subclasses are frozen dataclasses; `fit` returns a new one with its parameters filled in.

    A rule that looks at the present sum of logits only defines `decide`; one that remembers something of each image, or
    looks at spikes, overrides `watch` instead. Replay and the running network use the same `watch`.
    """

    name: ClassVar[str]
    needs_spikes: ClassVar[bool] = False
    """Whether it looks at spike counts, which a wrapped network does not know."""

    selection: str
    """How the parameters come about: `given`, or the name of the rule that chooses them."""

    @abstractmethod
    def _fit(self: PolicyType, recording: Recording) -> PolicyType:
        """As `fit`, after the split has been checked."""

    def decide(self, evidence: Evidence, timestep: int) -> Tensor:
        """Whether each image may stop after `timestep` (from 1): bool, the shape of the evidence."""
        raise NotImplementedError(f"{self.name} looks at more than the present sum: use watch()")

    @property
    def ageless(self) -> bool:
        """Whether it remembers nothing and decides the same at every timestep, so that images of any age are asked at once.

        Whoever does not say so is asked about each age by itself.
        """
        return False

    def watch(self) -> Watch:
        """A fresh watch over one batch."""
        return Watch(self.decide)

    def fit(self: PolicyType, recording: Recording) -> PolicyType:
        """Choose what is not given, on a calibration recording.

        Raises FitError for a test recording, and for one without spike counts where they are needed.
        """
        if recording.split == "test":
            raise FitError(f"{self.name} must not be fitted on the test split; pass the calibration recording")
        if self.needs_spikes and not recording.info.counts_spikes:
            raise FitError(f"{self.name} looks at spikes, and this recording does not count them")
        return self._fit(recording)

    @property
    def promise(self) -> Promise | None:
        """What the choice of the parameters guarantees, if anything."""
        return None

    def exit_steps(self, recording: Recording) -> Tensor:
        """The timestep at which each image stops (from 1, prelude not counted), T at the latest; int64 [N]."""
        exits = torch.full((len(recording),), recording.timesteps)
        open_ = torch.ones(len(recording), dtype=torch.bool)
        watch = self.watch()
        for timestep in range(1, recording.timesteps):
            column = timestep - 1
            stops = open_ & watch.stops(recording.evidence[:, column], timestep, recording.spikes[:, column])
            exits[stops] = timestep
            open_ &= ~stops
        return exits

    def params(self) -> dict[str, Any]:
        """The parameters in force, as JSON; what is not known, or does not apply, is left out."""
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if field.name != "selection" and not field.metadata.get("remembered")
        }
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }


def default(policy: Policy, **values: Any) -> None:
    """Fill in fields of a frozen policy that were not given (None or empty); for use in `__post_init__`."""
    for name, value in values.items():
        if getattr(policy, name) in (None, ""):
            object.__setattr__(policy, name, value)


def unfitted(what: str) -> FitError:
    """The error of a policy that is used before `fit`."""
    return FitError(f"{what} is not known yet: call fit(calibration recording) first")
