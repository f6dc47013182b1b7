"""How runs talk to people: one line at a time, bars on a terminal, quiet lines in a log. All on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

LOG_INTERVAL = 30.0


class Console:
    """Progress and remarks on stderr."""

    def say(self, text: str) -> None:
        """One line."""
        click.echo(text, err=True)

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """A bar on a terminal; elsewhere a line at the end, and every half minute if it takes longer.

        `done` of the `total` images are done already.
        """
        if sys.stderr.isatty():
            from tqdm import tqdm

            with tqdm(total=total, initial=done, desc=title, unit="image") as progress:
                yield lambda count: _ignore(progress.update(count))
            return
        start = last = time.monotonic()
        now_done = done

        def update(count: int) -> None:
            nonlocal now_done, last
            now_done += count
            if time.monotonic() - last > LOG_INTERVAL:
                last = time.monotonic()
                rate = (now_done - done) / (last - start)
                left = (total - now_done) / rate
                self.say(
                    f"{title}: {now_done}/{total} images, {last - start:.0f} s, {rate:.0f} a second, {left:.0f} s left"
                )

        yield update
        self.say(f"{title}: {now_done}/{total} images, {time.monotonic() - start:.1f} s")


def _ignore(_: object) -> None:
    """tqdm's update returns whether it displayed; callers do not care."""
