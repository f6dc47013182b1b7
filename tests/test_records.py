"""The result record: what is written is what is read, bit for bit, and nothing wrong is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import record_document

from benchmark import records
from benchmark.errors import RecordError
from benchmark.records import SCHEMA, load_record, parse_record, upgrade
from benchmark.spec import RunSpec


def leaves(value, place=()):
    """Every number, string, flag and empty container of a JSON value with its place."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [leaf for key, part in inner for leaf in leaves(part, (*place, key))]
    return found or [(place, value)]


def objects(value, place=()):
    """The place of every JSON object."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    own = [place] if isinstance(value, dict) else []
    return own + [found for key, part in inner for found in objects(part, (*place, key))]


def changed(record, place, value):
    """The JSON of a record with one value replaced or added."""
    document = json.loads(record.to_json())
    *way, last = place
    target = document
    for key in way:
        target = target[key]
    target[last] = value
    return json.dumps(document)


def dotted(place):
    return ".".join(map(str, place))


# There and back


def test_a_full_record_comes_back_bit_for_bit(make_record):
    record = make_record()
    text = record.to_json()
    assert parse_record(text) == record
    assert parse_record(text).to_json() == text
    written = dict(leaves(json.loads(text)))
    for place, value in leaves(record_document()):
        if isinstance(value, float):
            assert float(written[place]).hex() == value.hex(), dotted(place)
        else:
            assert written[place] == value, dotted(place)


def test_the_document_of_these_tests_has_every_field(make_record):
    """Otherwise the test above would not notice a field that is lost."""
    document = json.loads(make_record().to_json())
    empty = {dotted(place) for place, value in leaves(document) if value in (None, [], {})}
    assert empty == {
        "reason",
        "traceback",
        "provenance.submit_sha",
        "provenance.slurm",
        "spec.calibration_size",
        "spec.preprocessing",
    }


def test_the_contract_names(make_record):
    """Field names that others read; they are fixed."""
    document = json.loads(make_record().to_json())
    promised = {
        (): "schema id status reason spec protocol ann curve static policies oracle measured reported provenance "
        "artifacts",
        ("spec",): "method method_options dataset split model weights timesteps seed precision limit",
        ("spec", "weights"): "source sha256",
        ("ann", "accuracy"): "value ci95 n",
        ("curve",): "timestep accuracy spikes_per_image synops_per_image",
        ("static",): "accuracy latency spikes_per_image synops_per_image macs_per_image energy",
        ("policies", 0): "name params selection accuracy latency spikes_per_image synops_per_image energy saving "
        "losers winners drop_upper95 guarantee exit_histogram",
        ("policies", 0, "latency"): "mean median p95 share_at_cap ci95",
        ("policies", 0, "saving"): "latency spikes synops",
        ("oracle",): "any_time_correct stable_correct consistency",
        ("oracle", "consistency"): "accuracy latency",
        ("measured",): "static_seconds dynamic_seconds speedup ideal_speedup device batch_size",
        ("reported",): "accuracy latency source",
        ("artifacts", 0): "path sha256",
        ("provenance",): "git_sha dirty diff_sha256 submit_sha versions device torch_flags seeds dataset_fingerprint "
        "slurm started phases",
    }
    for place, names in promised.items():
        found = document
        for key in place:
            found = found[key]
        assert not set(names.split()) - found.keys(), dotted(place)


def full(make_record, **changes):
    """A record whose policy has the fields that are left out where they say nothing."""
    policy = {**record_document()["policies"][0], **changes}
    return make_record(policies=[policy])


def test_the_share_of_the_gap_comes_back_bit_for_bit(make_record):
    record = full(make_record, gap_closed=0.1 + 0.2)
    assert json.loads(record.to_json())["policies"][0]["gap_closed"] == 0.1 + 0.2
    assert parse_record(record.to_json()) == record


def test_a_record_without_it_keeps_its_bytes(make_record):
    record = make_record()
    assert record.policies[0].gap_closed is None and record.policies[0].uncounted == ()
    written = json.loads(record.to_json())["policies"][0]
    assert written.keys() == record_document()["policies"][0].keys()


def test_a_record_of_a_run_has_counted_everything(make_record):
    with pytest.raises(ValueError, match="spikes or SynOps that were not counted"):
        full(make_record, uncounted=["spikes"])


# What is refused


FREE = {"energy", "params", "method_options", "options", "versions", "torch_flags", "seeds", "phases", "slurm"}


@pytest.mark.parametrize(
    "place",
    [place for place in objects(record_document()) if not FREE & set(place)],
    ids=lambda place: dotted(place) or "record",
)
def test_an_unknown_key_is_refused(make_record, place):
    text = changed(make_record(), (*place, "surprise"), 1)
    with pytest.raises(RecordError, match="surprise") as refused:
        parse_record(text, "a.json")
    assert str(refused.value).startswith("a.json: ")
    assert dotted((*place, "surprise")) in str(refused.value)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("policies", 0, "exit_histogram"), [3, 1, 1], "exit histogram holds 5 images, accuracy 6"),
        (("curve", "accuracy"), [0.1, 0.2], "columns of unequal length"),
        (("curve", "timestep"), [1, 2, 3, 4], "columns of unequal length"),
        (("curve", "spikes_per_image"), [], "columns of unequal length"),
        (("curve", "synops_per_image"), [1.0], "columns of unequal length"),
        (("ann",), None, "status ok without ann"),
        (("curve",), None, "status ok without curve"),
        (("static",), None, "status ok without static"),
        (("oracle",), None, "status ok without oracle"),
        (("status",), "failed", "status failed without a reason"),
        (("status",), "interrupted", "status interrupted without a reason"),
        (("status",), "done", "status"),
        (("id",), "0123456789ab", "id 0123456789ab does not belong to this spec"),
        (("spec", "timesteps"), 0, "spec.timesteps"),
        (("spec", "precision"), "fp8", "spec.precision"),
        (("static", "accuracy", "value"), float("nan"), "static.accuracy.value"),
        (("static", "latency"), float("inf"), "static.latency"),
        (("ann", "accuracy", "value"), "high", "ann.accuracy.value"),
    ],
    ids=lambda value: dotted(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_true_is_refused(make_record, place, value, said):
    with pytest.raises(RecordError, match=r"^a\.json: ") as refused:
        parse_record(changed(make_record(), place, value), "a.json")
    assert said in str(refused.value)


def test_a_failure_needs_no_numbers(make_record):
    nothing = dict.fromkeys(("ann", "curve", "static", "oracle", "measured", "reported"))
    record = make_record(status="failed", reason="boom", traceback="Traceback", policies=(), **nothing)
    assert parse_record(record.to_json()) == record


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"schema": 1', "not JSON"),
        (b"[]", "not a JSON object"),
        (b"1", "not a JSON object"),
        (b"\xff\xfe", "unreadable"),
        (b"{}", "no valid schema number (found None)"),
        (b'{"schema": "1"}', "no valid schema number (found '1')"),
        (b'{"schema": true}', "no valid schema number (found True)"),
        (b'{"schema": 1}', "Field required"),
    ],
)
def test_a_file_that_is_no_record_is_named(tmp_path, content, said):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(RecordError) as refused:
        load_record(path)
    assert str(refused.value).startswith(f"{path}: ") and said in str(refused.value)


def test_half_a_record_is_refused_wherever_it_ends(make_record):
    text = make_record().to_json().rstrip("\n")
    for end in range(0, len(text), 97):
        with pytest.raises(RecordError):
            parse_record(text[:end])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecordError, match="unreadable"):
        load_record(tmp_path / "none.json")


# Schemas


def test_a_newer_schema_says_so(make_record):
    with pytest.raises(RecordError, match=f"schema 99 is newer than this program's {SCHEMA}") as refused:
        parse_record(changed(make_record(), ("schema",), 99), "a.json")
    assert "a.json" in str(refused.value) and "Update the package" in str(refused.value)


def test_an_old_schema_without_a_way_up_says_so(make_record):
    with pytest.raises(RecordError, match="schema -1 is too old"):
        parse_record(changed(make_record(), ("schema",), -1))


def test_an_old_record_is_upgraded(make_record, monkeypatch):
    """Schema 0 stands for any old one: there `protocol` had another name."""

    def rename(document):
        rest = {key: value for key, value in document.items() if key != "rules"}
        return {**rest, "protocol": document["rules"], "schema": 1}

    record = make_record()
    old = json.loads(record.to_json()) | {"schema": 0, "rules": record.protocol}
    del old["protocol"]
    with pytest.raises(RecordError, match="too old"):
        parse_record(json.dumps(old))
    monkeypatch.setitem(records.UPGRADES, 0, rename)
    assert parse_record(json.dumps(old)) == record


def test_upgrades_are_chained_and_leave_the_document_alone():
    steps = {
        number: lambda document, number=number: {**document, "schema": number + 1, f"step{number}": True}
        for number in (0, 1, 2)
    }
    document = {"schema": 0}
    assert upgrade(document, steps, target=3) == {"schema": 3, "step0": True, "step1": True, "step2": True}
    assert document == {"schema": 0}
    assert upgrade({"schema": 2}, steps, target=3) == {"schema": 3, "step2": True}


# Ids


OTHER = {
    "method": "srp",
    "method_version": 2,
    "method_options": {"levels": 8, "threshold": 8.0},
    "dataset": "cifar10",
    "dataset_fingerprint": "test:9999 calibration:4567",
    "split": "validation",
    "model": "vgg16",
    "weights": {"source": "zoo:a", "sha256": "b" * 64},
    "timesteps": 4,
    "policies": [{"name": "fixed"}],
    "seed": 1,
    "precision": "fp64",
    "limit": 7,
    "calibration_size": 5,
    "preprocessing": {"divisor": 1.0, "mean": [0.0], "std": [1.0], "crop": 227},
}


def spec(**changes):
    return RunSpec.model_validate(record_document()["spec"] | changes)


def test_every_field_has_another_value_here():
    assert OTHER.keys() == RunSpec.model_fields.keys()


@pytest.mark.parametrize("name", OTHER)
def test_the_id_depends_on_what_determines_the_result(name):
    assert spec(**{name: OTHER[name]}).id != spec().id
    assert (spec(**{name: OTHER[name]}).recording_id == spec().recording_id) == (name == "policies")


@pytest.mark.parametrize(
    "policies",
    [
        [],
        [{"name": "dynamic-confidence"}],
        [{"name": "dynamic-confidence", "options": {"scale": 31.0}}],
        [{"name": "dynamic-confidence", "options": {"scale": 30.0}}, {"name": "fixed"}],
    ],
)
def test_the_id_depends_on_the_options_of_policies(policies):
    assert spec(policies=policies).id != spec().id


def test_the_id_does_not_depend_on_where_the_weights_lay_nor_on_the_order_of_options():
    moved = spec(weights={"source": "elsewhere.pt", "sha256": "a" * 64})
    assert moved.weights != spec().weights
    assert (moved.id, moved.recording_id) == (spec().id, spec().recording_id)
    assert spec(method_options={"threshold": 8.0, "levels": 4}).id == spec().id


def test_ids_stay_what_they_are():
    """A new field of RunSpec changes every id, and no stored record is valid any more: that takes a new schema."""
    assert (spec().id, spec().recording_id) == ("e0ed684e12b3", "445efe693c3d")


STORED = sorted((Path(__file__).parent / "records").glob("*.json"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_records_stay_readable(path):
    """Files as they once were written: the first record that was published, and one with every field that there is."""
    assert holds(json.loads(load_record(path).to_json()), json.loads(path.read_text()))


def holds(now, then):
    """Whether every value of `then` is in `now`; what came later may be there too."""
    if isinstance(then, dict):
        return all(name in now and holds(now[name], value) for name, value in then.items())
    if isinstance(then, list):
        return len(now) == len(then) and all(map(holds, now, then))
    return now == then


def test_every_schema_has_a_stored_record():
    assert {int(path.stem.split("-")[1]) for path in STORED} == set(range(1, SCHEMA + 1))


@pytest.mark.parametrize("number", ["true", "1.0", '"1"', "null"])
def test_only_a_whole_number_is_a_schema(make_record, number):
    text = make_record().to_json().replace('"schema": 1', f'"schema": {number}')
    with pytest.raises(RecordError, match="no valid schema number"):
        parse_record(text)


def test_a_record_without_a_schema_is_none(make_record):
    document = json.loads(make_record().to_json())
    del document["schema"]
    with pytest.raises(RecordError, match="no valid schema number"):
        parse_record(json.dumps(document))
