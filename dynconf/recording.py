"""A recording: what one full simulation leaves behind, enough to replay every stopping rule."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dynconf.evidence import LogitEvidence, StatisticEvidence

FORMAT = 1
HEADER = "recording.json"


class RecordingError(ValueError):
    """A recording is incomplete, damaged, or not what was asked for; the message names the file."""


@dataclass(frozen=True)
class RecordingInfo:
    """What a recording says about itself.

    `split` is `train`, `calibration` or `test` (or anything else that is not `test`, for foreign data);
    `prelude_steps` are timesteps before the first answer; MACs are per image.
    """

    split: str
    timesteps: int
    num_classes: int
    prelude_steps: int = 0
    macs_once: int = 0
    macs_per_timestep: int = 0
    scales: tuple[float, ...] = ()
    identity: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "scales": list(self.scales), "format": FORMAT}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RecordingInfo:
        """From JSON. Raises RecordingError for another format or missing keys."""
        values = dict(values)
        if values.pop("format", None) != FORMAT:
            raise RecordingError(f"not a recording of format {FORMAT}")
        try:
            return cls(**{**values, "scales": tuple(values.get("scales", ()))})
        except TypeError as error:
            raise RecordingError(f"header does not fit: {error}") from error


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
    """

    info: RecordingInfo
    labels: Tensor
    evidence: LogitEvidence | StatisticEvidence
    label_logits: Tensor
    spikes: Tensor
    synops: Tensor
    prelude_spikes: Tensor
    prelude_synops: Tensor

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

    @property
    def predictions(self) -> Tensor:
        """int64 [N, T]."""
        return self.evidence.prediction

    @property
    def correct(self) -> Tensor:
        """bool [N, T]."""
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
        if isinstance(self.evidence, LogitEvidence):
            return {**stored, "logits": self.evidence.logits}
        return {**stored, **self.evidence.statistics}

    @classmethod
    def from_tensors(cls, info: RecordingInfo, tensors: Mapping[str, Tensor]) -> Recording:
        """From stored arrays. Raises RecordingError if any is missing, has the wrong shape, or is not finite."""
        images = len(tensors.get("labels", ()))
        shapes: dict[str, tuple[int, ...]] = {
            "labels": (images,),
            "prelude_spikes": (images,),
            "prelude_synops": (images,),
            **dict.fromkeys(("label_logits", "spikes", "synops"), (images, info.timesteps)),
        }
        evidence: LogitEvidence | StatisticEvidence
        if "logits" in tensors:
            shapes["logits"] = (images, info.timesteps, info.num_classes)
            evidence = LogitEvidence(tensors["logits"])
        else:
            count = len(info.scales)
            shapes |= {
                "prediction": (images, info.timesteps),
                "log_sum_exp": (images, info.timesteps, count),
                "expected_logit": (images, info.timesteps, count),
            }
            names = ("prediction", "top", "log_sum_exp", "expected_logit")
            evidence = StatisticEvidence(
                {name: tensors[name] for name in names if name in tensors}, info.scales, info.num_classes
            )
        for name, shape in shapes.items():
            if name not in tensors:
                raise RecordingError(f"array {name!r} is missing")
            if tuple(tensors[name].shape) != shape:
                raise RecordingError(f"array {name!r} is {list(tensors[name].shape)}, expected {list(shape)}")
            if tensors[name].is_floating_point() and not torch.isfinite(tensors[name]).all():
                raise RecordingError(f"array {name!r} has NaN or infinite values")
        if images and not (int(tensors["labels"].min()) >= 0 and int(tensors["labels"].max()) < info.num_classes):
            raise RecordingError(f"labels outside 0..{info.num_classes - 1}")
        fields = {
            name: tensors[name]
            for name in ("labels", "label_logits", "spikes", "synops", "prelude_spikes", "prelude_synops")
        }
        return cls(info=info, evidence=evidence, **fields)

    @classmethod
    def concatenate(cls, parts: Sequence[Recording]) -> Recording:
        """One recording from consecutive parts with equal `info`."""
        stored = [part.tensors() for part in parts]
        return cls.from_tensors(parts[0].info, {name: torch.cat([part[name] for part in stored]) for name in stored[0]})

    def take(self, indices: Tensor) -> Recording:
        """The images at `indices`, in that order."""
        return Recording.from_tensors(self.info, {name: value[indices] for name, value in self.tensors().items()})


def shard_path(folder: Path, number: int) -> Path:
    """File of the shard with this number, from 0."""
    return folder / f"shard-{number:05d}.safetensors"


def write_shard(path: Path, part: Recording) -> str:
    """Write a part atomically; returns its sha256."""
    content = save(
        {name: value.contiguous() for name, value in part.tensors().items()}, {"info": json.dumps(part.info.to_dict())}
    )
    write_file(path, content)
    return hashlib.sha256(content).hexdigest()


def read_shard(path: Path, info: RecordingInfo | None = None) -> Recording:
    """Read one shard. Raises RecordingError if it is damaged or belongs to another recording than `info`."""
    try:
        content = path.read_bytes()
        header_length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + header_length])
        own = RecordingInfo.from_dict(json.loads(header["__metadata__"]["info"]))
        part = Recording.from_tensors(own, load(content))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RecordingError(f"{path} is not a complete shard of a recording: {error}") from error
    if info is not None and own != info:
        raise RecordingError(f"{path} belongs to another recording; remove {path.parent} or record elsewhere")
    return part


def write_header(folder: Path, info: RecordingInfo, images: int, checksums: Sequence[str]) -> Path:
    """Mark a recording as complete."""
    header = {"info": info.to_dict(), "images": images, "shards": list(checksums)}
    path = folder / HEADER
    write_file(path, (json.dumps(header, indent=2, sort_keys=True) + "\n").encode())
    return path


def load_recording(folder: Path | str) -> Recording:
    """A complete recording from its folder.

    Raises RecordingError if it is not there, was never finished, or a shard does not have the recorded sha256.
    """
    folder = Path(folder)
    try:
        header = json.loads((folder / HEADER).read_text())
        info = RecordingInfo.from_dict(header["info"])
        images, checksums = int(header["images"]), list(header["shards"])
    except (OSError, ValueError, KeyError) as error:
        raise RecordingError(f"{folder} holds no complete recording: {error}") from error
    for number, checksum in enumerate(checksums):
        path = shard_path(folder, number)
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != checksum:
            raise RecordingError(f"{path} is missing or damaged")
    recording = Recording.concatenate(
        [read_shard(shard_path(folder, number), info) for number in range(len(checksums))]
    )
    if len(recording) != images:
        raise RecordingError(f"{folder}: {len(recording)} images, its header says {images}")
    return recording


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
