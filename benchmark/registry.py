"""One lazy registry for methods, datasets, backbones and policies: ours, installed plug-ins, and plug-in files.

Third parties add entries without touching ours: an installed package declares an entry point in the group
`dynconf_bench.<kind>` (`name = "module:Attribute"`); a file passed with `--plugin FILE` calls
`benchmark.registry.register(kind, name, object)`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError, unknown_name

KINDS = ("methods", "datasets", "models", "policies")

_SINGULAR = {"methods": "method", "datasets": "dataset", "models": "model", "policies": "policy"}

_TABLES = {
    "methods": ("methods", "METHODS"),
    "datasets": ("benchmark.data", "DATASETS"),
    "models": ("benchmark.backbones", "BACKBONES"),
    "policies": ("dynconf.names", "POLICIES"),
}

_plugins: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}


def register(kind: str, name: str, target: Any) -> None:
    """Add an object under a name. Raises UsageError for an unknown kind or a name that is already taken."""
    if kind not in KINDS:
        raise unknown_name("kind of plug-in", kind, KINDS, "python -m benchmark list --help")
    if name in names(kind):
        raise UsageError(f"{_SINGULAR[kind]} {name!r} is already registered.")
    _plugins[kind][name] = target


def entries(kind: str) -> dict[str, Any]:
    """Name to table entry, sorted by name. Imports no torch."""
    found: dict[str, Any] = {**_table(kind), **_installed(kind), **_plugins[kind]}
    return dict(sorted(found.items()))


def names(kind: str) -> list[str]:
    """Every known name, sorted."""
    return list(entries(kind))


def entry(kind: str, name: str) -> Any:
    """The table entry of a name. Raises UsageError with near matches for an unknown one.

    A parametrised entry, NAME:PARAMETER in the table, is that of every name with something behind the same NAME and a
    colon.
    """
    known = entries(kind)
    if name in known:
        return known[name]
    start, _, parameter = name.partition(":")
    for key, found in known.items():
        if parameter and getattr(found, "parametrised", False) and key.partition(":")[0] == start:
            return found
    raise unknown_name(_SINGULAR[kind], name, known, f"python -m benchmark list {kind}")


def is_built_in(kind: str, name: str) -> bool:
    """Whether a name stands for something of ours, not of a plug-in. Raises UsageError for an unknown one."""
    found = entry(kind, name)
    return any(found is each for each in _table(kind).values())


def load(kind: str, name: str) -> Any:
    """The object behind a name (a class or a function), imported now; a parametrised one made for its parameter."""
    found = entry(kind, name)
    if isinstance(found, EntryPoint):
        return found.load()
    target = getattr(found, "target", None)
    if not isinstance(target, str):
        return found
    module, _, attribute = target.partition(":")
    loaded = getattr(importlib.import_module(module), attribute)
    return loaded(name.partition(":")[2]) if getattr(found, "parametrised", False) else loaded


def load_plugin(path: str | Path) -> None:
    """Run a plug-in file once. Raises UsageError if it is missing or fails."""
    path = Path(path).resolve()
    # Two files of one name in two folders are two plug-ins.
    module_name = f"dynconf_bench_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(f"plug-in {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        del sys.modules[module_name]
        raise
    except BaseException as error:
        del sys.modules[module_name]
        raise UsageError(f"plug-in {path} failed: {type(error).__name__}: {error}") from error


def _table(kind: str) -> Mapping[str, Any]:
    module, attribute = _TABLES[kind]
    return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]


@cache
def _installed(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"dynconf_bench.{kind}")}
