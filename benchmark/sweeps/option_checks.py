"""Options of methods and stopping rules, checked by the classes that take them; what they took before is remembered.

The classes need torch, whose import takes longer than all else that a submission does.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmark import registry
from benchmark.locating import cache_folder
from benchmark.spec import Cell, digest
from benchmark.store import write_atomic
from benchmark.sweeps.sweep_file import Sweep
from benchmark.weights import RELU

PACKAGES = ("benchmark", "dynconf", "methods")
FILE = "accepted-options.json"


Asked = tuple[str, str, Mapping[str, Any]]  # kind of the registry, name, options


def check_options(sweep: Sweep) -> None:
    """Check the options of all methods and stopping rules; imports torch unless this code has taken them all before.

    Raises UsageError for the first that is wrong.
    """
    found = {digest(asked): asked for asked in _asked(sweep)}
    cache, code = cache_folder(), _code()
    path = cache / FILE if cache is not None else None
    accepted = _accepted(path, code) if path is not None else set()
    new = {key: asked for key, asked in found.items() if key not in accepted}
    _check(new.values())
    # what a plug-in takes may change without us
    ours = {key for key, (kind, name, _) in new.items() if registry.is_built_in(kind, name)}
    if ours and path is not None:
        with suppress(OSError):  # no room, or a folder of somebody else: then they are checked again
            write_atomic(path, json.dumps({"code": code, "accepted": sorted(accepted | ours)}).encode())


def _asked(sweep: Sweep) -> Iterator[Asked]:
    for task in sweep.tasks:
        if task.cell.method != RELU:
            yield "methods", task.cell.method, task.cell.method_options
        for policy in task.cell.policies if isinstance(task.cell, Cell) else ():
            yield "policies", policy.name, policy.options


def _check(found: Collection[Asked]) -> None:
    if not found:
        return
    from benchmark.evaluation import make_policy
    from benchmark.options import build
    from benchmark.spec import PolicySpec

    for kind, name, options in found:
        if kind == "methods":
            build(registry.load(kind, name), options, f"method {name}")
        else:
            make_policy(PolicySpec(name=name, options=dict(options)))


def _code() -> str:
    """Our files as they are: edited, they may take other options."""
    files = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec is not None else ():
            for path in sorted(Path(folder).rglob("*.py")):
                status = path.stat()
                files.append([str(path), status.st_mtime_ns, status.st_size])
    return digest(files)


def _accepted(path: Path, code: str) -> set[str]:
    """Digests of the options that this code took; none if nothing readable of this code is there."""
    try:
        found = json.loads(path.read_text())
        return set(found["accepted"]) if found["code"] == code else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()
