"""Recordings that slices have made, joined; and the record that a whole run would have made of them. No network needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark import evaluation
from benchmark.errors import RecordError, UsageError
from benchmark.provenance import Phases, git_state, versions
from benchmark.records import Provenance, ResultRecord
from benchmark.runner import artifacts_in
from benchmark.slices import (
    SPLITS,
    TEST,
    Contribution,
    Plan,
    SliceFolder,
    SplitName,
    images_in,
    shards_in,
    sliced_recordings,
)
from benchmark.store import ResultStore
from dynconf.recording import HEADER, Recording, RecordingError, load_recording
from dynconf.shards import consecutive, finished_shards, join_shards


@dataclass(frozen=True)
class Missing:
    """Shards that are not there; `what` says of which split, or that it is the right analog answers of test shards."""

    what: str
    shards: tuple[int, ...]
    of_shards: int
    images: int
    of_images: int

    def __str__(self) -> str:
        runs = [f"{run.start}" if len(run) == 1 else f"{run.start}-{run.stop - 1}" for run in consecutive(self.shards)]
        return (
            f"{self.what}: {len(self.shards)} of {self.of_shards} shards missing ({', '.join(runs)}), "
            f"{self.images:,} of {self.of_images:,} images"
        )


@dataclass(frozen=True)
class Sliced:
    """A record that is to be made of a recording that slices work on."""

    folder: SliceFolder
    plan: Plan


@dataclass(frozen=True)
class Collected:
    """What came of it: the record, and whether it was in the store already; or else what is missing."""

    record: ResultRecord | None = None
    stored: bool = False
    missing: tuple[Missing, ...] = ()


def find(store: ResultStore, ids: Sequence[str] = ()) -> tuple[list[Sliced], list[RecordError]]:
    """What there is to collect in a results folder, and what should be but is damaged.

    Args:
        store: the results.
        ids: the first letters of ids of recordings, or of the records to be made; none: all of them.

    Raises:
        UsageError: an id is that of no recording that slices have worked on.
    """
    found: list[Sliced] = []
    damaged: list[RecordError] = []
    asked = set(ids)
    for folder in sliced_recordings(store):
        for path in folder.plans():
            matching = {each for each in ids if folder.id.startswith(each) or path.stem.startswith(each)}
            if ids and not matching:
                continue
            asked -= matching
            try:
                found.append(Sliced(folder, folder.read_plan(path)))
            except RecordError as error:
                damaged.append(error)
    if asked:
        known = ", ".join(folder.id for folder in sliced_recordings(store)) or "none"
        raise UsageError(
            f"{', '.join(sorted(asked))}: no slices have worked on such a recording in {store.root}.",
            f"Recordings with slices: {known}.",
        )
    return found, damaged


def missing(sliced: Sliced) -> tuple[Missing, ...]:
    """What slices still have to do. Raises RecordError for shards that are damaged or of another recording."""
    spec, plan = sliced.plan.spec, sliced.plan
    found = []
    for split in SPLITS:
        if not (sliced.folder.recording / split / HEADER).exists():
            try:
                there = finished_shards(
                    sliced.folder.recording / split,
                    identity=spec.recording_id,
                    split=split,
                    timesteps=spec.timesteps,
                )
            except RecordingError as error:
                raise _repairable(error) from error
            found.append(_missing(split, set(there), split, plan))
    found.append(_missing("right answers of the analog network", sliced.folder.counted(), TEST, plan))
    return tuple(each for each in found if each.shards)


def _missing(what: str, there: set[int], split: SplitName, plan: Plan) -> Missing:
    images = plan.images[split]
    shards = shards_in(images, plan.shard_size)
    absent = [number for number in range(shards) if number not in there]
    return Missing(what, tuple(absent), shards, images_in(absent, images, plan.shard_size), images)


def collect(sliced: Sliced, store: ResultStore) -> Collected:
    """Join the shards, judge the stopping rules and write the record, if nothing is missing and it is not there yet.

    Raises:
        RecordError: a file that slices left, or a stored record, is damaged or does not belong there.
        UsageError: a stopping rule is not known, or cannot be fitted as asked.
    """
    plan = sliced.plan
    stored = store.get(plan.spec)
    if stored is not None and stored.status == "ok":
        return Collected(stored, stored=True)
    absent = missing(sliced)
    if absent:
        return Collected(missing=absent)
    right = sum(
        sliced.folder.read_count(number, images_in([number], plan.images[TEST], plan.shard_size))
        for number in range(shards_in(plan.images[TEST], plan.shard_size))
    )
    contributions = sliced.folder.contributions()
    if not contributions:
        raise RecordError(
            f"{sliced.folder.path}: nothing there says which process made the recording.", "Run a slice again."
        )
    phases = Phases()
    with phases("join"):
        calibration, test = (_joined(sliced, split) for split in SPLITS)
    with phases("policies"):
        judged = [evaluation.evaluate(policy, calibration, test, plan.spec.seed)[0] for policy in plan.spec.policies]
    code = git_state()
    record = evaluation.finished_record(
        plan.spec,
        test,
        judged,
        ann=evaluation.analog(right, plan.images[TEST], plan.training),
        streaming_prelude=plan.streaming_prelude,
        protocol=plan.protocol,
        flags=(*plan.flags, *_differences(contributions, code)),
        provenance=_provenance(plan, contributions, code, phases),
        artifacts=artifacts_in(sliced.folder.recording, store),
    )
    store.save(record)
    return Collected(record)


def _joined(sliced: Sliced, split: SplitName) -> Recording:
    spec, folder = sliced.plan.spec, sliced.folder.recording / split
    images = sliced.plan.images[split]
    try:
        if not (folder / HEADER).exists():
            return join_shards(folder, identity=spec.recording_id, split=split, timesteps=spec.timesteps, images=images)
        recording = load_recording(folder)
    except RecordingError as error:
        raise _repairable(error) from error
    own = (recording.info.identity, recording.split, recording.timesteps, len(recording))
    if own != (spec.recording_id, split, spec.timesteps, images):
        raise RecordError(f"{folder} belongs to another recording.", f"Remove {folder} and run the slices again.")
    return recording


def _repairable(error: RecordingError) -> RecordError:
    return RecordError(f"{error}.", "Remove the file and run the slices again: they do what is missing.")


def _differences(contributions: Sequence[Contribution], code: Mapping[str, Any]) -> tuple[str, ...]:
    """What a reader of the table must know if the parts were not all made alike."""
    made = [each.provenance for each in contributions]
    codes = {_code(each.git_sha, each.dirty, each.diff_sha256) for each in made} | {_code(**code)}
    torches = {each.versions.get("torch", "unknown") for each in made}
    flags = []
    if len(codes) > 1:
        flags.append(f"recorded in slices and collected by different code: {', '.join(sorted(codes))}")
    if len(torches) > 1:
        flags.append(f"recorded in slices by different versions of torch: {', '.join(sorted(torches))}")
    return tuple(flags)


def _code(git_sha: str | None, dirty: bool | None, diff_sha256: str | None) -> str:
    name = git_sha[:12] if git_sha else "unknown"
    return f"{name} with changes {diff_sha256[:12]}" if dirty and diff_sha256 else name


def _provenance(
    plan: Plan, contributions: Sequence[Contribution], code: Mapping[str, Any], phases: Phases
) -> Provenance:
    """The code that collects, and of the recording what its makers have in common; seconds and halvings are added up."""
    made = [each.provenance for each in contributions]
    first = made[0]
    seconds: dict[str, float] = {}
    for each in (*(one.phases for one in made), phases.seconds):
        for name, value in each.items():
            seconds[name] = seconds.get(name, 0.0) + value
    return first.model_copy(
        update={
            **code,
            "versions": versions(),
            "device": "; ".join(dict.fromkeys(each.device for each in made)),
            "torch_flags": {
                name: value
                for name, value in first.torch_flags.items()
                if all(each.torch_flags.get(name) == value for each in made)
            },
            "seeds": {"run": plan.spec.seed},
            "dataset_fingerprint": plan.spec.dataset_fingerprint,
            "slurm": {
                name: value
                for name, value in first.slurm.items()
                if all(each.slurm.get(name) == value for each in made)
            },
            "phases": seconds,
            "batch_size": min(each.batch_size for each in made),
            "oom_halvings": sum(each.oom_halvings for each in made),
        }
    )
