"""Files of weights as bytes: the header of a safetensors file, and what a file is that is no such one. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmark.errors import CheckpointError

SUFFIX = ".safetensors"
_LENGTH = 8  # bytes that hold the length of the header


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file.

    Raises CheckpointError if the file is no such one, or shorter or longer than its header says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(_LENGTH), "little")
            if length > size - _LENGTH:
                raise ValueError("header is longer than the file")
            header = json.loads(stream.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no table")
        if not isinstance(header.get("__metadata__", {}), dict):
            raise ValueError("its metadata is no table")
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        expected = _LENGTH + length + max(ends, default=0)
        if size != expected:
            raise ValueError(f"it has {size:,} bytes, its header says {expected:,}")
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{path} is not a complete safetensors file: {reason}.", kind_hint(path)) from error
    return header


def kind_hint(path: Path) -> str | None:
    """What a file seems to be that is not what its name says; None if nothing is known about it."""
    try:
        with path.open("rb") as stream:
            start = stream.read(100)
    except OSError:
        return None
    if start.startswith(b"version https://git-lfs"):
        return "It is a pointer of Git LFS, not the weights: fetch them with `git lfs pull`."
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "It is a web page, not the weights: download the file itself."
    if path.suffix == SUFFIX and start.startswith((b"PK\x03\x04", b"\x80")):
        return "It looks like a pickled PyTorch file: give it a name that ends in .pt."
    if path.suffix != SUFFIX and start[_LENGTH : _LENGTH + 1] == b"{":
        return f"It looks like a safetensors file: give it a name that ends in {SUFFIX}."
    return None
