"""`leaderboard add`: records that others made, right ones and wrong ones."""

from __future__ import annotations

import json

import pytest

from benchmark.records import ResultRecord, load_record
from benchmark.spec import RunSpec


@pytest.fixture
def document(finished):
    return json.loads(finished.record_file.read_text())


@pytest.fixture
def add(call, tmp_path):
    def run(*documents, options=()):
        files = []
        for number, content in enumerate(documents):
            files.append(tmp_path / f"foreign-{number}.json")
            files[-1].write_text(content if isinstance(content, str) else json.dumps(content))
        return call("leaderboard", "add", *files, "--results", tmp_path / "results", *options)

    return run


def renamed(document):
    """With the id that its spec has now."""
    return {**document, "id": RunSpec.model_validate(document["spec"]).id}


def test_a_right_record_is_added_and_stands_on_the_page(add, call, document, finished, tmp_path):
    answer = add(document)
    assert answer.code == 0, answer.err
    (stored,) = (tmp_path / "results").rglob("*.json")
    assert stored.relative_to(tmp_path / "results") == finished.record_file.relative_to(finished.results)
    assert load_record(stored) == load_record(finished.record_file)
    assert "no other record has its protocol" in answer.err and "no rule with a guarantee" in answer.err
    page = tmp_path / "page.md"
    assert call("leaderboard", "--results", tmp_path / "results", "--output", page).code == 0
    assert f"`{finished.id}`" in page.read_text()
    again = add(document)
    assert again.code == 0, "the same record may be added again"


def test_a_dry_run_writes_nothing(add, document, tmp_path):
    answer = add(document, options=["--dry-run"])
    assert answer.code == 0 and "would write" in answer.err
    assert not (tmp_path / "results").exists()


def test_one_wrong_file_keeps_all_out(add, document, tmp_path):
    wrong = json.loads(json.dumps(document))
    wrong["static"]["spikes_per_image"] *= 2
    answer = add(document, wrong)
    assert answer.code == 1
    assert "foreign-1.json: static.spikes_per_image is not the end of the curve" in answer.err
    assert "nothing was added" in answer.err and not (tmp_path / "results").exists()


def change_protocol(document):
    document["protocol"] = document["protocol"].replace("test ", "test 1")


def change_words_of_the_protocol(document):
    document["protocol"] = "ours, better"


def change_the_dataset_of_the_protocol(document):
    document["protocol"] = document["protocol"].replace("digits", "mnist")


def change_fingerprint(document):
    document["spec"]["dataset_fingerprint"] = "test:0123 calibration:4567"


def change_provenance_fingerprint(document):
    document["provenance"]["dataset_fingerprint"] = "test:0123 calibration:4567"


def ask_for_another_rule(document):
    document["spec"]["policies"] = [{"name": "entropy", "options": {}}]


def say_another_selection(document):
    document["policies"][0]["selection"] = "ltt"


def promise_more_than_asked(document):
    document["policies"][0]["guarantee"] = {"epsilon": 0.001, "delta": 0.05, "risk": "accuracy drop"}


def hide_the_commit(document):
    document["provenance"]["git_sha"] = None


def name_a_path(document):
    document["spec"]["weights"]["source"] = "/home/me/best.pt"


def leave_the_folder(document):
    document["artifacts"][0]["path"] = "../../other/recording.json"


def fail(document):
    document |= {"status": "failed", "reason": "no luck"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_protocol, "test images, the figures"),
        (change_words_of_the_protocol, "is not written as a run writes it"),
        (change_the_dataset_of_the_protocol, "protocol names dataset 'mnist', the spec 'digits'"),
        (change_fingerprint, "protocol and spec have different fingerprints"),
        (change_provenance_fingerprint, "provenance and spec have different fingerprints"),
        (ask_for_another_rule, "the spec asks for the rules entropy, the record has dynamic-confidence"),
        (say_another_selection, "selection ltt, the spec asks for pareto"),
        (promise_more_than_asked, "the guarantee is not the one that the spec asks for"),
        (hide_the_commit, "no commit is named"),
        (name_a_path, "weights.source is a path of one machine"),
        (leave_the_folder, "is a path of one machine"),
        (fail, "its status is failed: no luck"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_a_record_claims_must_fit_together(add, document, tmp_path, change, said):
    change(document)
    answer = add(renamed(document))
    assert answer.code == 1 and said in answer.err, answer.err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"schema": 2}', "schema 2 is newer"),
        ('{"schema": 1}', "Field required"),
    ],
    ids=["half", "list", "newer", "empty"],
)
def test_what_is_no_record_is_named(add, content, said):
    answer = add(content)
    assert answer.code == 1 and "foreign-0.json" in answer.err and said in answer.err


def test_an_edited_spec_has_another_id(add, document):
    document["spec"]["seed"] += 1
    answer = add(document)
    assert answer.code == 1 and "does not belong to this spec" in answer.err


def test_other_figures_under_a_known_id_do_not_replace_it(add, document, tmp_path):
    assert add(document).code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.json")}
    document["provenance"]["device"] = "another machine"
    answer = add(document)
    assert answer.code == 1 and f"a record {document['id']} is there already" in answer.err
    assert before == {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.json")}


def test_what_a_reader_must_know_is_said(add, document):
    document["provenance"]["dirty"] = True
    document["spec"]["method"] = "our-own"
    answer = add(renamed(document))
    assert answer.code == 0
    assert "made with code that was changed" in answer.err and "'our-own' is not one of ours" in answer.err


def test_a_record_of_a_plugin_is_known_with_it(add, document, tmp_path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from benchmark import registry\nfrom methods.qcfs import QCFS\nregistry.register('methods', 'our-own', QCFS)\n"
    )
    document["spec"]["method"] = "our-own"
    record = ResultRecord.model_validate(renamed(document))
    answer = add(json.loads(record.to_json()), options=["--plugin", plugin])
    assert answer.code == 0, answer.err
    assert "is not one of ours" not in answer.err
