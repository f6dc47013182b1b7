"""`leaderboard verify`: a row run again, and what is said where it does not come out."""

from __future__ import annotations

import json
import shutil

import pytest

from benchmark.records import load_record
from benchmark.spec import RunSpec
from benchmark.verification import cell_of, comparisons


@pytest.fixture
def results(finished, tmp_path):
    """A results folder with the finished run's record alone: no recording that could answer instead."""
    file = tmp_path / "results" / finished.record_file.relative_to(finished.results)
    file.parent.mkdir(parents=True)
    shutil.copy(finished.record_file, file)
    return tmp_path / "results"


def rewrite(results, change):
    (file,) = results.rglob("*.json")
    document = json.loads(file.read_text())
    change(document)
    document["id"] = RunSpec.model_validate(document["spec"]).id
    file.unlink()
    (file.parent / f"{document['id']}.json").write_text(json.dumps(document))
    return document["id"]


def test_a_row_comes_out_again_as_the_same_floats(results, finished, cli, tmp_path):
    answer = cli("leaderboard", "verify", finished.id[:6], "--results", results, "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    (document,) = json.loads(answer.out)
    assert document["id"] == finished.id and document["reproduced"] is True
    figures = document["figures"]
    assert len(figures) == 1 + 3 + 4
    assert all(each["recorded"] == each["found"] for each in figures)
    assert f"{finished.id}: reproduced; 8 of 8 figures are the same float" in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["results"], "the new run left something behind"


def test_it_takes_the_weights_it_is_given_and_keeps_its_work(results, finished, call, tmp_path):
    arguments = ["leaderboard", "verify", finished.id, "--results", results, "--checkpoint", finished.checkpoint]
    answer = call(*arguments, "--work", tmp_path / "work")
    assert answer.code == 0, answer.err
    assert "reproduced; 8 of 8" in answer.out
    assert list((tmp_path / "work").rglob(f"{finished.id}.json"))
    recordings = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("recording.json")}
    assert len(recordings) == 2
    again = call(*arguments, "--work", tmp_path / "work")
    assert again.code == 0 and "was in the store" not in again.out
    assert recordings == {path: path.stat().st_mtime_ns for path in recordings}


def test_a_figure_outside_of_its_interval_is_not_reproduced(results, finished, call):
    def better(document):
        document["policies"][0]["accuracy"] |= {"value": 0.2, "ci95": [0.1, 0.3]}
        document["policies"][0]["spikes_per_image"] *= 1.02

    rewrite(results, better)
    answer = call(
        "leaderboard", "verify", finished.id, "--results", results, "--checkpoint", finished.checkpoint, "--json"
    )
    assert answer.code == 1
    (document,) = json.loads(answer.out)
    wrong = {each["figure"] for each in document["figures"] if not each["agrees"]}
    assert wrong == {"dynamic-confidence (pareto), accuracy", "dynamic-confidence (pareto), spikes"}
    assert "NOT reproduced: 2 figures differ" in answer.err and "NOT in the record's 95% interval" in answer.err


def test_other_weights_are_an_error_and_not_a_difference(results, finished, call):
    identity = rewrite(results, lambda document: document["spec"]["weights"].update(sha256="0" * 64))
    answer = call("leaderboard", "verify", identity, "--results", results, "--checkpoint", finished.checkpoint)
    assert answer.code == 2
    assert "this is not the run of the record" in answer.err and "the sha256 of the weights" in answer.err


def test_other_images_are_an_error_and_not_a_difference(results, finished, call):
    def other(document):
        document["spec"]["dataset_fingerprint"] = "test:000000000000 calibration:000000000000"

    identity = rewrite(results, other)
    answer = call("leaderboard", "verify", identity, "--results", results, "--checkpoint", finished.checkpoint)
    assert answer.code == 2 and "the fingerprints of the images" in answer.err


def test_weights_that_only_a_file_has_are_asked_for(results, call):
    def elsewhere(document):
        document["spec"] |= {"dataset": "cifar10", "model": "resnet20"}
        document["spec"]["weights"] = {"source": "best.pt", "sha256": "1" * 64}
        document["spec"]["method"] = "threshold-balancing"
        document["spec"]["method_options"] = {}

    identity = rewrite(results, elsewhere)
    answer = call("leaderboard", "verify", identity, "--results", results)
    assert answer.code == 2
    assert "Its weights are best.pt, sha256 " + "1" * 64 in answer.err


def test_the_stored_record_cannot_answer_for_itself(results, finished, call):
    answer = call("leaderboard", "verify", finished.id, "--results", results, "--work", results)
    assert answer.code == 2 and "--work is the folder of the records" in answer.err


def test_an_unknown_id_is_a_usage_error(results, call):
    answer = call("leaderboard", "verify", "feed", "--results", results)
    assert answer.code == 2 and "no record 'feed'" in answer.err


def test_options_before_the_subcommand_are_refused(results, finished, call):
    answer = call("leaderboard", "--results", results, "verify", finished.id)
    assert answer.code == 2 and "stand behind its name" in answer.err


@pytest.mark.parametrize("name", sorted(RunSpec.model_fields))
def test_every_field_of_a_spec_is_asked_for_again(finished, name):
    """Whatever determines the result must be in the cell that is run, or come from the images and weights."""
    spec = load_record(finished.record_file).spec
    other = {
        "method": "srp",
        "method_options": {"levels": 8},
        "model": "vgg16",
        "timesteps": 5,
        "policies": (),
        "seed": 7,
        "precision": "fp64",
        "limit": 11,
        "calibration_size": 12,
        "preprocessing": {"divisor": 1.0},
        "dataset": "mnist",
    }
    if name in ("method_version", "dataset_fingerprint", "split", "weights"):  # not asked for, but compared
        assert name in RunSpec.model_fields and name not in other
        return
    assert getattr(cell_of(spec.model_copy(update={name: other[name]})), name) == other[name]


def test_a_slightly_different_latency_is_the_same_row(make_record):
    recorded = make_record()
    latency = recorded.policies[0].latency
    low, high = latency.ci95
    for mean, agrees in ((low, True), (high, True), (low - 0.01, False), (high + 0.01, False)):
        policy = recorded.policies[0].model_copy(update={"latency": latency.model_copy(update={"mean": mean})})
        found = comparisons(recorded, recorded.model_copy(update={"policies": (policy,)}))
        (one,) = [each for each in found if each.figure.endswith("latency")]
        assert one.agrees is agrees
        assert all(each.agrees for each in found if each is not one)
