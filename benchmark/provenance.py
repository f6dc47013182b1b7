"""Where, when and with what a run was made. No host names, no paths."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "dynconf-bench",
    "torch",
    "torchvision",
    "timm",
    "datasets",
    "numpy",
    "scipy",
    "safetensors",
    "scikit-learn",
    "submitit",
)
SLURM_KEYS = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_PARTITION", "SLURM_RESTART_COUNT")


class Phases:
    """Seconds of wall-clock time per named phase of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Installed versions of what computes the numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any]:
    """Commit of the source tree this package runs from, whether it was changed, and the sha256 of the change."""
    root = Path(__file__).resolve().parent.parent
    sha = _git(root, "rev-parse", "HEAD")
    if sha is None or not (root / ".git").exists():
        return {"git_sha": None, "dirty": None, "diff_sha256": None}
    code = ("benchmark", "methods", "dynconf")  # what numbers depend on
    dirty = bool(_git(root, "status", "--porcelain", "--", *code))
    diff = _git(root, "diff", "HEAD", "--", *code) or ""
    return {"git_sha": sha, "dirty": dirty, "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if dirty else None}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(root), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def slurm_environment() -> dict[str, str]:
    """What SLURM says about this job; empty elsewhere."""
    return {key: os.environ[key] for key in SLURM_KEYS if key in os.environ}


def device_name(device: Any) -> str:
    """The accelerator's name, or the processor's with its number of threads."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()} ({torch.get_num_threads()} threads)"


def processor_name() -> str:
    """The processor as its vendor calls it, where the system says so."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
