"""Early exit for real: images leave the batch as soon as the policy is satisfied, and cost nothing from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynconf.adapters import stepwise
from dynconf.continuous import ContinuousBatch
from dynconf.image_stream import ImageBatch, ImageStream
from dynconf.policies import Policy
from dynconf.recorder import StepwiseNetwork

# On a CPU, at batch 64 and 512 with exits after 12 of 32 timesteps on average, images that have left then fill under 1% of
# the rows (4% at 1/8, 11% at 1/4), and refilling more often gains nothing.
REFILL = 1 / 16


@dataclass(frozen=True)
class Answers:
    """The answers to some images, each tensor int64 [B] in the order of the images.

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
        network: see `StepwiseNetwork`; for `stream` it should be a `dynconf.continuous.RefillableNetwork`.
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
        restart_fn: Callable[[Tensor], None] | None = None,
    ) -> DynamicInference:
        """Any other network: `step_fn(images [B, ...]) -> logits [B, K]` for one timestep, `reset_fn()` between batches.

        Without `keep_fn(mask)`, which drops the state of images that have left, those are still simulated, but their
        answers are frozen; without `restart_fn(rows)`, which lets the state of some rows begin anew, `stream` goes batch after
        batch (see `dynconf.adapters.stepwise`). Spikes and SynOps are not known and reported as zero. Raises ValueError for a
        policy that needs spikes.
        """
        if policy.needs_spikes:
            raise ValueError(f"policy {policy.name} looks at spike counts, which a wrapped network does not know")
        return cls(stepwise(step_fn, reset_fn, keep_fn, restart_fn), policy, max_timesteps)

    def __call__(self, images: Tensor) -> Answers:
        """Classify images [B, ...] as one batch, which shrinks; the answers are on the device of the images.

        Where the network says that fewer images at a time are faster (`places_for`), they are several batches.
        """
        batch = self._batch([images], max(1, len(images)), refill=1.0)
        return self._answers(_in_order(list(batch.exits())).to(images.device))

    def stream(
        self,
        batches: Iterable[ImageBatch],
        batch_size: int = 64,
        refill: float | None = None,
        buckets: Sequence[int] | None = None,
    ) -> Answers:
        """Classify a stream of images in a batch that stays full: fresh images take the places of those that have left.

        Args:
            batches: images [B, ...] on the network's device, B of any size and not always the same; or pairs (images, labels)
                of which the labels are ignored. Batches are asked for as there is room, so the stream may be endless or slow.
            batch_size: places, at most: there are fewer where the network says that fewer are faster (`places_for`), and
                no `buckets` are given.
            refill: the share of the places that has to be free before fresh images come in, between 0 (one free place is
                enough) and 1 (all, which is batch after batch). Until then the images that have left go on costing time; but
                every refill costs the stem and the prelude of a small batch, which is slow on a GPU. None: 1 for a network
                that computes images of different age apart (`parts_ages`; in `methods` QFFS and ST-BIF, where some are
                still driven and others settle), 1/16 for any other.
            buckets: if given, the only numbers of rows that are ever computed, for networks that are compiled or captured for
                certain shapes; the largest is `batch_size`. Without, those that the network asks for (`row_sizes`): few on a
                GPU, which prepares its kernels anew for every number of rows.

        Returns the answers, on the CPU, in the order of the stream. Every image exits as it would alone. A network that cannot
        take in images (no `replace`) runs batch after batch, each of which shrinks, as `refill=1` asks for. Raises ValueError
        for options out of range.
        """
        batch = self._batch(batches, batch_size, refill, buckets)
        return self._answers(_in_order(list(batch.exits())))

    def iter_stream(
        self,
        batches: Iterable[ImageBatch],
        batch_size: int = 64,
        refill: float | None = None,
        buckets: Sequence[int] | None = None,
    ) -> Iterator[Answers]:
        """As `stream`, but gives answers as soon as those to all earlier images are known: some images' at a time.

        What is held at a time does not grow with the stream: at most `batch_size * max_timesteps` answers wait for an earlier
        image.
        """
        batch = self._batch(batches, batch_size, refill, buckets)
        return self._as_they_come(batch)

    def _as_they_come(self, batch: ContinuousBatch) -> Iterator[Answers]:
        given = 0
        waiting: list[Tensor] = []
        for left in batch.exits():
            waiting.append(left)
            if given not in left[0]:
                continue
            known = _in_order(waiting)
            ready = int((known[0] == torch.arange(given, given + known.shape[1])).long().cumprod(0).sum())
            yield self._answers(known[:, :ready])
            given += ready
            waiting = [known[:, ready:].clone()]

    def _batch(
        self,
        batches: Iterable[ImageBatch],
        batch_size: int,
        refill: float | None,
        buckets: Sequence[int] | None = None,
    ) -> ContinuousBatch:
        stream = ImageStream(batches)
        if refill is None:
            refill = 1.0 if getattr(self.network, "parts_ages", False) else REFILL
        return ContinuousBatch(self.network, self.policy, self.max_timesteps, stream, batch_size, refill, buckets)

    def _answers(self, exits: Tensor) -> Answers:
        _, timesteps, prediction, spikes, synops = exits
        return Answers(prediction, timesteps, timesteps + self.network.prelude_steps, spikes, synops)


def _in_order(exits: list[Tensor]) -> Tensor:
    """What `ContinuousBatch.exits` has given so far, in the order of the stream, int64 [5, n]."""
    together = torch.cat([torch.zeros(5, 0, dtype=torch.long), *exits], 1)
    return together[:, together[0].argsort()]
