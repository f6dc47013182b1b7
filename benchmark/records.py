"""The result record: one validated JSON file per run, and how files of older schemas are read.

Full floats are stored; rounding happens only where people read. Latencies are in timesteps and always include the
prelude; energies are in picojoules per image; spikes, SynOps and MACs are means per image.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from benchmark.errors import RecordError
from benchmark.spec import Frozen, RunSpec, Scalar

SCHEMA = 1
Status = Literal["ok", "skipped", "failed", "oom", "timeout", "interrupted"]

# UPGRADES[n] turns a schema-n document into a schema-(n+1) one.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


class Estimate(Frozen):
    """A value with its 95% interval and the number of images behind it."""

    value: float
    ci95: tuple[float, float]
    n: int


class Ann(Frozen):
    """The network that was converted, with analog logits; `training` is the id of the training record that its card names."""

    accuracy: Estimate
    training: str | None = None


class Curve(Frozen):
    """The fixed-time network after 1..T timesteps. Spikes and SynOps are cumulative and include the prelude."""

    timestep: tuple[int, ...]
    accuracy: tuple[float, ...]
    spikes_per_image: tuple[float, ...]
    synops_per_image: tuple[float, ...]

    @model_validator(mode="after")
    def _same_length(self) -> Curve:
        lengths = {len(self.timestep), len(self.accuracy), len(self.spikes_per_image), len(self.synops_per_image)}
        if len(lengths) != 1:
            raise ValueError(f"columns of unequal length: {sorted(lengths)}")
        return self


class Static(Frozen):
    """Fixed-time inference for T_max timesteps; `latency` is prelude + T_max.

    `streaming_prelude` is the prelude on hardware where every layer waits for the one before it.
    """

    accuracy: Estimate
    latency: float
    prelude: int
    streaming_prelude: int | None = None
    spikes_per_image: float
    synops_per_image: float
    macs_per_image: float
    energy: dict[str, float]


class Latency(Frozen):
    """Timesteps until the answer, prelude included. `ci95` re-chooses the threshold in every bootstrap resample."""

    mean: float
    median: float
    p95: float
    share_at_cap: float
    ci95: tuple[float, float]


class Saving(Frozen):
    """Shares (0..1) saved against fixed-time inference."""

    latency: float
    spikes: float
    synops: float


class EqualFixed(Frozen):
    """The shortest fixed number of timesteps that is at least as accurate as the policy, on the same images.

    `timesteps` excludes and `latency` includes the prelude; None where no fixed time reaches the accuracy.
    """

    timesteps: int | None
    latency: float | None
    accuracy: float | None
    saving_latency: float | None


class Guarantee(Frozen):
    """P(risk <= epsilon) >= 1 - delta over draws of the calibration images."""

    epsilon: float
    delta: float
    risk: str


class PolicyResult(Frozen):
    """One stopping rule on the test recording.

    `gap_closed` is the share that the rule covers of the way from fixed time to the consistency oracle, in mean latency;
    fixed time is the shortest that is at least as accurate as all timesteps. It is None where the two are the same, and in
    records made before it was known. `uncounted` names what the recording does not count. The figures that depend on it are
    then zero here and null in JSON; no record of a run has such a result.
    """

    name: str
    params: dict[str, Any]
    selection: str
    accuracy: Estimate
    latency: Latency
    spikes_per_image: float
    synops_per_image: float
    macs_per_image: float
    energy: dict[str, float]
    saving: Saving
    equal_fixed: EqualFixed
    losers: int
    winners: int
    mcnemar_p: float
    drop_upper95: float
    guarantee: Guarantee | None = None
    exit_histogram: tuple[int, ...]
    gap_closed: float | None = None
    uncounted: tuple[Literal["spikes", "synops"], ...] = ()

    @model_validator(mode="after")
    def _images_add_up(self) -> PolicyResult:
        if sum(self.exit_histogram) != self.accuracy.n:
            raise ValueError(f"exit histogram holds {sum(self.exit_histogram)} images, accuracy {self.accuracy.n}")
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_known(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """An optional field that says nothing is left out, so that a stored record keeps its bytes."""
        values: dict[str, Any] = handler(self)
        if self.gap_closed is None:
            del values["gap_closed"]
        if not self.uncounted:
            del values["uncounted"]
        for name in self.uncounted:
            values[f"{name}_per_image"] = None
            values["saving"][name] = None
        if "synops" in self.uncounted:
            values["energy"] = None
        return values


class Against(Frozen):
    """One stopping rule against another on the same images; 95% intervals from the paired bootstrap.

    `saving_latency` is the share of the other's mean latency that is saved, `accuracy_difference` this one minus the other.
    """

    policy: str
    params: dict[str, Any]
    saving_latency: float
    saving_latency_ci95: tuple[float, float]
    latency_difference: float
    latency_difference_ci95: tuple[float, float]
    accuracy_difference: float
    accuracy_difference_ci95: tuple[float, float]


class OraclePoint(Frozen):
    """Accuracy and mean latency (prelude included) of a stopping time that peeks."""

    accuracy: float
    latency: float


class Oracle(Frozen):
    """The three stopping times of `dynconf.oracles`."""

    any_time_correct: OraclePoint
    stable_correct: OraclePoint
    consistency: OraclePoint


class Measured(Frozen):
    """Wall-clock seconds of the fixed-time and the early-exit pass over the same images, on one device.

    In `dynamic_seconds` images leave a batch that shrinks; `stream_seconds` are those of `DynamicInference.stream`, where fresh
    ones take their places if the method gains by it; `floor_seconds` are T forward passes of the network with ReLU, batch
    norms folded. `differing_images`: how many left the running network at another time or with another answer than in the
    replay. `git_sha`: the commit that measured, which may be a later one than the record's.
    """

    static_seconds: float
    dynamic_seconds: float
    speedup: float
    ideal_speedup: float
    device: str
    batch_size: int
    images: int
    policy: str
    differing_images: int
    stream_seconds: float | None = None
    floor_seconds: float | None = None
    git_sha: str | None = None


class Reported(Frozen):
    """What a paper claims for this cell."""

    accuracy: float
    latency: float
    source: str


class Provenance(Frozen):
    """Where, when and with what the numbers were made."""

    git_sha: str | None
    dirty: bool | None
    diff_sha256: str | None
    submit_sha: str | None
    versions: dict[str, str]
    device: str
    torch_flags: dict[str, Scalar]
    seeds: dict[str, int]
    dataset_fingerprint: str
    slurm: dict[str, str]
    started: str
    phases: dict[str, float]
    batch_size: int
    oom_halvings: int = 0


class Artifact(Frozen):
    """A file that the run left behind; `path` is relative to the results folder."""

    path: str
    sha256: str


class ResultRecord(Frozen):
    """One run. Only a record with status `ok` has numbers; the others say why not in `reason`."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    id: str
    status: Status
    reason: str | None = None
    traceback: str | None = None
    spec: RunSpec
    protocol: str
    flags: tuple[str, ...] = ()
    ann: Ann | None = None
    curve: Curve | None = None
    static: Static | None = None
    policies: tuple[PolicyResult, ...] = ()
    oracle: Oracle | None = None
    measured: Measured | None = None
    measured_also: tuple[Measured, ...] = ()
    reported: Reported | None = None
    provenance: Provenance
    artifacts: tuple[Artifact, ...] = ()

    @property
    def clock(self) -> tuple[Measured, ...]:
        """All that was measured on the clock, one for each device and batch size."""
        return () if self.measured is None else (self.measured, *self.measured_also)

    @field_validator("schema_version", mode="before")
    @classmethod
    def _whole_number(cls, value: Any) -> Any:
        if type(value) is not int:  # true and 1.0 equal 1
            raise ValueError("not a whole number")
        return value

    @model_validator(mode="after")
    def _complete(self) -> ResultRecord:
        if self.id != self.spec.id:
            raise ValueError(f"id {self.id} does not belong to this spec, whose id is {self.spec.id}")
        if self.status == "ok":
            if any(policy.uncounted for policy in self.policies):
                raise ValueError("status ok with spikes or SynOps that were not counted")
            missing = [name for name in ("ann", "curve", "static", "oracle") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"status ok without {', '.join(missing)}")
        elif not self.reason:
            raise ValueError(f"status {self.status} without a reason")
        return self

    def to_json(self) -> str:
        """The file's text: sorted keys, two spaces, full floats, a newline at the end."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, sort_keys=True, allow_nan=False) + "\n"


def upgrade(
    document: Mapping[str, Any],
    upgrades: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = UPGRADES,
    target: int = SCHEMA,
) -> dict[str, Any]:
    """A document of any known schema as one of schema `target`.

    Raises RecordError for a schema that is missing, newer than this program, or without a way up.
    """
    document = dict(document)
    while True:
        version = document.get("schema")
        if not isinstance(version, int) or isinstance(version, bool):
            raise RecordError(f"no valid schema number (found {version!r}).")
        if version == target:
            return document
        if version > target:
            raise RecordError(
                f"schema {version} is newer than this program's {target}.", "Update the package to read it."
            )
        if version not in upgrades:
            raise RecordError(f"schema {version} is too old: no upgrade to {target} is known.")
        document = upgrades[version](document)


def parse_record(text: str, name: str = "record") -> ResultRecord:
    """A validated record from JSON text. Raises RecordError that names `name` and each wrong field."""
    # Twice as fast as by way of a dict. Whatever it refuses, or would have to guess, is looked at again below.
    with suppress(ValidationError):
        record = ResultRecord.model_validate_json(text)
        if "schema_version" in record.model_fields_set:
            return record
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"{name}: not JSON ({error}).") from error
    if not isinstance(document, dict):
        raise RecordError(f"{name}: not a JSON object.")
    try:
        return ResultRecord.model_validate(upgrade(document))
    except RecordError as error:
        raise RecordError(f"{name}: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'record'}: {item['msg']}" for item in error.errors()[:5]
        )
        raise RecordError(f"{name}: {problems}") from error


def load_record(path: Path) -> ResultRecord:
    """A validated record from a file. Raises RecordError that names the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: unreadable ({error}).") from error
    return parse_record(text, str(path))
