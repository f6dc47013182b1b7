"""Peak memory of one contestant, in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import re
import resource
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from benchmark.bench.contestants import by_name
from benchmark.bench.foreign_neurons import NotAvailable
from benchmark.bench.resident import peak_memory
from benchmark.bench.source_network import Model
from benchmark.numerics import numerics
from dynconf.batch_limit import is_out_of_memory

SHARE = 0.8  # of the memory that is free, which a contestant may take
PRELOADED = (__name__, "spikingjelly.activation_based.functional", "snntorch")  # those that are installed

# Of glibc's malloc. Blocks above this size get pages of their own, which go back when they are freed. By default the size moves
# with what was freed before, and gaps in the heap make the peaks of equal runs differ by a sixth.
M_MMAP_THRESHOLD = -3
OWN_PAGES = 1 << 12


def peak_in_a_process(model: Model, name: str, batch_size: int, timesteps: int, device: str) -> float | None:
    """MiB that a run adds at its peak to a process that has its network and images; None where nobody measures it.

    On a CPU it is the resident size, on a GPU what torch has allocated there. Raises NotAvailable where the contestant cannot
    take part or memory runs out.
    """
    # A server that has imported what all need, and forks: a process of its own for each contestant, without seconds of import.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(peak_of_run, model, name, batch_size, timesteps, device).result()
        except BrokenProcessPool as error:
            raise NotAvailable("out of memory") from error


@torch.no_grad()
def peak_of_run(model: Model, name: str, batch_size: int, timesteps: int, device: str) -> float | None:
    """The same in this process, whose memory is limited from then on."""
    place = torch.device(device)
    _give_tensors_their_own_pages()
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
            if not _forget_peak():
                run(images, timesteps)
                return None
            _leave_memory_to_others()
            before = peak_memory()
            run(images, timesteps)
            return max(0, peak_memory() - before) / 2**20
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    raise NotAvailable("out of memory")


def _give_tensors_their_own_pages() -> None:
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:
        adjust(M_MMAP_THRESHOLD, OWN_PAGES)


def _forget_peak() -> bool:
    """Let the peak begin anew at the present size (Linux); whether that could be done."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _leave_memory_to_others() -> None:
    """Make allocations fail where they would take the last memory, instead of having a process killed (Linux)."""
    free = _kibibytes("/proc/meminfo", "MemAvailable")
    own = _kibibytes("/proc/self/status", "VmData")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int((own + SHARE * free) * 1024), hard))


def _kibibytes(path: str, key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", Path(path).read_text(), re.MULTILINE)
    assert found
    return int(found[1])
