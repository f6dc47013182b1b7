"""The page and its figures on disk: writing them whole or not at all, and telling whether they are current."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from leaderboard.chart import Chart
from leaderboard.drawing import fingerprint_in, svg
from leaderboard.page import FIGURES

DIFF_LINES = 12


def publish(page: str, charts: Mapping[str, Chart], output: Path) -> list[Path]:
    """Write the page to `output` and a figure per slug beside it; return what was written, the page first.

    Figures that show these numbers already are left alone, because another version of matplotlib would only change
    their bytes. Figures of ours that no table has any more are removed. Raises OSError if the folder is not writable.
    """
    folder = output.parent / FIGURES
    written = []
    for slug, chart in charts.items():
        path = folder / f"{slug}.svg"
        if _fingerprint(path) != chart.fingerprint:
            write_atomic(path, svg(chart))
            written.append(path)
    # After its figures, so that a page never links to one that is not there.
    write_atomic(output, page.encode())
    for path in _stale(folder, charts):
        path.unlink(missing_ok=True)
    return [output, *written]


def differences(page: str, charts: Mapping[str, Chart], output: Path) -> list[str]:
    """What `publish` would change, in words."""
    found = []
    try:
        current = output.read_text(encoding="utf-8")
    except FileNotFoundError:
        found.append(f"{output}: missing")
    except (OSError, UnicodeDecodeError) as error:
        found.append(f"{output}: unreadable ({error})")
    else:
        if current != page:
            found.append(f"{output}: text differs from the records\n{_diff(current, page)}")
    folder = output.parent / FIGURES
    for slug, chart in charts.items():
        path = folder / f"{slug}.svg"
        if not path.is_file():
            found.append(f"{path}: missing")
        elif _fingerprint(path) != chart.fingerprint:
            found.append(f"{path}: made from other data")
    return found + [f"{path}: stale, no table has this figure" for path in _stale(folder, charts)]


def _stale(folder: Path, charts: Mapping[str, Chart]) -> list[Path]:
    """Figures that carry our fingerprint but belong to no table. Files of others are not ours to judge."""
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.glob("*.svg")) if path.stem not in charts and _fingerprint(path)]


def _fingerprint(path: Path) -> str | None:
    try:
        return fingerprint_in(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def _diff(current: str, wanted: str) -> str:
    old, new = current.splitlines(), wanted.splitlines()
    lines = list(difflib.unified_diff(old, new, "on disk", "from records", n=0, lineterm=""))
    left_out = len(lines) - DIFF_LINES
    return "\n".join(lines[:DIFF_LINES] + ([f"... and {left_out} more lines"] if left_out > 0 else []))


def write_atomic(path: Path, content: bytes) -> None:
    """A reader meets the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)  # noqa: PTH105 - the atomicity is os.replace's documented promise
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
