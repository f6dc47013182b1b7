"""How much memory a process has had."""

from __future__ import annotations

import resource


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
