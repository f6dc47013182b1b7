"""What measured the figures of a page, in words: the machine, and the command that was given."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import click
import torch
from click.core import ParameterSource

from benchmark.provenance import device_name, git_state


def machine(place: torch.device, packages: Sequence[str]) -> list[str]:
    """What the figures depend on, one line each: machine, versions of the packages, commit."""
    state = git_state()
    commit = f"{state['git_sha'][:12]}{', changed since' if state['dirty'] else ''}" if state["git_sha"] else "unknown"
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    return [f"Machine: {device_name(place)}", f"Versions: {versions}", f"Commit: {commit}"]


def command_line() -> str:
    """The running command with all its options, so that it can be given again.

    A page is named where it is not the usual one, so that it is the one that is written again; a folder of data is not.
    """
    context = click.get_current_context()
    words = ["python", "-m", "benchmark.bench", str(context.info_name)]
    for option in context.command.params:
        name, kind = str(option.name), option.type
        value = context.params.get(name)
        usual = context.get_parameter_source(name) is ParameterSource.DEFAULT
        if value is None or (usual and (isinstance(kind, click.Path) or isinstance(value, bool))):
            continue
        if isinstance(value, bool):
            words.append((option.opts if value else option.secondary_opts)[0])
        elif isinstance(kind, click.Path) and kind.dir_okay:
            words += [option.opts[0], "DIR"]
        else:
            for each in value if option.multiple else [value]:
                words += [option.opts[0], f"{each:g}" if isinstance(each, float) else str(each)]
    return shlex.join(words)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
