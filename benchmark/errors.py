"""Errors that a user can act on: each carries the exit code of the command line and, where there is one, a hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STALE = 3
EXIT_INTERRUPTED = 130


class BenchmarkError(Exception):
    """Base of every error that is reported in one line instead of a traceback.

    `hint` says what to do next; `exit_code` is what the process returns.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n{self.hint}" if self.hint else message


class UsageError(BenchmarkError):
    """The request itself cannot be right: unknown name, wrong type, impossible combination."""

    exit_code = EXIT_USAGE


class Incompatible(BenchmarkError):
    """This method cannot convert this network: the cell is skipped, with this reason."""

    exit_code = EXIT_OK


class DatasetMissing(UsageError):
    """The dataset is not on this disk; `run` never downloads."""


class CheckpointError(UsageError):
    """A checkpoint is unreadable, unsafe, foreign, or does not fit the network."""


class DataError(BenchmarkError):
    """A dataset is there but its content is wrong: corrupt image, label out of range, wrong count."""


class RecordError(BenchmarkError):
    """A result record cannot be read: corrupt, invalid, or from an unknown schema."""


class StaleLeaderboard(BenchmarkError):
    """The committed leaderboard differs from what its records say."""

    exit_code = EXIT_STALE


def near_matches(name: str, known: Iterable[str]) -> str:
    """A sentence that names up to three close spellings, or an empty string."""
    known = list(known)
    by_fold = {entry.casefold(): entry for entry in known}
    close = difflib.get_close_matches(name.casefold(), list(by_fold), n=3, cutoff=0.55)
    close += [entry for entry in by_fold if entry.startswith(name.casefold()) and entry not in close][: 3 - len(close)]
    if not close:
        return ""
    return "Did you mean " + " or ".join(repr(by_fold[entry]) for entry in close) + "?"


def unknown_name(kind: str, name: str, known: Iterable[str], listing: str) -> UsageError:
    """The error for a name that is in no table, with near matches and the command that lists them."""
    hint = " ".join(part for part in (near_matches(name, known), f"List them with: {listing}") if part)
    return UsageError(f"unknown {kind} {name!r}.", hint)
