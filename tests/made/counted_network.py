"""A stepwise network that reads its logits and spikes off the image: the same numbers in whatever batch."""

from __future__ import annotations

import torch


class CountedNetwork:
    """Images are [B, T, K + 1]: the logits of each timestep, and its number of spikes."""

    prelude_steps = 0

    def begin(self, images):
        self.images, self.timestep = images, 0
        self.spikes = self.synops = torch.zeros(len(images), dtype=torch.long)

    def step(self):
        shown = self.images[:, self.timestep]
        self.timestep += 1
        self.spikes = shown[:, -1].long()
        self.synops = 3 * self.spikes
        return shown[:, :-1]

    def keep(self, mask):
        self.images = self.images[mask]
        self.spikes, self.synops = self.spikes[mask], self.synops[mask]


def racing_images(count, timesteps=10, classes=5, seed=0):
    """Images [count, T, K + 1] and labels; each comes to rest at a time of its own, some never."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    images = torch.randint(-4, 5, (count, timesteps, classes + 1), generator=generator).double()
    images[torch.arange(count), :, labels] += 3 + torch.randint(-2, 3, (count, 1), generator=generator)
    images[..., -1] = torch.randint(1, 9, (count, timesteps), generator=generator)
    rest = torch.randint(3, max(2 * timesteps, 4), (count,), generator=generator)
    return images * (torch.arange(timesteps)[None, :] < rest[:, None])[..., None], labels
