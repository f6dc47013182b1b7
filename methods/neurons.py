"""Spiking neurons. State belongs to the instance, is made by the first current after `reset`, and is per image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods.fused import Rule, fire_and_count, fuses, memory_order
from methods.tally import SpikeTally

# Per-image tensors [B, ...] by name; None before the first timestep.
State = dict[str, Tensor | None]


class Stateful(nn.Module):
    """A module with per-image tensors, named in `state_names`; each is None before the first timestep.

    All that a module remembers of its images must be in them: rows leave (`keep`), and fresh images take the places of others
    (`replace`), so that images of different age share a batch.
    """

    state_names: ClassVar[tuple[str, ...]] = ()

    @property
    def replayable(self) -> bool:
        """Whether a timestep after the first is always the same operations, so that a GPU can record and replay them.

        Nothing but the states may then differ from one timestep to the next. Whoever does not say so is not recorded.
        """
        return False

    def reset(self) -> None:
        """Forget the images: the next input starts from the initial state."""
        for name in self.state_names:
            setattr(self, name, None)

    def keep(self, rows: Tensor) -> None:
        """Go on with the images at `rows` (int64 indices, or bool [B])."""
        for name in self.state_names:
            state = getattr(self, name)
            if state is not None:
                setattr(self, name, state[rows])

    def set_aside(self) -> State:
        """The state of the images as it stands, for `restore` or `replace`; it is not copied."""
        return {name: getattr(self, name) for name in self.state_names}

    def restore(self, state: State) -> None:
        """Go on with the images of `state`."""
        for name, value in state.items():
            setattr(self, name, value)

    def replace(self, state: State, rows: Tensor) -> None:
        """Go on with the images of `state`, in which the first images that are here take the places `rows` (int64 [n]).

        `state` is changed. An image that has seen no timestep yet starts as `initial_state` says, if the others have.
        """
        for name, others in state.items():
            if others is None:
                continue
            own = getattr(self, name)
            if own is None:
                own = self.initial_state(name, others.new_empty(len(rows), *others.shape[1:]))
            # A copy: a replayed timestep may have put both into one place.
            others[rows] = own[: len(rows)].clone()
        self.restore(state)

    def initial_state(self, name: str, like: Tensor) -> Tensor:
        """What the state `name` is before the first timestep, of the shape, dtype and device of `like` [B, ...].

        A subclass answers for the states that it names. Raises NotImplementedError where it does not: its images cannot
        share a batch with older ones.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say how its state {name!r} begins: override initial_state()"
        )


class SpikingNeuron(Stateful, ABC):
    """A layer of neurons that turns the input current of one timestep into unit spikes.

    Spikes are 0/1 (kind `binary`) or -1/0/+1 (kind `signed`) in the dtype of the membrane; what a spike is worth,
    `amplitude`, is folded into the synapses behind it by the conversion. A subclass names its per-image tensors in
    `state_names`.
    """

    kind: str = "binary"
    state_names: ClassVar[tuple[str, ...]] = ("membrane",)

    def __init__(self) -> None:
        super().__init__()
        self.tally: SpikeTally | None = None
        self.counts: tuple[Tensor, Tensor] | None = None
        self.reset()

    @property
    @abstractmethod
    def amplitude(self) -> float | Tensor:
        """The value that one spike transmits: a positive number, or one per channel [C]."""

    @abstractmethod
    def fire(self, current: Tensor) -> Tensor:
        """Charge with `current` [B, ...], fire, reset; returns the spikes, same shape."""

    def forward(self, current: Tensor) -> Tensor:
        """One timestep; `counts` then holds this step's spikes and SynOps per image."""
        fused = self.fire_fused(current) if fuses(current) else None
        if fused is not None:
            return fused
        spikes = self.fire(current)
        if self.tally is not None:
            self.counts = self.tally(spikes)
        return spikes

    def fire_fused(
        self, current: Tensor, steps: int = 1, constant: bool = False, in_place: bool = False
    ) -> Tensor | None:
        """`forward` in one kernel, for as many timesteps: see `methods.fused.fire_and_count`.

        None if there is none for these neurons or currents.
        """
        return None

    def reset(self) -> None:
        super().reset()
        self.counts = None


class ThresholdNeuron(SpikingNeuron):
    """What integrate-and-fire neurons share: a threshold (one number, or one per channel) and a membrane.

    Args:
        threshold: positive; a float, or [C] for inputs [B, C, ...].
        initial: v(0) in units of the threshold.

    The membrane is at least float32, whatever the precision of the synapses.
    """

    membrane: Tensor | None

    def __init__(self, threshold: float | Tensor, initial: float = 0.5):
        super().__init__()
        self.threshold: float | Tensor
        if isinstance(threshold, Tensor):
            self.register_buffer("threshold", threshold.detach().clone())
        else:
            self.threshold = float(threshold)
        self.initial = float(initial)

    @property
    def amplitude(self) -> float | Tensor:
        return self.threshold

    def level(self, like: Tensor) -> float | Tensor:
        """The threshold so that it broadcasts against `like` [B, C, ...]."""
        if isinstance(self.threshold, Tensor):
            return self.threshold.to(like.dtype).reshape(-1, *[1] * (like.dim() - 2))
        return self.threshold

    def charge(self, current: Tensor) -> Tensor:
        """Add `current` to the membrane, which starts at `initial` thresholds, and return it."""
        if self.membrane is None:
            self.membrane = self.start(current)
        return self.membrane.add_(current)

    def start(self, current: Tensor) -> Tensor:
        """A fresh membrane for currents of the shape, dtype and device of this one; its values do not matter."""
        dtype = current.dtype if current.dtype == torch.float64 else torch.float32
        membrane = torch.full_like(current, self.initial, dtype=dtype)
        return membrane.mul_(self.level(membrane))

    def initial_state(self, name: str, like: Tensor) -> Tensor:
        return self.start(like) if name == "membrane" else super().initial_state(name, like)

    def rule(self) -> Rule | None:
        """The same as `fire` with a float32 membrane, in numbers for the kernel; None where `fire` does anything else."""
        return None

    def standing(self) -> Tensor | None:
        """The spikes that stand of each neuron, of the shape of the membrane; None for neurons that never retract any."""
        return None

    @property
    def replayable(self) -> bool:
        return self.rule() is not None

    def is_plain(self, kind: type[ThresholdNeuron]) -> bool:
        """Whether this charges and fires as `kind` does, with one threshold: subclasses may do it otherwise."""
        own, usual = type(self), (kind.fire, ThresholdNeuron.charge)
        return (own.fire, own.charge) == usual and not isinstance(self.threshold, Tensor)

    def fire_fused(
        self, current: Tensor, steps: int = 1, constant: bool = False, in_place: bool = False
    ) -> Tensor | None:
        rule = self.rule()
        if rule is None:
            return None
        if memory_order(current) is None:
            current = current.contiguous()
        if self.membrane is None:
            self.membrane = self.start(current if constant else current[: len(current) // steps])
        count, mask = self.standing(), getattr(self, "mask", None)
        order = memory_order(current)
        states = [self.membrane, *(state for state in (count, mask) if state is not None)]
        if order is None or any(not state.is_contiguous(memory_format=order) for state in states):
            return None
        fan_out = None if self.tally is None else self.tally.in_memory(order, current.device)
        spikes, totals = fire_and_count(
            current,
            self.membrane,
            rule,
            steps=steps,
            constant=constant,
            in_place=in_place,
            count=count,
            mask=mask,
            fan_out=fan_out,
        )
        if totals is not None:
            self.counts = (totals[0], totals[1])
        return spikes

    def extra_repr(self) -> str:
        threshold = self.threshold
        shown = f"[{len(threshold)}]" if isinstance(threshold, Tensor) else f"{threshold:.6g}"
        return f"threshold={shown}, initial={self.initial:g}"


class IFNeuron(ThresholdNeuron):
    """Integrate-and-fire without leak, with soft reset (reset by subtraction).

    m(t) = v(t-1) + I(t);  s(t) = [m(t) >= threshold];  v(t) = m(t) - threshold * s(t);  v(0) = initial * threshold.
    Bu et al. 2022 (arXiv:2303.04347) eq. 1-4; `initial` = 1/2 is their optimal shift.
    """

    def rule(self) -> Rule | None:
        return Rule(float(self.threshold), float(self.threshold)) if self.is_plain(IFNeuron) else None

    def fire(self, current: Tensor) -> Tensor:
        membrane = self.charge(current)
        level = self.level(membrane)
        # Comparing into a float tensor saves the pass that would turn booleans into numbers.
        spikes = torch.ge(membrane, level, out=torch.empty_like(membrane))
        _subtract(membrane, spikes, level)
        return spikes

    def fire_each(self, currents: Sequence[Tensor], spikes: Sequence[Tensor]) -> None:
        """`fire` timestep after timestep, into `spikes`: tensors in the dtype of the membrane, which may be the currents."""
        membrane = self.charge(currents[0])
        level = self.level(membrane)
        # A number would be made a tensor at every comparison.
        bar = membrane.new_tensor(level) if len(currents) > 1 and not isinstance(level, Tensor) else level
        plain = type(self).charge is ThresholdNeuron.charge
        for timestep, (current, own) in enumerate(zip(currents, spikes, strict=True)):
            if timestep:
                membrane = membrane.add_(current) if plain else self.charge(current)
            torch.ge(membrane, bar, out=own)
            _subtract(membrane, own, level)


def _subtract(membrane: Tensor, spikes: Tensor, level: float | Tensor) -> None:
    """The soft reset."""
    if isinstance(level, Tensor):
        membrane.addcmul_(spikes, level, value=-1)
    else:
        membrane.sub_(spikes, alpha=level)


def tolerance_of(membrane: Tensor) -> float:
    """How far from a threshold, in thresholds, rounding may leave a membrane that lies exactly on it."""
    return 1e-10 if membrane.dtype == torch.float64 else 1e-6


def firing_slack_of(membrane: Tensor) -> float:
    """The same for a single comparison while a network runs, where slack adds up over all its neurons.

    On ResNet-20 with 2 bits, slack of 1e-6 in float32 changed the settled answer of 4 in 1,000 images, 2e-7 of none, and the
    network fell silent as early.
    """
    return 1e-10 if membrane.dtype == torch.float64 else 2e-7


class SignedIFNeuron(ThresholdNeuron):
    """Integrate-and-fire with negative spikes that retract earlier ones, and a count c of what stands.

    m(t) = v(t-1) + I(t)
    +1 if m(t) >= threshold and c < levels;  -1 if m(t) < floor and c >= 1
    v(t) = m(t) - threshold * s(t);  c += s(t)

    Both comparisons allow for rounding (`firing_slack_of`); the lower one for twice as much, so that a membrane on a
    threshold is not moved to and fro for ever. Li, Ma, Furber 2022 (QFFS).

    Args:
        threshold: as above.
        levels: Q, the largest count; None leaves it open.
        initial: v(0) in thresholds.
        floor: below which a spike is retracted, in thresholds.
        at_floor: retract a spike on the floor too, not only below it.
    """

    kind = "signed"
    state_names: ClassVar[tuple[str, ...]] = ("membrane", "count")
    count: Tensor | None

    def __init__(
        self,
        threshold: float | Tensor,
        levels: int | None = None,
        initial: float = 0.5,
        floor: float = 0.0,
        at_floor: bool = False,
    ):
        super().__init__(threshold, initial)
        self.levels = levels
        self.floor = float(floor)
        self.at_floor = at_floor

    def initial_state(self, name: str, like: Tensor) -> Tensor:
        return torch.zeros_like(like) if name == "count" else super().initial_state(name, like)

    def fire(self, current: Tensor) -> Tensor:
        membrane, count = self.charge(current), self.standing()
        threshold, slack = self.level(membrane), firing_slack_of(membrane)
        # Numbers throughout, as in `IFNeuron`: spikes are 1 for those that go up, less 1 for those that come down.
        spikes = torch.ge(membrane, threshold * (1.0 - slack), out=torch.empty_like(membrane))
        if self.levels is not None:
            spikes.mul_(torch.lt(count, self.levels - 0.5, out=torch.empty_like(membrane)))
        down = torch.lt(membrane, threshold * self._floor(slack), out=torch.empty_like(membrane))
        spikes.sub_(down.mul_(torch.gt(count, 0.5, out=torch.empty_like(membrane))))
        _subtract(membrane, spikes, threshold)
        count.add_(spikes)
        return spikes

    def standing(self) -> Tensor:
        if self.count is None:
            assert self.membrane is not None
            self.count = torch.zeros_like(self.membrane)
        return self.count

    def _floor(self, slack: float) -> float:
        """Where spikes are retracted, in thresholds."""
        return self.floor + slack if self.at_floor else self.floor - 2.0 * slack

    def rule(self) -> Rule | None:
        if not self.is_plain(SignedIFNeuron):
            return None
        threshold, slack = float(self.threshold), firing_slack_of(torch.empty(0, dtype=torch.float32))
        return Rule(threshold, threshold * (1.0 - slack), threshold * self._floor(slack), self.levels)
