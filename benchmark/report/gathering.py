"""From what a user names to what a page is about: the record, its recordings, its rules fitted again, its images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmark import evaluation
from benchmark.errors import BenchmarkError, DatasetMissing, RecordError, UsageError, near_matches
from benchmark.records import PolicyResult, ResultRecord
from benchmark.report.command import reproduce
from benchmark.report.pictures import Pictures, find_pictures
from benchmark.report.subject import Rule, Subject, labels
from benchmark.spec import PolicySpec
from benchmark.store import ResultStore
from dynconf.policies import FitError
from dynconf.recording import HEADER, Recording, RecordingError, load_recording
from dynconf.scaling import scale_by_nll
from dynconf.splits import load_splits


def find_record(store: ResultStore, prefix: str) -> ResultRecord:
    """The one good record whose id starts with `prefix`.

    Raises UsageError if there is none or several, or it has no numbers; RecordError if its file is damaged.
    """
    known = [path.stem for path in store.paths()]
    if not any(each.startswith(prefix) for each in known):
        raise UsageError(
            f"no record {prefix!r} under {store.root}, and no recording of that name.",
            f"{near_matches(prefix, known)} See the ids in the leaderboard, or pass --results.".strip(),
        )
    record = store.find(prefix)
    if record.status != "ok":
        raise UsageError(f"record {record.id} has no numbers: {record.status}: {record.reason}")
    return record


def subject_of_record(
    record: ResultRecord, store: ResultStore, data_dir: Path | None, more: Sequence[PolicySpec] = ()
) -> Subject:
    """What the page of a record is about; `more` are rules beside its own.

    Raises UsageError if its recordings are not on this disk, RecordError if they are damaged or belong to another record.
    """
    assert record.curve is not None and record.static is not None and record.oracle is not None
    if len(record.policies) != len(record.spec.policies):
        raise RecordError(
            f"record {record.id} has {len(record.policies)} results for the {len(record.spec.policies)} rules asked for."
        )
    calibration, test = _recordings_of(record, store)
    rules = [
        _fitted_again(spec, result, calibration, test)
        for spec, result in zip(record.spec.policies, record.policies, strict=True)
    ]
    rules += [_judged(spec, calibration, test, record.spec.seed) for spec in more]
    pictures, reason = _pictures(record, test, data_dir)
    scale, source = _scale(rules, calibration)
    spec = record.spec
    return Subject(
        title=f"{spec.method} · {spec.dataset} · {spec.model}",
        record=record,
        calibration=calibration,
        test=test,
        curve=record.curve,
        static=record.static,
        oracle=record.oracle,
        rules=_labelled(rules),
        scale=scale,
        scale_source=source,
        remarks=_differences(record, test),
        pictures=pictures,
        no_pictures=reason,
    )


def subject_of_recording(folder: Path, policies: Sequence[PolicySpec], seed: int = 0) -> Subject:
    """What the page of a recording without a record is about.

    `folder` holds a recording of each split (see `dynconf.splits.load_splits`). Raises RecordError if one is not there or
    damaged, or they do not belong together.
    """
    try:
        calibration, test = load_splits(folder)
    except RecordingError as error:
        raise RecordError(f"{error}.") from error
    rules = [_judged(spec, calibration, test, seed) for spec in policies]
    scale, source = _scale(rules, calibration)
    return Subject(
        title=f"recording {folder.resolve().name}",
        record=None,
        calibration=calibration,
        test=test,
        curve=evaluation.curve(test),
        static=evaluation.static(test),
        oracle=evaluation.oracle(test),
        rules=_labelled(rules),
        scale=scale,
        scale_source=source,
        no_pictures="a recording holds no images, and without a record nothing says which they were",
    )


def _recordings_of(record: ResultRecord, store: ResultStore) -> tuple[Recording, Recording]:
    folder = store.recording_folder(record.spec)
    again = f"Record it again with: {reproduce(record.spec)} --rerun --results {store.root}"
    for split in ("calibration", "test"):
        if not (folder / split / HEADER).exists():
            raise UsageError(f"the {split} recording of record {record.id} is not in {folder}.", again)
    try:
        calibration, test = load_recording(folder / "calibration"), load_recording(folder / "test")
    except RecordingError as error:
        raise RecordError(f"{error}.", again) from error
    assert record.static is not None
    found = {calibration.info.identity, test.info.identity}
    if found != {record.spec.recording_id} or len(test) != record.static.accuracy.n:
        raise RecordError(f"{folder} does not hold the recordings of record {record.id}.", again)
    return calibration, test


def _fitted_again(spec: PolicySpec, result: PolicyResult, calibration: Recording, test: Recording) -> Rule:
    try:
        policy = evaluation.fit(spec, calibration)
        exits = policy.exit_steps(test)
    except (BenchmarkError, FitError) as error:
        return Rule(
            spec.name,
            result,
            recorded=True,
            doubt=f"cannot be fitted here, so nothing is known about single images: {error}",
        )
    histogram = torch.bincount(exits - 1, minlength=test.timesteps).tolist()
    doubt = None
    if tuple(histogram) != result.exit_histogram:
        moved = sum(abs(a - b) for a, b in zip(histogram, result.exit_histogram, strict=False)) / 2
        doubt = (
            f"fitted again on the calibration recording, the rule differs from the record's (at least {math.ceil(moved)} images"
            " leave at another timestep): single images are those of the fitted rule, the tables those of the record"
        )
    return Rule(spec.name, result, True, policy, exits, doubt)


def _judged(spec: PolicySpec, calibration: Recording, test: Recording, seed: int) -> Rule:
    result, policy = evaluation.evaluate(spec, calibration, test, seed)
    return Rule(spec.name, result, False, policy, policy.exit_steps(test))


def _labelled(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    found = labels([(rule.result.name, rule.result.selection) for rule in rules])
    return tuple(dataclasses.replace(rule, label=label) for rule, label in zip(rules, found, strict=True))


def _differences(record: ResultRecord, test: Recording) -> tuple[str, ...]:
    """Whether the recording still says what the record says."""
    assert record.curve is not None
    found = test.correct.double().mean(0).tolist()
    if len(found) == len(record.curve.accuracy) and all(map(_equal, found, record.curve.accuracy)):
        return ()
    return ("the recording on this disk gives other accuracies after fixed times than the record",)


def _equal(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=0, abs_tol=1e-12)


def _pictures(record: ResultRecord, test: Recording, data_dir: Path | None) -> tuple[Pictures | None, str]:
    try:
        return find_pictures(record, test, data_dir), ""
    except DatasetMissing:
        return None, f"{record.spec.dataset} was not found; --data-dir DIR says where it is"
    except BenchmarkError as error:
        return None, str(error).partition("\n")[0].removesuffix(".")


def _scale(rules: Sequence[Rule], calibration: Recording) -> tuple[float, str]:
    """The smoothing scale of the first rule that has one, else the one that fits the calibration images best."""
    for rule in rules:
        scale = getattr(rule.policy, "scale", None)
        if scale is not None and (not calibration.scales or scale in calibration.scales):
            return float(scale), f"that of {rule.result.name}"
    return scale_by_nll(calibration), "the one of least negative log-likelihood on the calibration images"
