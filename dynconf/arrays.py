"""A recording of any simulator, from arrays that are in memory or read a few images at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy
import torch
from torch import Tensor

from dynconf.over_time import statistics_over_time
from dynconf.recording import LOGIT_BUDGET, Recording, RecordingError, RecordingInfo

CHUNK_BYTES = 2**25


class Rows(Protocol):
    """An array that is read a few rows at a time; `shape` is known before."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""

    def chunks(self, rows: int) -> Iterator[Tensor]:
        """All rows in order, `rows` at a time."""


class InMemory:
    """An array of numpy (a memory map, too) or torch. Raises RecordingError unless it holds numbers."""

    def __init__(self, array: Any, name: str):
        if isinstance(array, Tensor):
            array = array.detach().cpu()
        else:
            array = numpy.asarray(array)
            if array.dtype.kind not in "biuf":
                raise RecordingError(f"array {name!r} is {array.dtype}, expected numbers")
        self._array = array
        self.shape = tuple(array.shape)

    def chunks(self, rows: int) -> Iterator[Tensor]:
        """See `Rows`."""
        for start in range(0, self.shape[0], rows):
            part = self._array[start : start + rows]
            yield part if isinstance(part, Tensor) else torch.from_numpy(_computable(part))


def _computable(part: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
    """A copy in this machine's byte order. Of unsigned numbers torch knows little: they become int64."""
    dtype = numpy.dtype(numpy.int64) if part.dtype.kind == "u" else part.dtype.newbyteorder("=")
    return numpy.array(part, dtype=dtype)


def recording_of(arrays: Mapping[str, Rows], info: RecordingInfo, sums: bool, keep: str = "auto") -> Recording:
    """A recording from arrays by name; T, K and what is counted are filled in from them.

    See `Recording.from_logits`, which this does the work of. Raises RecordingError.
    """
    if keep not in ("auto", "logits", "statistics"):
        raise ValueError(f"keep must be auto, logits or statistics, not {keep!r}")
    for name in ("labels", "logits"):
        if name not in arrays:
            raise RecordingError(f"array {name!r} is missing")
    logits = arrays["logits"]
    if len(logits.shape) != 3 or 0 in logits.shape:
        raise RecordingError(f"array 'logits' is {list(logits.shape)}, expected [images, timesteps, classes]")
    images, timesteps, classes = logits.shape
    as_logits = keep == "logits" or (keep == "auto" and timesteps * classes <= LOGIT_BUDGET)
    info = dataclasses.replace(
        info,
        timesteps=timesteps,
        num_classes=classes,
        scales=() if as_logits else info.scales,
        counts_spikes="spikes" in arrays,
        counts_synops="synops" in arrays,
    )
    info.check()
    labels = _whole_numbers(arrays["labels"], "labels", (images,))
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise RecordingError(
            f"array 'labels' has labels outside 0..{classes - 1}, the classes of 'logits'; found {int(outside[0])}"
        )
    stored = {"labels": labels, **_all_counts(arrays, info, images)}
    stored |= _from_logits(logits, labels, sums, as_logits, info.scales)
    return Recording.from_tensors(info, stored)


def _all_counts(arrays: Mapping[str, Rows], info: RecordingInfo, images: int) -> dict[str, Tensor]:
    """Spikes and SynOps, zeros where they were not counted."""
    stored = {}
    for name in ("spikes", "synops"):
        prelude = f"prelude_{name}"
        if prelude in arrays and name not in arrays:
            raise RecordingError(f"array {prelude!r} is there, but {name!r} is missing")
        if name in arrays and info.prelude_steps and prelude not in arrays:
            raise RecordingError(f"array {prelude!r} is missing: there is a prelude, and {name} are counted")
        stored[name] = _counts(arrays, name, (images, info.timesteps))
        stored[prelude] = _counts(arrays, prelude, (images,))
        if not info.prelude_steps and bool(stored[prelude].any()):
            raise RecordingError(f"array {prelude!r} is not zero, but 'prelude_steps' is")
    if "site_spikes" in arrays:
        if "spikes" not in arrays:
            raise RecordingError("array 'site_spikes' is there, but 'spikes' is missing")
        stored["site_spikes"] = _counts(arrays, "site_spikes", (info.timesteps, len(info.sites)))
    return stored


def _from_logits(
    logits: Rows, labels: Tensor, sums: bool, as_logits: bool, scales: tuple[float, ...]
) -> dict[str, Tensor]:
    """The stored arrays that come from the logits, a few images at a time."""
    images, timesteps, classes = logits.shape
    stored: dict[str, Tensor] = {}
    start = 0
    for chunk in logits.chunks(max(1, CHUNK_BYTES // (8 * timesteps * classes))):
        # Added up in float64 and handed out in float32, as in `RunningSum`.
        total = chunk.float() if sums else chunk.double().cumsum(1).float()
        finite = torch.isfinite(total).flatten(1).all(1)
        if not bool(finite.all()):
            first = start + int(torch.nonzero(~finite)[0])
            raise RecordingError(f"array 'logits' has NaN or infinite values, first in image {first}")
        stop = start + len(total)
        own = labels[start:stop, None, None].expand(-1, timesteps, 1)
        parts = {"logits": total} if as_logits else statistics_over_time(total, scales)
        parts["label_logits"] = total.gather(2, own)[..., 0]
        for name, part in parts.items():
            if name not in stored:
                stored[name] = torch.empty((images, *part.shape[1:]), dtype=part.dtype)
            stored[name][start:stop] = part
        start = stop
    return stored


def _whole_numbers(rows: Rows, name: str, shape: tuple[int, ...]) -> Tensor:
    """An array as int64. Labels must be of an integer dtype; counts may be whole floats."""
    if tuple(rows.shape) != shape:
        raise RecordingError(f"array {name!r} is {list(rows.shape)}, expected {list(shape)}")
    (array,) = rows.chunks(max(1, shape[0]))
    if array.dtype == torch.bool or array.is_complex() or (array.is_floating_point() and name == "labels"):
        raise RecordingError(f"array {name!r} is {str(array.dtype).removeprefix('torch.')}, expected whole numbers")
    if array.is_floating_point():
        odd = ~(torch.isfinite(array) & (array == array.round()))
        if bool(odd.any()):
            raise RecordingError(f"array {name!r} must hold whole numbers, found {float(array[odd][0]):g}")
    return array.long()


def _counts(arrays: Mapping[str, Rows], name: str, shape: tuple[int, ...]) -> Tensor:
    """Whole numbers, none of them negative; zeros where there is no such array."""
    if name not in arrays:
        return torch.zeros(shape, dtype=torch.long)
    counts = _whole_numbers(arrays[name], name, shape)
    if bool((counts < 0).any()):
        raise RecordingError(f"array {name!r} has negative numbers, {int(counts.min())} among them")
    return counts
