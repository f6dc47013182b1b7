"""What measured the figures of a page, in words."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmark.provenance import device_name, git_state


def machine(place: torch.device, packages: Sequence[str]) -> list[str]:
    """What the figures depend on, one line each: machine, versions of the packages, commit."""
    state = git_state()
    commit = f"{state['git_sha'][:12]}{', changed since' if state['dirty'] else ''}" if state["git_sha"] else "unknown"
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    return [f"Machine: {device_name(place)}", f"Versions: {versions}", f"Commit: {commit}"]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
