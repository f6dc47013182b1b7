"""One process at a time for a piece of work, on any file system that several machines share; no lock server.

A claim is a file that its owner touches while it works. It is void once nobody has touched it for a while, or its owner was a
process of this machine that is gone. Times are those of the file server, so clocks need not agree.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

BEAT_SECONDS = 10.0
STALE_SECONDS = 180.0  # network file systems may show a time of change up to a minute late


class Claim:
    """The right to do one piece of work.

    Args:
        path: the file; its folder is made.
        beat_seconds: between two touches.
        stale_seconds: without a touch for so long, the owner counts as dead.
    """

    def __init__(self, path: Path, beat_seconds: float = BEAT_SECONDS, stale_seconds: float = STALE_SECONDS):
        self.path = path
        self.beat_seconds, self.stale_seconds = beat_seconds, stale_seconds
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None

    def take(self) -> bool:
        """Take it if it is free or void, and keep it alive from then on. Raises OSError if the folder cannot be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._link(self.path):
            if not self.is_void() or not self._remove_void():
                return False
            if not self._link(self.path):
                return False
        self._stop.clear()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()
        return True

    def release(self) -> None:
        """Give it back; harmless if it is not ours (any more)."""
        self._stop.set()
        if self._beating is not None:
            self._beating.join()
            self._beating = None
        if self.is_ours():
            self.path.unlink(missing_ok=True)

    def is_ours(self) -> bool:
        """Whether the file is the one that this object wrote."""
        owner = self.owner()
        return owner is not None and owner.get("token") == self._token

    def owner(self) -> dict[str, Any] | None:
        """Who has it: token, host, pid, and SLURM job if it is one; None if nobody."""
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def is_void(self) -> bool:
        """Whether nobody works under it: it is not there, its owner is gone from this machine, or has long been silent."""
        try:
            touched = self.path.stat().st_mtime
        except FileNotFoundError:
            return True
        owner = self.owner()
        if owner is not None and owner.get("machine") == _machine() is not None:
            return _started(owner["pid"]) != owner["started"]
        return self._now() - touched > self.stale_seconds

    def _link(self, path: Path) -> bool:
        """Make the file, whole at once, if it is not there."""
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".claim.")
        try:
            with os.fdopen(handle, "w") as stream:
                json.dump(self._own(), stream)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            return True
        finally:
            Path(temporary).unlink()

    def _own(self) -> dict[str, Any]:
        job = os.environ.get("SLURM_JOB_ID")
        return {
            "token": self._token,
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            **({"job": job} if job else {}),
        }

    def _remove_void(self) -> bool:
        """Remove a void claim, one process at a time; whether it is gone. A fresh one that has come in its place stays."""
        removing = self.path.with_name(f"{self.path.name}.removing")
        if not self._link(removing):
            with suppress(FileNotFoundError):  # who removes needs no time
                if self._now() - removing.stat().st_mtime > self.stale_seconds:
                    removing.unlink()
            return False
        aside = self.path.with_name(f".void.{self._token}")
        try:
            seen = self.path.read_bytes()
            if not self.is_void():
                return False
            self.path.rename(aside)
            if aside.read_bytes() == seen:
                return True
            with suppress(FileExistsError):
                os.link(aside, self.path)  # it was given back and taken by another in this moment
            return False
        except FileNotFoundError:  # given back
            return True
        finally:
            aside.unlink(missing_ok=True)
            removing.unlink(missing_ok=True)

    def _now(self) -> float:
        """The file server's time."""
        with tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=".clock.") as file:
            return Path(file.name).stat().st_mtime

    def _beat(self) -> None:
        while not self._stop.wait(self.beat_seconds):
            owner = self.owner()
            if owner is not None and owner.get("token") != self._token:
                return
            with suppress(OSError):  # the next one may succeed; until then the claim grows old, as it should
                os.utime(self.path)


def _machine() -> str | None:
    """This boot of this machine (and container, if that counts processes anew); None where the kernel does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's words; None if there is no such process, or no telling."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else rest[18]


@contextmanager
def waiting_for(claim: Claim, seconds: float = 1.0) -> Iterator[None]:
    """Take the claim as soon as it can be had, however long that takes, and give it back."""
    while not claim.take():
        time.sleep(seconds)
    try:
        yield
    finally:
        claim.release()
