"""Recordings that other simulators wrote: one file of arrays for each split, `.npz` or `.safetensors`.

Arrays: `labels` [N] and `logits` [N, T, K]; if they were counted `spikes` and `synops` [N, T], and with a prelude
`prelude_spikes` and `prelude_synops` [N]; if spikes were counted layer by layer also `site_spikes` [T, L]. Fields:
`logits_are` ("sums" or "steps"); `split`, if the file is not called `calibration` or `test`; where they apply
`prelude_steps`, `macs_once`, `macs_per_timestep`, `identity` and, with `site_spikes`, `sites` (L names). In an npz file a
field is an array without axes (`sites`: with one), in a safetensors file a string of the metadata (`sites`: JSON). Any
numeric dtype will do where the numbers fit.

Logits are read a few images at a time; where T x K is large only their statistics stay in memory. Nothing is unpickled.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dynconf.arrays import InMemory, Rows, recording_of
from dynconf.evidence import SCALES
from dynconf.recording import Recording, RecordingError, RecordingInfo

ARRAYS = ("labels", "logits", "spikes", "synops", "prelude_spikes", "prelude_synops", "site_spikes")
STRINGS, NUMBERS, NAMES = (
    ("logits_are", "split", "identity"),
    ("prelude_steps", "macs_once", "macs_per_timestep"),
    "sites",
)
FIELDS = (*STRINGS, *NUMBERS, NAMES)
SPLITS = ("calibration", "test", "train")
SUMS, STEPS = "sums", "steps"


def read_array_file(path: Path) -> Recording:
    """The recording in a file of arrays. Raises RecordingError, which names the file and the array, for anything else."""
    try:
        with _opened(path) as (arrays, fields):
            _refuse_unknown(arrays, fields)
            return recording_of(arrays, _info(path, arrays, fields), fields["logits_are"] == SUMS)
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from error
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, SafetensorError) as error:
        raise RecordingError(f"{path} is damaged, or no file of arrays: {error}") from error


def _refuse_unknown(arrays: Mapping[str, Rows], fields: Mapping[str, Any]) -> None:
    """A name that is not known may be a misspelt one, and must not be passed by."""
    for name in sorted(set(arrays) & set(FIELDS)):
        raise RecordingError(f"{name!r} is an array, expected a string in the metadata of the file")
    for name in sorted(set(arrays) - set(ARRAYS)):
        raise RecordingError(f"array {name!r} is not known; known are {', '.join(ARRAYS)}")
    for name in sorted(set(fields) - set(FIELDS)):
        raise RecordingError(f"field {name!r} is not known; known are {', '.join(FIELDS)}")


def _info(path: Path, arrays: Mapping[str, Rows], fields: Mapping[str, Any]) -> RecordingInfo:
    """What the fields say; T and K are not known yet."""
    logits_are = fields.get("logits_are")
    if logits_are not in (SUMS, STEPS):
        found = "it is missing" if logits_are is None else f"found {logits_are!r}"
        raise RecordingError(
            f"'logits_are' must say {SUMS!r} (of all timesteps up to each one) or {STEPS!r} (of each one alone); {found}"
        )
    named = path.stem if path.stem in SPLITS else None
    split = fields.get("split", named)
    if split not in SPLITS:
        found = "it is missing" if split is None else f"found {split!r}"
        raise RecordingError(f"'split' must be one of {', '.join(SPLITS)}, or the file be called so; {found}")
    if named is not None and split != named:
        raise RecordingError(f"'split' says {split!r}, but the file is called {path.name}")
    sites = tuple(fields.get("sites", ()))
    if bool(sites) != ("site_spikes" in arrays):
        raise RecordingError("'site_spikes' and 'sites', the names of its layers, go together; one of them is missing")
    return RecordingInfo(
        split=split,
        timesteps=1,
        num_classes=1,
        scales=SCALES,
        identity=fields.get("identity", ""),
        sites=sites,
        **{name: fields.get(name, 0) for name in NUMBERS},
    )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, Rows], dict[str, Any]]]:
    """The arrays, unread, and the fields of a file."""
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            members = {member.removesuffix(".npy"): _Member(archive, member) for member in archive.namelist()}
            fields = {name: _field(members.pop(name)) for name in FIELDS if name in members}
            yield dict(members), fields
        return
    with safe_open(path, framework="pt") as file:
        about = dict(file.metadata() or {})
        if "info" in about:
            raise RecordingError("this is one shard of a recording; give the folder that it is in")
        about.pop("format", None)  # of safetensors itself
        yield (
            {name: _Slices(file, name) for name in file.keys()},  # noqa: SIM118 (it is no mapping)
            {name: _parsed(name, text) for name, text in about.items()},
        )


def _parsed(name: str, text: str) -> Any:
    """A field of a safetensors file."""
    try:
        value = text if name not in (*NUMBERS, NAMES) else json.loads(text)
    except ValueError as error:
        raise RecordingError(f"{name!r} is {text!r}, which is no JSON: {error}") from error
    if name == NAMES and not isinstance(value, list):
        raise RecordingError(f"{name!r} must be a list of names in JSON, found {text!r}")
    return value


def _field(member: _Member) -> Any:
    """A field of an npz file."""
    kinds, axes, wanted = {
        **dict.fromkeys(STRINGS, ("U", 0, "a string")),
        **dict.fromkeys(NUMBERS, ("iu", 0, "one whole number")),
        NAMES: ("U", 1, "a list of strings"),
    }[member.name]
    if member.dtype.kind not in kinds or len(member.shape) != axes:
        raise RecordingError(f"{member.name!r} must be {wanted}, found {member.dtype} {list(member.shape)}")
    return member.whole().tolist()


class _Member:
    """An array in an npz file, read as a stream and never unpickled."""

    def __init__(self, archive: zipfile.ZipFile, member: str):
        self._archive, self._member = archive, member
        self.name = member.removesuffix(".npy")
        with archive.open(member) as stream:
            self.shape, self._by_columns, self.dtype = self._header(stream)

    def _header(self, stream: IO[bytes]) -> tuple[tuple[int, ...], bool, numpy.dtype[Any]]:
        readers = {(1, 0): numpy.lib.format.read_array_header_1_0, (2, 0): numpy.lib.format.read_array_header_2_0}
        try:
            header = readers[numpy.lib.format.read_magic(stream)](stream)
        except (ValueError, KeyError) as error:
            raise RecordingError(f"array {self.name!r} is not in numpy's format 1.0 or 2.0: {error}") from error
        if header[2].hasobject:
            raise RecordingError(f"array {self.name!r} holds pickled objects, which are never loaded; expected numbers")
        return header

    def whole(self) -> numpy.ndarray[Any, Any]:
        """The array in memory."""
        with self._archive.open(self._member) as stream:
            try:
                array = numpy.lib.format.read_array(stream, allow_pickle=False)
            except (ValueError, EOFError) as error:
                raise RecordingError(f"array {self.name!r} is cut short or damaged: {error}") from error
            self._finish(stream)
            return array

    def chunks(self, rows: int) -> Iterator[Tensor]:
        """See `Rows`."""
        if self._by_columns or not self.shape:
            yield from InMemory(self.whole(), self.name).chunks(rows)
            return
        size = self.dtype.itemsize
        for length in self.shape[1:]:
            size *= length
        with self._archive.open(self._member) as stream:
            self._header(stream)
            for start in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                content = stream.read(count * size)
                if len(content) < count * size:
                    raise RecordingError(f"array {self.name!r} is cut short")
                part = numpy.frombuffer(content, dtype=self.dtype).reshape((count, *self.shape[1:]))
                yield from InMemory(part, self.name).chunks(count)
            self._finish(stream)

    def _finish(self, stream: IO[bytes]) -> None:
        """At the end of the stream zipfile compares the checksum."""
        if stream.read(1):
            raise RecordingError(f"array {self.name!r} is longer than its header says")


class _Slices:
    """An array in a safetensors file, which is memory-mapped."""

    def __init__(self, file: Any, name: str):
        self._slice = file.get_slice(name)
        self.shape = tuple(self._slice.get_shape())

    def chunks(self, rows: int) -> Iterator[Tensor]:
        """See `Rows`."""
        for start in range(0, self.shape[0], rows):
            yield self._slice[start : start + rows]
