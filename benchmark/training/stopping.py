"""Asked to stop: by a job scheduler (SIGTERM, SIGUSR2) or a person (SIGINT). The training stops after the step it is in."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class StopRequest:
    """Raised once, seen at the next step."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def raised(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()

    def set(self) -> None:
        """Ask."""
        self._event.set()


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """A request that signals raise; a second SIGINT interrupts at once.

    Outside the main thread nothing is caught. A signal that somebody handles already stays theirs, but for SIGUSR2, the warning
    of a scheduler: it is theirs again when the state is written.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and request.raised:
            raise KeyboardInterrupt
        request.set()

    unhandled = (signal.SIG_DFL, signal.default_int_handler)
    free = [number for number in SIGNALS if number == signal.SIGUSR2 or signal.getsignal(number) in unhandled]
    before = {number: signal.signal(number, handle) for number in free}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
