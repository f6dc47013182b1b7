"""What a run is: the `RunSpec` that determines its result and the `ExecSpec` that only says how to get there.

Two specs with the same `RunSpec.id` give the same record, whatever the machine, batch size or file names.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

Scalar = bool | int | float | str
Precision = Literal["fp64", "fp32", "tf32", "bf16"]
PRECISIONS: tuple[str, ...] = ("fp32", "tf32", "bf16", "fp64")


class Frozen(BaseModel):
    """A value: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PolicySpec(Frozen):
    """A stopping rule by name with the options that differ from its defaults."""

    name: str
    options: dict[str, Scalar] = Field(default_factory=dict)

    def __str__(self) -> str:
        if not self.options:
            return self.name
        return f"{self.name}[{','.join(f'{key}={value}' for key, value in sorted(self.options.items()))}]"


class Weights(Frozen):
    """Where the weights came from, and the sha256 of the bytes that were loaded."""

    source: str
    sha256: str


class RunSpec(Frozen):
    """Everything that determines the result of one cell of the table.

    `dataset_fingerprint` and `weights.sha256` name the pixels and the weights themselves, so that two copies of
    a dataset or two checkpoints of the same name never share an id. `limit` and `calibration_size` are numbers of
    images (None: all). `preprocessing` is None where the weights carry it or the dataset's own is used.
    """

    method: str
    method_version: int = 1
    method_options: dict[str, Scalar] = Field(default_factory=dict)
    dataset: str
    dataset_fingerprint: str
    split: str = "test"
    model: str
    weights: Weights
    timesteps: PositiveInt
    policies: tuple[PolicySpec, ...]
    seed: int = 0
    precision: Precision = "fp32"
    limit: PositiveInt | None = None
    calibration_size: PositiveInt | None = None
    preprocessing: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """First 12 hexadecimal digits of the sha256 of the canonical JSON; where the weights lay does not count."""
        return digest(self._determining())

    @property
    def recording_id(self) -> str:
        """As `id`, without the policies: they are replayed on the same recording."""
        return digest({key: value for key, value in self._determining().items() if key != "policies"})

    def _determining(self) -> dict[str, Any]:
        found = self.model_dump(mode="json", exclude={"weights": {"source"}})
        # Ids from before there was such a field stay what they are.
        return {key: value for key, value in found.items() if key != "preprocessing" or value is not None}


class Slice(Frozen):
    """The `number`-th of `of` shares of the work, from 1."""

    number: PositiveInt
    of: PositiveInt

    @model_validator(mode="after")
    def _one_of_them(self) -> Slice:
        if self.number > self.of:
            raise ValueError(f"there is no slice {self.number} of {self.of}")
        return self

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


class ExecSpec(Frozen):
    """How a run is carried out; written to provenance, never part of the id.

    `batch_size` is that of the start: it is halved where memory runs out. `auto` starts large on a GPU, and as by default on
    a CPU, where the system ends a process that takes too much memory instead of telling it. `slice` records a share of the
    shards and makes no record. With `measure`, both passes are timed with batches of each of `measure_batch_sizes` (none: of
    the size of the run) over the first `measure_images` test images (None: over all). `gpu` is the number of the GPU to use,
    taken modulo how many there are. `submit_sha` is the commit at which a job was submitted, if that was earlier than its
    start.
    """

    batch_size: PositiveInt | Literal["auto"] = 64
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = Field(default=0, ge=0)
    rerun: bool = False
    measure: bool = False
    measure_batch_sizes: tuple[PositiveInt, ...] = ()
    measure_images: PositiveInt | None = None
    plugins: tuple[str, ...] = ()
    slice: Slice | None = None
    gpu: int | None = Field(default=None, ge=0)
    submit_sha: str | None = None


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """First 12 hexadecimal digits of the sha256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


class Cell(Frozen):
    """What a user asks for, before data and weights have been looked at. None: the default of what it belongs to."""

    method: str = "qcfs"
    method_options: dict[str, Scalar] = Field(default_factory=dict)
    dataset: str = "digits"
    data_dir: str | None = None
    model: str | None = None
    checkpoint: str | None = None
    timesteps: PositiveInt | None = None
    policies: tuple[PolicySpec, ...] = (PolicySpec(name="dynamic-confidence"),)
    seed: int = Field(default=0, ge=0)
    precision: Precision = "fp32"
    limit: PositiveInt | None = None
    calibration_size: PositiveInt | None = None
    preprocessing: dict[str, Any] | None = None
