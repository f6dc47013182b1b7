"""Several processes for one training, started by torchrun or by a SLURM job: who am I, and how do we agree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from benchmark.errors import UsageError
from benchmark.numerics import choose_device
from benchmark.training.batch_norm import share_batch_norms
from benchmark.training.batches import Share

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class Team:
    """This process among those of the training, and its device."""

    share: Share
    device: torch.device

    @property
    def leads(self) -> bool:
        """The process that writes files and talks."""
        return self.share.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.share.world > 1:
            distributed.all_reduce(values)
        return values

    def any(self, value: bool) -> bool:
        """Whether it is so in any process."""
        if self.share.world == 1:
            return value
        return bool(self.sum(torch.tensor(float(value), device=self.device)))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.share.world > 1:
            distributed.barrier()

    def wrap(self, model: nn.Module, sync_batch_norm: bool) -> nn.Module:
        """The network with gradients averaged over all processes; batch norms take their statistics over all of them."""
        if self.share.world == 1:
            return model
        if sync_batch_norm:
            model = share_batch_norms(model, self.device)
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)


def leading() -> bool:
    """Whether this process is the one that talks, by the environment."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def team(device: str, joined: bool = True) -> Iterator[Team]:
    """Join the process group that the environment describes; a lone process, or one that is not to be `joined`, needs none.

    Raises UsageError for an incomplete environment, or a device that is not there.
    """
    given = [name for name in VARIABLES if name in os.environ]
    if not joined or not given or os.environ.get("WORLD_SIZE") == "1":
        yield Team(Share(), choose_device(device))
        return
    if len(given) < len(VARIABLES):
        missing = ", ".join(name for name in VARIABLES if name not in given)
        raise UsageError(
            f"the environment has {', '.join(given)} but not {missing}.",
            "Start several processes with: torchrun --nproc-per-node N -m benchmark train ...",
        )
    rank, world, local = (int(os.environ[name]) for name in VARIABLES)
    chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", local % torch.cuda.device_count())  # SLURM may show each task its own GPU alone
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Team(Share(rank, world), chosen)
    finally:
        distributed.destroy_process_group()
