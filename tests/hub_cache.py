"""A cache of the Hugging Face Hub as its client lays it out: blobs by checksum, snapshots by commit, names of commits."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

COMMIT = "1" * 40


def put(
    cache: Path, repository: str, file: str, content: bytes, commit: str = COMMIT, ref: str | None = "main"
) -> Path:
    """Add a file of a model repository and return its path in the snapshot."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
    link = folder / "snapshots" / commit / file
    for path in (blob, link):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    if ref is not None:
        name = folder / "refs" / ref
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_text(commit)
    return link
