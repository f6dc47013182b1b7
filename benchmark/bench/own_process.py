"""Work in a process of its own, and the memory that it adds there at its peak."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import re
import resource
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from benchmark.bench.resident import peak_memory

SHARE = 0.8  # of the memory that is free, which a measured run may take

# Of glibc's malloc. Blocks above this size get pages of their own, which go back when they are freed. By default the size moves
# with what was freed before, and gaps in the heap make the peaks of equal runs differ by a sixth.
M_MMAP_THRESHOLD = -3
OWN_PAGES = 1 << 12

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


def in_own_process(
    preloaded: Sequence[str],
    function: Callable[Arguments, Answer],
    *arguments: Arguments.args,
    **options: Arguments.kwargs,
) -> Answer:
    """What the function, of a module, returns in a fresh process that has imported the `preloaded` modules.

    Those that are not installed are passed over. The first call of a program decides which they are. Raises BrokenProcessPool
    if the process is killed.
    """
    # A server that has imported what all need, and forks: a process of its own for each call, without seconds of import.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preloaded))
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments, **options).result()


def give_tensors_their_own_pages() -> None:
    """Let freed tensors go back to the system at once (glibc); to be called before any are made."""
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:
        adjust(M_MMAP_THRESHOLD, OWN_PAGES)


def added_at_peak(run: Callable[[], object]) -> float | None:
    """MiB of resident memory that a run adds at its peak to this process, whose memory is limited from then on.

    None where nobody measures it (elsewhere than on Linux).
    """
    if not _forget_peak():
        run()
        return None
    _leave_memory_to_others()
    before = peak_memory()
    run()
    return max(0, peak_memory() - before) / 2**20


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
