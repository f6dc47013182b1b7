"""How this cluster wants its jobs: `slurm.toml`, in the current folder or in the user's configuration folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt, ValidationError

from benchmark.errors import UsageError, near_matches
from benchmark.spec import Frozen, Scalar
from benchmark.sweeps.tasks import Resources

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "slurm.toml"


class Profile(Frozen):
    """What jobs ask for where neither the sweep nor a flag says so, and what only the cluster knows.

    Attributes:
        resources: see `Resources`.
        setup: shell commands before the job, such as `module load cuda`.
        signal_delay: seconds between the warning and the end of a job: time to leave everything in order.
        extra: further parameters of sbatch, such as exclude = "node7".
        parallel: elements of an array that run at once.
        cells_per_job: tasks that one job does one after the other.
    """

    resources: Resources = Resources()
    setup: tuple[str, ...] = ()
    signal_delay: PositiveInt = 90
    extra: dict[str, Scalar] = Field(default_factory=dict)
    parallel: PositiveInt | None = None
    cells_per_job: PositiveInt = 1


def find_profile(given: Path | None) -> Path | None:
    """The file that is given, or the first of ./slurm.toml and dynconf-bench/slurm.toml in the configuration folder."""
    if given is not None:
        return given
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return next((path for path in (Path(FILE), home / "dynconf-bench" / FILE) if path.is_file()), None)


def load_profile(path: Path | None, name: str | None = None) -> Profile:
    """The profile of a file, with what its table [profiles.NAME] says instead; the default one without a file.

    Raises UsageError naming the file and what is wrong.
    """
    if path is None:
        if name is not None:
            raise UsageError(f"there is no {FILE} that could hold profile {name!r}.")
        return Profile()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    profiles = content.pop("profiles", {})
    if name is not None:
        if name not in profiles:
            hint = near_matches(name, profiles) or f"There are {', '.join(profiles) or 'none'}."
            raise UsageError(f"{path} has no [profiles.{name}].", hint)
        content = {**content, **profiles[name]}
    try:
        return Profile.model_validate(_sorted(content))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part).replace("_", "-") for part in problem["loc"] if part != "resources")
        known = [*Resources.model_fields, "setup", "signal-delay", "extra", "parallel", "cells-per-job", "profiles"]
        hint = near_matches(key, known) or f"There are {', '.join(known)}."
        raise UsageError(f"{path}: {key}: {problem['msg']}.", hint) from error


def _sorted(content: dict[str, Any]) -> dict[str, Any]:
    """Keys as people write them, those of resources in their place."""
    resources = {key: value for key, value in content.items() if key in Resources.model_fields}
    others = {key.replace("-", "_"): value for key, value in content.items() if key not in resources}
    return {**others, "resources": resources}
