"""Checkpoints on the Hugging Face Hub: ORG/REPO[@REVISION][#FILE.safetensors], read from the cache of the Hub's own client.

Only `download` reaches the network. Files that could hold code are not taken: safetensors alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from benchmark.errors import CheckpointError, UsageError
from benchmark.tensor_files import SUFFIX

FILE = f"model{SUFFIX}"
FORM = f"ORG/REPO[@REVISION][#FILE{SUFFIX}]"


@dataclass(frozen=True)
class HubFile:
    """A file of a model repository at a branch, tag or commit."""

    repository: str
    revision: str = "main"
    file: str = FILE

    def __str__(self) -> str:
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"{self.repository}{revision}{'' if self.file == FILE else f'#{self.file}'}"


@dataclass(frozen=True)
class Cached:
    """A file in the cache, and the commit (40 hexadecimal digits) that it is from."""

    path: Path
    commit: str


def parse(text: str) -> HubFile:
    """What `FORM` names. Raises UsageError."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    rest, hash_sign, file = text.partition("#")
    repository, at, revision = rest.partition("@")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UsageError(
            f"zoo:{text} names no repository of the Hugging Face Hub: {error}", f"It is {FORM}."
        ) from error
    if repository.count("/") != 1 or (at and not _is_path(revision)):
        raise UsageError(f"zoo:{text} names no repository of the Hugging Face Hub.", f"It is {FORM}.")
    if hash_sign and not (_is_path(file) and file.endswith(SUFFIX)):
        raise UsageError(f"zoo:{text} names no {SUFFIX} file in its repository.", f"It is {FORM}.")
    return HubFile(repository, revision or "main", file or FILE)


def _is_path(text: str) -> bool:
    """Whether this is a relative path that stays below where it starts."""
    return re.fullmatch(r"[\w.+-]+(/[\w.+-]+)*", text) is not None and ".." not in text.split("/")


def cached(wanted: HubFile) -> Cached | None:
    """The file in the local cache, None if it is not there; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(wanted.repository, wanted.file, revision=wanted.revision)
    return _in_snapshot(Path(found), wanted.file) if isinstance(found, str) else None


def download(wanted: HubFile) -> Cached:
    """Fetch the file into the local cache; only `prepare` calls it.

    Raises CheckpointError if there is no such repository, revision or file, or the Hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository = f"repository {wanted.repository} of the Hugging Face Hub"
    try:
        path = hf_hub_download(wanted.repository, wanted.file, revision=wanted.revision)
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repository} asks for agreement to its terms.", "Agree there, then: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repository}: there is none, or it is private.", "Look for a typo; for a private one: hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repository} has no revision {wanted.revision!r}.") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(f"{repository} cannot be reached: {_line(error)}") from error
    except EntryNotFoundError as error:
        raise CheckpointError(f"{repository} has no {wanted.file}.", _what_is_there(wanted)) from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{wanted.file} cannot be fetched from {repository}: {_line(error)}") from error
    return _in_snapshot(Path(path), wanted.file)


def in_cache() -> Iterator[tuple[HubFile, Path]]:
    """Every safetensors file of a model repository in the local cache, sorted. The revision is `main` where it is that."""
    from huggingface_hub import constants

    # Looking for one is quick, importing the scanner is not.
    if not any(Path(constants.HF_HUB_CACHE).glob("models--*")):
        return
    from huggingface_hub import scan_cache_dir

    found = [
        (HubFile(repo.repo_id, "main" if "main" in revision.refs else revision.commit_hash, name), file.file_path)
        for repo in scan_cache_dir(constants.HF_HUB_CACHE).repos
        if repo.repo_type == "model" and "/" in repo.repo_id
        for revision in repo.revisions
        for file in revision.files
        if (name := file.file_path.relative_to(revision.snapshot_path).as_posix()).endswith(SUFFIX)
    ]
    yield from sorted(found, key=lambda each: (each[0].repository, each[0].revision, each[0].file))


def _in_snapshot(path: Path, file: str) -> Cached:
    """The cache keeps a file under snapshots/COMMIT/FILE."""
    return Cached(path, path.parents[len(PurePosixPath(file).parts) - 1].name)


def _what_is_there(wanted: HubFile) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        names = HfApi().list_repo_files(wanted.repository, revision=wanted.revision)
    except (HfHubHTTPError, OSError):
        return None
    there = sorted(name for name in names if name.endswith(SUFFIX))
    return f"Name one of its files with #: {', '.join(there[:5])}." if there else f"It has no {SUFFIX} file at all."


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
