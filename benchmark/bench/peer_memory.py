"""Peak memory of one contestant, in a process of its own."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool

import torch

from benchmark.bench.contestants import by_name
from benchmark.bench.foreign_neurons import NotAvailable
from benchmark.bench.own_process import added_at_peak, give_tensors_their_own_pages, in_own_process
from benchmark.bench.source_network import Model
from benchmark.numerics import numerics
from dynconf.batch_limit import is_out_of_memory

PRELOADED = (__name__, "spikingjelly.activation_based.functional", "snntorch")  # those that are installed


def peak_in_a_process(model: Model, name: str, batch_size: int, timesteps: int, device: str) -> float | None:
    """MiB that a run adds at its peak to a process that has its network and images; None where nobody measures it.

    On a CPU it is the resident size, on a GPU what torch has allocated there. Raises NotAvailable where the contestant cannot
    take part or memory runs out.
    """
    try:
        return in_own_process(PRELOADED, peak_of_run, model, name, batch_size, timesteps, device)
    except BrokenProcessPool as error:
        raise NotAvailable("out of memory") from error


@torch.no_grad()
def peak_of_run(model: Model, name: str, batch_size: int, timesteps: int, device: str) -> float | None:
    """The same in this process, whose memory is limited from then on."""
    place = torch.device(device)
    give_tensors_their_own_pages()
    try:
        with numerics("fp32", place):
            images = model.images(batch_size).to(place)
            # Pages of libraries and compiled kernels; by another network, whose state is gone afterwards.
            by_name(name).build(model.build().to(place))(images[:1], 1)
            run = by_name(name).build(model.build().to(place))
            if place.type == "cuda":
                torch.cuda.reset_peak_memory_stats(place)
                before = torch.cuda.memory_allocated(place)
                run(images, timesteps)
                return float(torch.cuda.max_memory_allocated(place) - before) / 2**20
            return added_at_peak(lambda: run(images, timesteps))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    raise NotAvailable("out of memory")
