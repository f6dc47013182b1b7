"""A training that was warned has written its state and ended; only then may submitit queue its job again."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

END_SECONDS = 300.0  # the scheduler ends the job long before


@contextmanager
def requeued_when_interrupted() -> Iterator[None]:
    """Pass a warning (SIGUSR2) on to submitit once the training that it stopped is over.

    submitit queues the job again in its first process and leaves the others to the scheduler, which ends them with it.
    """
    try:
        yield
    except KeyboardInterrupt:
        if signal.getsignal(signal.SIGUSR2) not in (signal.SIG_DFL, signal.SIG_IGN):
            signal.raise_signal(signal.SIGUSR2)
            time.sleep(END_SECONDS)  # an early end of this process could end the first one before it has asked
        raise
