"""Where checkpoints lie: a file, timm's, or the zoo: shipped, in folders of this machine, on the Hugging Face Hub.

Nothing is fetched here.

`zoo:NAME` is looked for in this order, and the first that has the name wins:

1. the files shipped with the package;
2. the folders that the environment variable DYNCONF_BENCH_ZOO names, in its order (separated as in PATH);
3. `~/.cache/dynconf-bench/zoo` (below XDG_CACHE_HOME where that is set).

A folder holds NAME.safetensors, or NAME/model.safetensors as `publish` writes it. A name with a slash, `zoo:ORG/REPO`, is on
the Hub and nowhere else.

A record cannot be misled by two files of one name: it holds the checksum of what was read, and calls it `zoo:NAME` only if it
was shipped. A file of a local folder is called by its file name, like any file of this machine; one of the Hub by its
repository and commit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from benchmark import hub
from benchmark.backbones import TIMM
from benchmark.errors import CheckpointError, unknown_name
from benchmark.tensor_files import SUFFIX

ZOO = "zoo:"
FOLDERS = "DYNCONF_BENCH_ZOO"
LISTING = "python -m benchmark list checkpoints"
PUBLISHED = hub.FILE  # the file of a folder that `publish` has written

Origin = Literal["shipped", "local", "hub", "timm", "file"]


@dataclass(frozen=True)
class Found:
    """A checkpoint on this disk.

    Attributes:
        name: what `--checkpoint` takes for it.
        path: the file.
        source: what a record calls it; no folder of this machine is in it.
        origin: `shipped`, `local` (a folder of the zoo), `hub`, `timm` or `file`.
        folder: that folder of the zoo, for `local`.
        hidden_by: where another file has taken its name in the zoo: the name; `name` is the path then.
    """

    name: str
    path: Path
    source: str
    origin: Origin
    folder: Path | None = None
    hidden_by: str | None = None


def resolve(checkpoint: str) -> Found:
    """The file behind FILE, zoo:NAME or timm:NAME.

    Raises UsageError for an unknown name, CheckpointError if the file is not there.
    """
    if checkpoint.startswith(ZOO):
        return _in_the_zoo(checkpoint.removeprefix(ZOO))
    if checkpoint.startswith(TIMM):
        from benchmark.backbones.from_timm import locate_timm

        return Found(checkpoint, locate_timm(checkpoint.removeprefix(TIMM)), checkpoint, "timm")
    path = Path(checkpoint)
    if not path.is_file():
        hint = "Pass a file, zoo:NAME or timm:NAME."
        if (path / PUBLISHED).is_file():
            hint = f"It is a folder; pass {path / PUBLISHED}."
        raise CheckpointError(f"checkpoint {checkpoint} does not exist.", hint)
    return Found(checkpoint, path, path.name, "file")


def locate(checkpoint: str) -> Path:
    """As `resolve`, the path alone."""
    return resolve(checkpoint).path


def zoo() -> dict[str, Path]:
    """The checkpoints that zoo:NAME finds without the Hub, by NAME."""
    return {found.name.removeprefix(ZOO): found.path for found in (*shipped(), *local()) if found.hidden_by is None}


def shipped() -> tuple[Found, ...]:
    """Those in the package, sorted."""
    folder = Path(str(files("benchmark").joinpath("zoo")))
    found = [(f"{ZOO}{path.stem}", path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    return tuple(Found(name, path, name, "shipped") for name, path in found)


def local() -> tuple[Found, ...]:
    """Those in folders of this machine, in the order in which they are looked for; hidden ones too."""
    taken = {found.name for found in shipped()}
    found = []
    for folder in folders():
        for stem, path in _files_of(folder):
            name = f"{ZOO}{stem}"
            source = path.relative_to(folder).as_posix()
            hidden = name in taken
            found.append(Found(str(path) if hidden else name, path, source, "local", folder, name if hidden else None))
            taken.add(name)
    return tuple(found)


def from_hub() -> Iterator[Found]:
    """Those of the Hub in the local cache, whether they are ours or not."""
    for file, path in hub.in_cache():
        stored = hub.cached(file)
        if stored is not None:
            yield Found(f"{ZOO}{file}", path, _source(file, stored.commit), "hub")


def folders() -> tuple[Path, ...]:
    """The local folders of the zoo that are there."""
    return tuple(folder for folder in (*_named_folders(), *_own_folder()) if folder.is_dir())


def missing_folders() -> tuple[Path, ...]:
    """What DYNCONF_BENCH_ZOO names although it is no folder."""
    return tuple(folder for folder in _named_folders() if not folder.is_dir())


def _named_folders() -> Iterator[Path]:
    for part in os.environ.get(FOLDERS, "").split(os.pathsep):
        if part.strip():
            yield Path(os.path.expanduser(part.strip()))  # noqa: PTH111  (Path's own fails where nobody has a home)


def _own_folder() -> Iterator[Path]:
    if (cache := cache_folder()) is not None:
        yield cache / "zoo"


def cache_folder() -> Path | None:
    """`~/.cache/dynconf-bench`, below XDG_CACHE_HOME where that is set; None for a user without a home."""
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # as in some containers
        return None
    return Path(cache) / "dynconf-bench"


def _files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names and files of a local folder, sorted by name."""
    found = [(path.stem, path) for path in folder.glob(f"*{SUFFIX}") if path.is_file()]
    found += [(path.parent.name, path) for path in folder.glob(f"*/{PUBLISHED}") if path.is_file()]
    yield from sorted((name, path) for name, path in found if not name.startswith("."))


def _in_the_zoo(name: str) -> Found:
    if "/" in name:
        wanted = hub.parse(name)
        stored = hub.cached(wanted)
        if stored is None:
            raise CheckpointError(
                f"{ZOO}{name} is not in the cache of the Hugging Face Hub on this disk.",
                f"Fetch it, which needs internet, with: python -m benchmark prepare {ZOO}{name}",
            )
        return Found(f"{ZOO}{name}", stored.path, _source(wanted, stored.commit), "hub")
    known = {found.name.removeprefix(ZOO): found for found in (*shipped(), *local()) if found.hidden_by is None}
    if name not in known:
        error = unknown_name("checkpoint", name, known, LISTING)
        absent = (f"{FOLDERS} names {folder}, which is no folder." for folder in missing_folders())
        error.hint = " ".join(filter(None, [error.hint, *absent]))
        raise error
    return known[name]


def _source(file: hub.HubFile, commit: str) -> str:
    """A branch moves on; its commit stays."""
    return f"{ZOO}{hub.HubFile(file.repository, commit, file.file)}"
