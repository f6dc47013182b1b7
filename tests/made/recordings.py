"""Recordings made up for tests."""

from __future__ import annotations

import torch

from dynconf.evidence import SCALES, LogitEvidence, StatisticEvidence, statistics_of
from dynconf.recording import Recording, RecordingInfo


def from_logits(
    logits: torch.Tensor,
    labels: torch.Tensor,
    split: str = "test",
    *,
    prelude_steps: int = 0,
    statistics: bool = False,
    spikes: torch.Tensor | None = None,
) -> Recording:
    """A recording with these summed logits, float32 [N, T, K]."""
    images, timesteps, classes = logits.shape
    evidence = (
        StatisticEvidence(statistics_of(logits, SCALES), SCALES, classes) if statistics else LogitEvidence(logits)
    )
    spikes = torch.ones(images, timesteps, dtype=torch.long) if spikes is None else spikes
    prelude = torch.full((images,), 5 * prelude_steps)
    return Recording(
        RecordingInfo(
            split,
            timesteps,
            classes,
            prelude_steps,
            macs_once=100,
            macs_per_timestep=10,
            scales=SCALES if statistics else (),
        ),
        labels,
        evidence,
        logits.gather(2, labels[:, None, None].expand(-1, timesteps, 1))[..., 0],
        spikes,
        3 * spikes,
        prelude,
        2 * prelude,
    )


def drift(
    images: int = 400, timesteps: int = 12, classes: int = 6, split: str = "test", seed: int = 0, **options
) -> Recording:
    """A noisy race between classes that the right one usually wins."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (images,), generator=generator)
    steps = 2.5 * torch.randn(images, timesteps, classes, generator=generator)
    strength = 0.8 + torch.randn(images, generator=generator)
    steps[torch.arange(images), :, labels] += strength[:, None]
    return from_logits(steps.double().cumsum(1).float(), labels, split, **options)


def from_predictions(predictions: list[list[int]], labels: list[int], split: str = "test") -> Recording:
    """A recording with these answers over time."""
    answers = torch.tensor(predictions)
    return from_logits(torch.nn.functional.one_hot(answers, 4).float() * 3, torch.tensor(labels), split)
