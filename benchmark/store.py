"""Where results live: `<root>/<dataset>/<model>/<method>/<id>.json`; beside them `recordings/`, `checkpoints/`, `training/`.

Every write is atomic, so a reader never meets half a file and two writers of the same cell cannot harm each other.
"""

from __future__ import annotations

import gc
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import RecordError, UsageError
from benchmark.records import ResultRecord, load_record
from benchmark.spec import RunSpec

DEFAULT_RESULTS = Path("leaderboard/results")
NOT_RECORDS = ("recordings", "checkpoints", "training", "sweeps")


@dataclass(frozen=True)
class BadRecord:
    """A file that should be a record but is not; `reason` names the file."""

    path: Path
    reason: str


class ResultStore:
    """Result records below a folder, addressed by id."""

    def __init__(self, root: Path | str = DEFAULT_RESULTS):
        self.root = Path(root)

    def path(self, spec: RunSpec) -> Path:
        """Where the record of `spec` belongs."""
        return self.root / file_name(spec.dataset) / file_name(spec.model) / spec.method / f"{spec.id}.json"

    def recording_folder(self, spec: RunSpec) -> Path:
        """Where the recordings of `spec` belong (one folder per split below it)."""
        return self.root / "recordings" / spec.recording_id

    @property
    def checkpoints(self) -> Path:
        """Trained networks."""
        return self.root / "checkpoints"

    @property
    def training(self) -> Path:
        """Training records, and the states of unfinished trainings."""
        return self.root / "training"

    def get(self, spec: RunSpec) -> ResultRecord | None:
        """The stored record of `spec`, or None. Raises RecordError if the file is there but wrong."""
        path = self.path(spec)
        return load_record(path) if path.exists() else None

    def save(self, record: ResultRecord) -> Path:
        """Write a record in its place and return the path."""
        path = self.path(record.spec)
        write_atomic(path, record.to_json().encode())
        return path

    def paths(self) -> Iterator[Path]:
        """Every record file, sorted."""
        if not self.root.is_dir():
            return
        for path in sorted(self.root.rglob("*.json")):
            relative = path.relative_to(self.root)
            if relative.parts[0] not in NOT_RECORDS and not path.name.startswith("."):
                yield path

    def load_all(self) -> tuple[list[ResultRecord], list[BadRecord]]:
        """All readable records, and the files that are not."""
        good, bad = [], []
        with collection_paused():
            for path in self.paths():
                try:
                    good.append(load_record(path))
                except RecordError as error:
                    bad.append(BadRecord(path, str(error)))
        return good, bad

    def find(self, prefix: str) -> ResultRecord:
        """The one record whose id starts with `prefix`. Raises UsageError if there is none or several."""
        paths = [path for path in self.paths() if path.stem.startswith(prefix)]
        if not paths:
            raise UsageError(
                f"no record {prefix!r} under {self.root}.", "See the ids in the leaderboard, or pass --results."
            )
        if len(paths) > 1:
            raise UsageError(f"{prefix!r} is not unique: {', '.join(path.stem for path in paths)}.")
        return load_record(paths[0])


@contextmanager
def collection_paused() -> Iterator[None]:
    """Without searches for reference cycles: among many records, which have none, they take most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def file_name(name: str) -> str:
    """A name as one path component."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it is either not there or complete, even after a crash or with two writers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    checksum = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            checksum.update(block)
    return checksum.hexdigest()
