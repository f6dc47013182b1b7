"""Where datasets are looked for on this disk, and what is said when they are not there. Nothing here goes online."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import DatasetMissing


def roots(name: str, data_dir: Path | None) -> list[Path]:
    """The folders to look into: `data_dir`, or without one ./data and ./data/<name>."""
    return [data_dir] if data_dir is not None else [Path("data"), Path("data") / name]


def hub_snapshot(repository: str) -> Path | None:
    """The newest copy of a dataset repository in the cache of the Hugging Face hub, complete or not; None without one."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, repo_type="dataset", local_files_only=True))
    except FileNotFoundError:
        return None


def not_on_disk(name: str, looked: Sequence[str], hint: str | None = None) -> DatasetMissing:
    """The error that says what was looked for; the hint is the `prepare` command unless another is given."""
    return DatasetMissing(
        f"{name} is not on this disk. Looked for: {', '.join(looked)}.",
        hint or f"With internet: python -m benchmark prepare {name} --data-dir DIR; then run with --data-dir DIR.",
    )
