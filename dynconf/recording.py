"""A recording: what one full simulation leaves behind, enough to replay every stopping rule."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dynconf.evidence import SCALES, TOP, LogitEvidence, StatisticEvidence
from dynconf.joining import Joined
from dynconf.leads import WINDOWS

FORMAT = 1
HEADER = "recording.json"
SHARD = 512
SITES = "sites"
# Up to this many logits an image are kept as they are; above, statistics of them.
LOGIT_BUDGET = 4096
ARRAY_FILES = (".npz", ".safetensors")

# Of the stored arrays. Whoever writes a shard keeps to them; `dynconf.arrays` takes anything that can be converted.
DTYPES = {
    "labels": torch.int64,
    "logits": torch.float32,
    "label_logits": torch.float32,
    "spikes": torch.int64,
    "synops": torch.int64,
    "prelude_spikes": torch.int64,
    "prelude_synops": torch.int64,
    "site_spikes": torch.int64,
    "prediction": torch.int32,
    "top": torch.float32,
    "log_sum_exp": torch.float64,
    "expected_logit": torch.float32,
    "leads": torch.float32,
}
STATISTICS = ("prediction", "top", "log_sum_exp", "expected_logit", "leads")
COUNTS = ("spikes", "synops", "prelude_spikes", "prelude_synops")


class RecordingError(ValueError):
    """A recording is incomplete, damaged, or not what was asked for; the message names the file."""


@dataclass(frozen=True)
class RecordingInfo:
    """What a recording says about itself.

    `split` is `train`, `calibration` or `test` (or anything else that is not `test`, for foreign data);
    `prelude_steps` are timesteps before the first answer; MACs are per image. `sites` names the spiking layers of
    `site_spikes`; it is empty where spikes were not counted layer by layer. Where `counts_spikes` or `counts_synops` is
    False nobody counted: the arrays hold zeros that mean nothing.
    """

    split: str
    timesteps: int
    num_classes: int
    prelude_steps: int = 0
    macs_once: int = 0
    macs_per_timestep: int = 0
    scales: tuple[float, ...] = ()
    identity: str = ""
    sites: tuple[str, ...] = ()
    counts_spikes: bool = True
    counts_synops: bool = True

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without `sites`: they stand beside it in the files, where programs that do not know them pass them by.

        A flag that says that something was not counted is written, so that such a program refuses the file rather than
        taking zeros for counts.
        """
        values = {**vars(self), "scales": list(self.scales), "format": FORMAT}
        del values["sites"]
        for flag in ("counts_spikes", "counts_synops"):
            if values[flag]:
                del values[flag]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], sites: Sequence[str] = ()) -> RecordingInfo:
        """From JSON. Raises RecordingError for another format, for missing keys and for values that cannot be."""
        values = dict(values)
        if values.pop("format", None) != FORMAT:
            raise RecordingError(f"not a recording of format {FORMAT}")
        try:
            info = cls(**{**values, "scales": tuple(values.get("scales", ())), "sites": tuple(sites)})
        except TypeError as error:
            raise RecordingError(f"header does not fit: {error}") from error
        info.check()
        return info

    def check(self) -> None:
        """Raises RecordingError for values of the wrong type or out of range."""
        for name, least in (
            ("timesteps", 1),
            ("num_classes", 1),
            ("prelude_steps", 0),
            ("macs_once", 0),
            ("macs_per_timestep", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise RecordingError(f"{name!r} must be a whole number of at least {least}, found {value!r}")
        for name in ("split", "identity"):
            if not isinstance(getattr(self, name), str):
                raise RecordingError(f"{name!r} must be a string, found {getattr(self, name)!r}")
        for name in ("counts_spikes", "counts_synops"):
            if not isinstance(getattr(self, name), bool):
                raise RecordingError(f"{name!r} must be true or false, found {getattr(self, name)!r}")
        if not all(isinstance(scale, (int, float)) and 0 < scale < float("inf") for scale in self.scales):
            raise RecordingError(f"'scales' must be positive numbers, found {list(self.scales)}")
        if not all(isinstance(site, str) for site in self.sites):
            raise RecordingError(f"'sites' must be strings, found {list(self.sites)}")


@dataclass(frozen=True)
class Recording:
    """All images of one split, all timesteps.

    Attributes:
        info: what it is.
        labels: int64 [N].
        evidence: of [N, T].
        label_logits: float32 [N, T], the summed logit of the true class.
        spikes, synops: int64 [N, T], of each timestep alone.
        prelude_spikes, prelude_synops: int64 [N].
        site_spikes: int64 [T, L], the spikes of each timestep in each of the layers `info.sites`, summed over all images,
            the prelude not included; None where they were not counted, and in a selection of images.
    """

    info: RecordingInfo
    labels: Tensor
    evidence: LogitEvidence | StatisticEvidence
    label_logits: Tensor
    spikes: Tensor
    synops: Tensor
    prelude_spikes: Tensor
    prelude_synops: Tensor
    site_spikes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def split(self) -> str:
        """`train`, `calibration` or `test`."""
        return self.info.split

    @property
    def timesteps(self) -> int:
        """T, without the prelude."""
        return self.info.timesteps

    @cached_property
    def predictions(self) -> Tensor:
        """int64 [N, T]; not to be changed."""
        return self.evidence.prediction

    @cached_property
    def correct(self) -> Tensor:
        """bool [N, T]; not to be changed."""
        return self.predictions == self.labels[:, None]

    @property
    def scales(self) -> tuple[float, ...]:
        """Smoothing scales that can be asked for; empty means any."""
        return self.evidence.scales if isinstance(self.evidence, StatisticEvidence) else ()

    def negative_log_likelihood(self, scale: float) -> Tensor:
        """-log softmax(sum/scale) of the true class, float64 [N, T]."""
        return self.evidence.log_sum_exp(scale) - self.label_logits.double() / scale

    def tensors(self) -> dict[str, Tensor]:
        """The stored arrays, by name."""
        stored = {
            "labels": self.labels,
            "label_logits": self.label_logits,
            "spikes": self.spikes,
            "synops": self.synops,
            "prelude_spikes": self.prelude_spikes,
            "prelude_synops": self.prelude_synops,
        }
        if self.site_spikes is not None:
            stored["site_spikes"] = self.site_spikes
        if isinstance(self.evidence, LogitEvidence):
            return {**stored, "logits": self.evidence.logits}
        return {**stored, **self.evidence.statistics}

    @classmethod
    def from_tensors(cls, info: RecordingInfo, tensors: Mapping[str, Tensor]) -> Recording:
        """From stored arrays.

        Raises RecordingError if any is missing, has the wrong shape or dtype, is not finite, or contradicts another one.
        """
        images = len(tensors.get("labels", ()))
        shapes: dict[str, tuple[int, ...]] = {
            "labels": (images,),
            "prelude_spikes": (images,),
            "prelude_synops": (images,),
            **dict.fromkeys(("label_logits", "spikes", "synops"), (images, info.timesteps)),
        }
        if "logits" in tensors:
            shapes["logits"] = (images, info.timesteps, info.num_classes)
        else:
            count = len(info.scales)
            shapes |= {
                "prediction": (images, info.timesteps),
                "top": (images, info.timesteps, min(TOP, info.num_classes)),
                "log_sum_exp": (images, info.timesteps, count),
                "expected_logit": (images, info.timesteps, count),
            }
            if "leads" in tensors:  # not in recordings made before they were known
                shapes["leads"] = (images, info.timesteps, len(WINDOWS))
        if info.sites or "site_spikes" in tensors:
            shapes["site_spikes"] = (info.timesteps, len(info.sites))
        for name, shape in shapes.items():
            if name not in tensors:
                raise RecordingError(f"array {name!r} is missing")
            _check_array(name, tensors[name], shape)
        _check_content(info, tensors)
        return cls._assembled(info, tensors)

    @classmethod
    def _assembled(cls, info: RecordingInfo, tensors: Mapping[str, Tensor]) -> Recording:
        """From arrays that have been checked."""
        evidence: LogitEvidence | StatisticEvidence
        if "logits" in tensors:
            evidence = LogitEvidence(tensors["logits"])
        else:
            statistics = {name: tensors[name] for name in STATISTICS if name in tensors}
            evidence = StatisticEvidence(statistics, info.scales, info.num_classes)
        return cls(
            info=info,
            labels=tensors["labels"],
            evidence=evidence,
            label_logits=tensors["label_logits"],
            spikes=tensors["spikes"],
            synops=tensors["synops"],
            prelude_spikes=tensors["prelude_spikes"],
            prelude_synops=tensors["prelude_synops"],
            site_spikes=tensors.get("site_spikes"),
        )

    @classmethod
    def from_logits(
        cls,
        labels: Any,
        logits: Any,
        *,
        split: str,
        sums: bool,
        spikes: Any = None,
        synops: Any = None,
        prelude_steps: int = 0,
        prelude_spikes: Any = None,
        prelude_synops: Any = None,
        macs_once: int = 0,
        macs_per_timestep: int = 0,
        identity: str = "",
        keep: str = "auto",
        scales: tuple[float, ...] = SCALES,
    ) -> Recording:
        """A recording of any simulator, from arrays of numpy or torch.

        Args:
            labels: whole numbers [N], from 0 to K - 1.
            logits: [N, T, K], finite.
            split: `calibration` or `test`.
            sums: whether `logits[:, t]` is the sum of the outputs of all timesteps up to this one; if not, it is this
                timestep's alone.
            spikes, synops: whole numbers [N, T], of each timestep alone; None: not counted, which is not the same as zero.
            prelude_steps: timesteps that every image pays before the first.
            prelude_spikes, prelude_synops: whole numbers [N], in the prelude; needed where there is one and the other is
                given.
            macs_once, macs_per_timestep: multiplications per image.
            identity: free text that says what was recorded.
            keep: `logits`, `statistics`, or `auto` (logits while T x K is small), as for `dynconf.record`.
            scales: smoothing scales for the statistics.

        Raises:
            RecordingError: an array is not what it should be; the message says which, and what was found and expected.
        """
        from dynconf.arrays import InMemory, recording_of

        given = {
            "labels": labels,
            "logits": logits,
            "spikes": spikes,
            "synops": synops,
            "prelude_spikes": prelude_spikes,
            "prelude_synops": prelude_synops,
        }
        info = RecordingInfo(
            split, 1, 1, prelude_steps, macs_once, macs_per_timestep, scales=tuple(scales), identity=identity
        )
        arrays = {name: InMemory(array, name) for name, array in given.items() if array is not None}
        return recording_of(arrays, info, sums, keep)

    @classmethod
    def concatenate(cls, parts: Sequence[Recording]) -> Recording:
        """One recording from consecutive parts with equal `info`; spikes per layer are added up.

        What only some of the parts have (spikes per layer, leads) is dropped.
        """
        return cls.joined(parts, sum(map(len, parts)))

    @classmethod
    def joined(cls, parts: Iterable[Recording], images: int) -> Recording:
        """As `concatenate`, of parts that have so many images together; each can be forgotten as soon as it has been taken."""
        joined = Joined(images, summed=("site_spikes",))
        info: RecordingInfo | None = None
        for part in parts:
            info = part.info if info is None else info
            with _as_recording_error():
                joined.add(part.tensors())
        if info is None:
            raise RecordingError("there are no parts to join")
        with _as_recording_error():
            arrays = joined.arrays()
        if "site_spikes" not in arrays:
            info = dataclasses.replace(info, sites=())
        return cls._assembled(info, arrays)

    def take(self, indices: Tensor) -> Recording:
        """The images at `indices`, in that order. Spikes per layer are known of all images together only, and dropped."""
        chosen = {name: value[indices] for name, value in self.tensors().items() if name != "site_spikes"}
        return Recording._assembled(dataclasses.replace(self.info, sites=()), chosen)

    def save(self, folder: Path | str) -> Path:
        """Write this recording into a folder, from which `load_recording` reads it back; returns the header's path.

        In shards of 512 images; in a single one if there are spikes per layer, which are known of all images together only.
        """
        folder = Path(folder)
        if (folder / HEADER).exists():
            raise RecordingError(f"{folder} holds another recording; remove it or save elsewhere")
        size = SHARD if self.site_spikes is None else max(1, len(self))
        starts = range(0, len(self), size)
        whole = len(starts) == 1
        parts = [self] if whole else (self.take(torch.arange(start, min(start + size, len(self)))) for start in starts)
        checksums = [write_shard(shard_path(folder, number), part) for number, part in enumerate(parts)]
        return write_header(folder, self.info, len(self), checksums)


def _check_array(name: str, array: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(array.shape) != shape:
        raise RecordingError(f"array {name!r} is {list(array.shape)}, expected {list(shape)}")
    if array.dtype != DTYPES[name]:
        raise RecordingError(f"array {name!r} is {_short(array.dtype)}, expected {_short(DTYPES[name])}")
    if array.is_floating_point() and not torch.isfinite(array).all():
        raise RecordingError(f"array {name!r} has NaN or infinite values")


def _check_content(info: RecordingInfo, tensors: Mapping[str, Tensor]) -> None:
    """What the arrays say must be possible, and one must not contradict the other."""
    labels = tensors["labels"]
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < info.num_classes):
        raise RecordingError(f"array 'labels' has labels outside 0..{info.num_classes - 1}")
    for name in (*COUNTS, "site_spikes"):
        if name in tensors and bool((tensors[name] < 0).any()):
            raise RecordingError(f"array {name!r} has negative numbers")
    if "site_spikes" in tensors and not torch.equal(tensors["site_spikes"].sum(1), tensors["spikes"].sum(0)):
        raise RecordingError("array 'site_spikes' does not add up to 'spikes'")
    if "logits" in tensors:
        own = tensors["logits"].gather(2, labels[:, None, None].expand(-1, info.timesteps, 1))[..., 0]
        if not torch.equal(own, tensors["label_logits"]):
            raise RecordingError("array 'label_logits' is not that of the labels in 'logits'")
    elif not bool(((tensors["prediction"] >= 0) & (tensors["prediction"] < info.num_classes)).all()):
        raise RecordingError(f"array 'prediction' has classes outside 0..{info.num_classes - 1}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def shard_path(folder: Path, number: int) -> Path:
    """File of the shard with this number, from 0."""
    return folder / f"shard-{number:05d}.safetensors"


def write_shard(path: Path, part: Recording) -> str:
    """Write a part atomically; returns its sha256."""
    tensors = {name: value.contiguous() for name, value in part.tensors().items()}
    if part.info.sites:
        # The metadata of safetensors is written in any order; with a second entry equal shards would differ in their bytes.
        tensors[SITES] = torch.tensor(list(json.dumps(part.info.sites).encode()), dtype=torch.uint8)
    content = save(tensors, {"info": json.dumps(part.info.to_dict())})
    write_file(path, content)
    return hashlib.sha256(content).hexdigest()


def read_shard(path: Path, info: RecordingInfo | None = None) -> Recording:
    """Read one shard. Raises RecordingError if it is damaged or belongs to another recording than `info`."""
    return read_shard_with_checksum(path, info)[0]


def read_shard_with_checksum(path: Path, info: RecordingInfo | None = None) -> tuple[Recording, str]:
    """As `read_shard`, and the sha256 of the bytes that were read."""
    with _naming_damage(path):
        content = path.read_bytes()
    return _parsed_shard(content, path, info), hashlib.sha256(content).hexdigest()


def _parsed_shard(content: bytes, path: Path, info: RecordingInfo | None) -> Recording:
    with _naming_damage(path):
        header_length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + header_length])
        tensors = load(content)
        sites = json.loads(bytes(tensors.pop(SITES).tolist())) if SITES in tensors else ()
        own = RecordingInfo.from_dict(json.loads(header["__metadata__"]["info"]), sites)
        part = Recording.from_tensors(own, tensors)
    if info is not None and own != info:
        raise RecordingError(f"{path} belongs to another recording; remove {path.parent} or record elsewhere")
    return part


@dataclass(frozen=True)
class ShardLabel:
    """What a shard says about itself, its arrays unread: `info` without the names of layers, number of images, whether it has
    spikes per layer.
    """

    info: RecordingInfo
    images: int
    by_site: bool


def read_shard_label(path: Path) -> ShardLabel:
    """Read the first bytes of a shard. Raises RecordingError if it is cut short or is no shard; arrays are not looked at."""
    with _naming_damage(path):
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > size:
                raise ValueError("it is cut short")
            header = json.loads(stream.read(length))
        info = RecordingInfo.from_dict(json.loads(header.pop("__metadata__")["info"]))
        if 8 + length + max(array["data_offsets"][1] for array in header.values()) != size:
            raise ValueError("it is cut short or has bytes at its end")
        (images,) = header["labels"]["shape"]
        return ShardLabel(info, int(images), "site_spikes" in header)


@contextmanager
def _as_recording_error() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise RecordingError(str(error)) from error


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise RecordingError(f"{path} is not a complete shard of a recording: {error}") from error


def write_header(folder: Path, info: RecordingInfo, images: int, checksums: Sequence[str]) -> Path:
    """Mark a recording as complete."""
    header: dict[str, Any] = {"info": info.to_dict(), "images": images, "shards": list(checksums)}
    if info.sites:
        header[SITES] = list(info.sites)
    path = folder / HEADER
    write_file(path, (json.dumps(header, indent=2, sort_keys=True) + "\n").encode())
    return path


def load_recording(path: Path | str) -> Recording:
    """A complete recording from a folder, or from one file of arrays (`.npz`, `.safetensors`: see `dynconf.array_files`).

    Everything is checked. Raises RecordingError, which names the file and the array, if the recording is not there, was
    never finished, does not have the recorded sha256, or holds what cannot be.
    """
    path = Path(path)
    if path.suffix in ARRAY_FILES and not path.is_dir():
        from dynconf.array_files import read_array_file

        return read_array_file(path)
    return _load_folder(path)


def _load_folder(folder: Path) -> Recording:
    try:
        header = json.loads((folder / HEADER).read_text())
        info = RecordingInfo.from_dict(header["info"], header.get(SITES, ()))
        images, checksums = int(header["images"]), list(header["shards"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordingError(f"{folder} holds no complete recording: {error}") from error
    if not checksums or not images:
        raise RecordingError(f"{folder} holds a recording without images")
    paths = [shard_path(folder, number) for number in range(len(checksums))]
    found = sum(map(_images_announced, paths))
    parts = (_checked_shard(path, checksum, info) for path, checksum in zip(paths, checksums, strict=True))
    recording = Recording.joined(parts, found)
    if found != images:
        raise RecordingError(f"{folder}: {found} images, its header says {images}")
    return recording


def _checked_shard(path: Path, checksum: str, info: RecordingInfo) -> Recording:
    content = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(content).hexdigest() != checksum:
        raise RecordingError(f"{path} is missing or damaged")
    return _parsed_shard(content, path, info)


def _images_announced(path: Path) -> int:
    """How many images a shard says it has; 0 if it is none, which reading it is going to tell."""
    try:
        return read_shard_label(path).images
    except RecordingError:
        return 0


def write_file(path: Path, content: bytes) -> None:
    """Write a file that is either absent or complete, whoever else writes it and whatever kills us."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
