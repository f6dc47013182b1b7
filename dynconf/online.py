"""Early exit for real: images leave the batch as soon as the policy is satisfied, and cost nothing from then on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dynconf.adapters import stepwise
from dynconf.evidence import LogitEvidence, RunningSum
from dynconf.policies import Policy
from dynconf.recorder import StepwiseNetwork


@dataclass(frozen=True)
class Answers:
    """One batch's answers, each tensor int64 [B] in the order of the images.

    `timesteps` excludes the prelude; `latency` includes it; `spikes` and `synops` are summed up to the exit and include
    the prelude's.
    """

    prediction: Tensor
    timesteps: Tensor
    latency: Tensor
    spikes: Tensor
    synops: Tensor


class DynamicInference:
    """Run a stepwise network under a fitted policy, dropping each image from the batch at its exit.

    Args:
        network: see `StepwiseNetwork`.
        policy: fitted.
        max_timesteps: T, at which every remaining image answers.
    """

    def __init__(self, network: StepwiseNetwork, policy: Policy, max_timesteps: int):
        if max_timesteps < 1:
            raise ValueError(f"max_timesteps must be at least 1, got {max_timesteps}")
        self.network = network
        self.policy = policy
        self.max_timesteps = max_timesteps

    @classmethod
    def wrap(
        cls,
        step_fn: Callable[[Tensor], Tensor],
        reset_fn: Callable[[], None],
        policy: Policy,
        max_timesteps: int,
        keep_fn: Callable[[Tensor], None] | None = None,
    ) -> DynamicInference:
        """Any other network: `step_fn(images [B, ...]) -> logits [B, K]` for one timestep, `reset_fn()` between batches.

        Without `keep_fn(mask)`, which drops the state of images that have left, those are still simulated, but their
        answers are frozen (see `dynconf.adapters.stepwise`). Spikes and SynOps are not known and reported as zero. Raises
        ValueError for a policy that needs spikes.
        """
        if policy.needs_spikes:
            raise ValueError(f"policy {policy.name} looks at spike counts, which a wrapped network does not know")
        return cls(stepwise(step_fn, reset_fn, keep_fn), policy, max_timesteps)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Answers:
        """Classify images [B, ...]."""
        network = self.network
        network.begin(images)
        count, device = len(images), images.device
        prediction = torch.zeros(count, dtype=torch.long, device=device)
        timesteps = torch.zeros(count, dtype=torch.long, device=device)
        spikes, synops = network.spikes.clone(), network.synops.clone()
        active = torch.arange(count, device=device)
        running, watch = RunningSum(), self.policy.watch()
        for timestep in range(1, self.max_timesteps + 1):
            evidence = LogitEvidence(running.add(network.step()))
            spikes[active] += network.spikes
            synops[active] += network.synops
            if timestep == self.max_timesteps:
                stops = torch.ones(len(active), dtype=torch.bool, device=device)
            else:
                stops = watch.stops(evidence, timestep, network.spikes)
            leaving = active[stops]
            prediction[leaving] = evidence.prediction[stops]
            timesteps[leaving] = timestep
            if len(leaving) == len(active):
                break
            if len(leaving):
                stays = ~stops
                active = active[stays]
                network.keep(stays)
                running.keep(stays)
                watch.keep(stays)
        return Answers(prediction, timesteps, timesteps + network.prelude_steps, spikes, synops)
