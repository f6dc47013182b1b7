"""Records whose figures cannot be: every number that follows from others is noticed when it is changed."""

from __future__ import annotations

import json
import re

import pytest
from conftest import ROOT

from benchmark.identities import broken_identities
from benchmark.records import ResultRecord, load_record

# Figures that no other figure of a record determines. What they may be is bounded, and tested below.
FREE = re.compile(
    r"(static\.streaming_prelude|oracle\.\w+\.latency|policies\.\d+\.latency\.ci95\.\d+|policies\.\d+\.params\..*|policies\.\d+\.guarantee\..*"
    r"|curve\.(spikes|synops)_per_image\.\d+)"
)
COMMITTED = sorted((ROOT / "leaderboard/results").glob("*/*/*/*.json"))


def numbers(value, place=()):
    """Every number below `value`, and where it is."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from numbers(part, (*place, key))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield place, value


def with_changes(record, *changes):
    document = json.loads(record.to_json())
    for place, value in changes:
        part = document
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = value
    return ResultRecord.model_validate(document)


@pytest.fixture(scope="module")
def measured(finished):
    return load_record(finished.record_file)


def test_a_real_run_breaks_none(measured):
    assert measured.policies
    assert broken_identities(measured) == []


def test_the_committed_records_break_none():
    assert COMMITTED
    assert {path.stem: found for path in COMMITTED if (found := broken_identities(load_record(path)))} == {}


def test_every_figure_that_follows_from_others_is_guarded(measured):
    """One number after the other is raised by 3%, or by one where it counts something."""
    document = json.loads(measured.to_json())
    unnoticed = set()
    for part in ("ann", "curve", "static", "policies", "oracle"):
        for place, value in numbers(document[part], (part,)):
            changed = value + 1 if isinstance(value, int) else value * 1.03 + (value == 0)
            try:
                record = with_changes(measured, (place, changed))
            except ValueError:  # the schema refuses it
                continue
            if not broken_identities(record):
                unnoticed.add(".".join(map(str, place)))
    assert {place for place in unnoticed if not FREE.fullmatch(place)} == set()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([(("oracle", "any_time_correct", "accuracy"), 0.5)], "oracle.any_time_correct.accuracy is below"),
        ([(("oracle", "consistency", "latency"), 0.5)], "oracle.consistency.latency is outside"),
        ([(("oracle", "stable_correct", "latency"), 1.0)], "oracle.any_time_correct is later"),
        ([(("curve", "spikes_per_image", 1), 0.0)], "curve.spikes_per_image falls"),
        ([(("curve", "synops_per_image", 0), -1.0)], "curve.synops_per_image falls"),
        ([(("policies", 0, "latency", "ci95"), [0.2, 0.4])], "latency.ci95 is outside"),
        ([(("static", "latency"), 40.0)], "static.latency is not the prelude plus all timesteps"),
    ],
    ids=lambda value: "" if isinstance(value, list) else value,
)
def test_what_is_only_bounded_is_bounded(measured, changes, said):
    assert any(said in problem for problem in broken_identities(with_changes(measured, *changes)))


def test_a_rule_cannot_beat_the_oracle_that_peeks(measured):
    """An accuracy with everything that follows from it made right, so that only the oracle contradicts."""
    images = measured.static.accuracy.n
    best = measured.oracle.any_time_correct.accuracy
    right = round(best * images) + 1
    value = right / images
    found = broken_identities(with_changes(measured, (("policies", 0, "accuracy", "value"), value)))
    assert any("more accurate than oracle.any_time_correct" in problem for problem in found)


def test_all_images_at_one_timestep_are_that_fixed_time(measured):
    """The record of a rule that stops nobody early must show the figures of fixed time."""
    images, timesteps = measured.static.accuracy.n, measured.spec.timesteps
    histogram = [0] * (timesteps - 1) + [images]
    found = broken_identities(with_changes(measured, (("policies", 0, "exit_histogram"), histogram)))
    assert any("is not that of the one timestep at which all images leave" in problem for problem in found)


def test_a_prelude_left_out_of_the_latency_is_noticed():
    record = next(record for path in COMMITTED if (record := load_record(path)).static.prelude)
    shorter = record.static.latency - record.static.prelude
    found = broken_identities(with_changes(record, (("static", "latency"), shorter)))
    assert "static.latency is not the prelude plus all timesteps" in found
    own = record.policies[0].latency.mean - record.static.prelude
    found = broken_identities(with_changes(record, (("policies", 0, "latency", "mean"), own)))
    assert any("latency.mean is not that of exit_histogram" in problem for problem in found)


def test_a_run_without_figures_has_none_to_break(make_record):
    failed = make_record(
        status="failed", reason="out of paper", ann=None, curve=None, static=None, oracle=None, policies=[]
    )
    assert broken_identities(failed) == []
